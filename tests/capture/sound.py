# SPDX-License-Identifier: Apache-2.0
"""Sound whose place can be found again: packets of Opus with clicks in them."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from callsd_worker.media.decode import SAMPLE_RATE_HZ, AudioStream, Samples


PACKET_SAMPLES = 960
CLICK_PACKETS = 25
"""A click in the middle of every 25th packet: twice a second."""

Sound = npt.NDArray[np.int16]


def clicking(packets: int) -> Sound:
    """Sound of so many packets at 48 kHz: silence, and clicks."""
    samples = np.zeros(packets * PACKET_SAMPLES, dtype=np.int16)
    for number in range(0, packets, CLICK_PACKETS):
        middle = number * PACKET_SAMPLES + PACKET_SAMPLES // 2
        burst = 20_000 * np.sin(np.arange(96) * 2 * np.pi * 3000 / 48_000)
        samples[middle : middle + 96] = burst.astype(np.int16)
    return samples


def encoded(sound: Sound, *, milliseconds: float = 20, **options: str) -> list[bytes]:
    """Opus packets of sound at 48 kHz."""
    coder = av.AudioCodecContext.create("libopus", "w")
    channels = 1 if sound.ndim == 1 else sound.shape[1]
    coder.sample_rate, coder.layout, coder.format = 48_000, ("mono", "stereo")[channels - 1], "s16"
    coder.time_base = Fraction(1, 48_000)
    coder.options = {"frame_duration": str(milliseconds), **options}
    coder.open()
    size = round(48 * milliseconds)
    packets = []
    for first in range(0, len(sound) - size + 1, size):
        part = np.ascontiguousarray(sound[first : first + size]).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(part, format="s16", layout=coder.layout.name)
        frame.sample_rate, frame.pts = 48_000, first
        packets += [bytes(packet) for packet in coder.encode(frame)]
    return packets


def clicks(packets: int) -> list[bytes]:
    """Packets of 20 ms with clicks."""
    return encoded(clicking(packets))


def decoded(path: Path) -> Samples:
    """A whole file at 16 kHz, holes filled with silence."""
    with AudioStream(path) as stream:
        blocks = list(stream.blocks())
        assert stream.notices == []
    sound = np.zeros(blocks[-1].start_sample + blocks[-1].samples.size, dtype=np.float32)
    for block in blocks:
        sound[block.start_sample : block.start_sample + block.samples.size] = block.samples
    return sound


def click_seconds(sound: Sequence[float] | Samples, rate_hz: int = SAMPLE_RATE_HZ) -> list[float]:
    """Where clicks begin."""
    loud = np.flatnonzero(np.abs(np.asarray(sound)) > 0.1)
    begins = loud[np.flatnonzero(np.diff(loud, prepend=-rate_hz) > rate_hz // 10)]
    return [float(begin) / rate_hz for begin in begins]
