# SPDX-License-Identifier: Apache-2.0
"""Sound as the Opus packets that a browser would send, encoded once."""

import functools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt


RATE_HZ = 48_000
SAMPLES = 960
"""In a packet: 20 ms."""

SILENCE = b"\xf8\xff\xfe"
"""20 ms of nothing, for those who are unmuted and say nothing."""

Pcm = npt.NDArray[np.int16]
"""Samples, or rows of left and right."""

Sound = Path | Sequence[bytes]
"""A file (WAV, FLAC, …, any rate), or packets of 20 ms."""


@functools.lru_cache(maxsize=64)
def _of_file(path: Path, modified_ns: int, bit_rate: int) -> tuple[bytes, ...]:
    with av.open(str(path)) as source:
        stream = source.streams.audio[0]
        layout = "mono" if stream.codec_context.channels == 1 else "stereo"
        frames = list(source.decode(stream))
    return tuple(_encoded(frames, layout, bit_rate))


def of_sound(sound: Sound, *, bit_rate: int = 32_000) -> Sequence[bytes]:
    """The packets of a sound; a file is encoded once as long as it does not change."""
    if isinstance(sound, Path):
        return _of_file(sound, sound.stat().st_mtime_ns, bit_rate)
    return sound


def of_pcm(samples: Pcm, *, rate_hz: int = RATE_HZ, bit_rate: int = 32_000) -> list[bytes]:
    """The packets of samples."""
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    layout = "mono" if channels == 1 else "stereo"
    flat = np.ascontiguousarray(samples, dtype=np.int16).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(flat, format="s16", layout=layout)
    frame.sample_rate = rate_hz
    return _encoded([frame], layout, bit_rate)


def _encoded(frames: Sequence[av.AudioFrame], layout: str, bit_rate: int) -> list[bytes]:
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate = RATE_HZ
    encoder.layout = layout
    encoder.format = "s16"
    encoder.bit_rate = bit_rate
    encoder.time_base = Fraction(1, RATE_HZ)
    encoder.options = {
        "application": "voip",
        "frame_duration": "20",
        "fec": "1",
        "packet_loss": "5",
    }
    resampler = av.AudioResampler(format="s16", layout=layout, rate=RATE_HZ, frame_size=SAMPLES)
    packets = []
    for frame in [*frames, None]:
        if frame is not None:
            frame.pts = None
        for ready in resampler.resample(frame):
            if ready.samples == SAMPLES:  # the rest at the end is shorter than a packet
                packets += [bytes(packet) for packet in encoder.encode(ready)]
    packets += [bytes(packet) for packet in encoder.encode(None)]
    return packets
