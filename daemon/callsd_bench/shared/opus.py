# SPDX-License-Identifier: Apache-2.0
"""Sound as the Opus packets that clients of calls send."""

from collections.abc import Iterator, Mapping

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from callsd_worker.media.decode import SAMPLE_RATE_HZ


PACKET_SECONDS = 0.02
PACKET_SAMPLES = round(PACKET_SECONDS * SAMPLE_RATE_HZ)

_OPUS_RATE_HZ = 48_000


def opus_packets(
    samples: NDArray[np.int16], *, bit_rate: int, options: Mapping[str, str] | None = None
) -> list[bytes]:
    """Packets of 20 ms; `samples` are mono at 16 kHz, `options` further ones of the encoder."""
    encoder = av.CodecContext.create("libopus", "w")
    assert isinstance(encoder, AudioCodecContext)
    encoder.sample_rate = _OPUS_RATE_HZ
    encoder.layout = "mono"
    encoder.format = "s16"
    encoder.bit_rate = bit_rate
    encoder.options = {
        "application": "voip",
        "frame_duration": f"{1000 * PACKET_SECONDS:g}",
        **(options or {}),
    }
    count = -(-len(samples) // PACKET_SAMPLES)
    packets = [
        bytes(packet) for frame in (*_frames(samples), None) for packet in encoder.encode(frame)
    ]
    # The encoder ends with what its look-ahead of some milliseconds holds: nobody's sound.
    return packets[:count]


def _frames(samples: NDArray[np.int16]) -> Iterator[av.AudioFrame]:
    resampler = AudioResampler(
        format="s16",
        layout="mono",
        rate=_OPUS_RATE_HZ,
        frame_size=round(PACKET_SECONDS * _OPUS_RATE_HZ),
    )
    for begin in range(0, len(samples), SAMPLE_RATE_HZ):
        second = np.ascontiguousarray(samples[begin : begin + SAMPLE_RATE_HZ])
        frame = av.AudioFrame.from_ndarray(second.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE_HZ
        yield from resampler.resample(frame)
    yield from resampler.resample(None)
