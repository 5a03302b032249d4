# SPDX-License-Identifier: Apache-2.0
"""Real speech, as live pieces."""

from pathlib import Path

import av
import numpy as np

import callsd_bench
from callsd_ipc.v1 import worker_pb2
from callsd_worker.media.decode import SAMPLE_RATE_HZ, AudioStream, Samples
from callsd_worker.media.opus import packet_samples


SAMPLE_CALL = Path(callsd_bench.__file__).parent / "sample_call"

MAYA_SECONDS = (18.2, 25.4)
"""When Maya says what follows."""
MAYA_TEXT = (
    "I will write to them today and explain what happened. "
    "Nina, please put that down as an action for me."
)


def decoded(speaker: str) -> Samples:
    """A speaker's whole track, holes filled with silence."""
    with AudioStream(SAMPLE_CALL / f"{speaker}.ogg") as stream:
        blocks = list(stream.blocks())
    track = np.zeros(blocks[-1].start_sample + blocks[-1].samples.size, dtype=np.float32)
    for block in blocks:
        track[block.start_sample : block.start_sample + block.samples.size] = block.samples
    return track


def cut(samples: Samples, seconds: tuple[float, float]) -> Samples:
    """A stretch of a track."""
    return samples[int(seconds[0] * SAMPLE_RATE_HZ) : int(seconds[1] * SAMPLE_RATE_HZ)]


def pcm_pieces(
    samples: Samples, *, track: int = 1, start_sample: int = 0, piece_samples: int = 1600
) -> list[worker_pb2.TrackAudio]:
    """Sound as s16le, 100 ms in each piece."""
    data = (np.clip(samples, -1, 1) * 32767).astype("<i2")
    return [
        worker_pb2.TrackAudio(
            track=track,
            sequence=number,
            start_sample=start_sample + first,
            data=data[first : first + piece_samples].tobytes(),
        )
        for number, first in enumerate(range(0, data.size, piece_samples), start=1)
    ]


def opus_pieces(
    speaker: str, seconds: tuple[float, float], *, track: int = 1
) -> list[worker_pb2.TrackAudio]:
    """A speaker's Opus packets in a stretch of the track, at their places."""
    pieces = []
    start_sample = 0
    with av.open(SAMPLE_CALL / f"{speaker}.ogg") as container:
        packets = [bytes(p) for p in container.demux(container.streams.audio[0]) if p.size]
    for number, packet in enumerate(packets, start=1):
        if seconds[0] <= start_sample / SAMPLE_RATE_HZ < seconds[1]:
            pieces.append(
                worker_pb2.TrackAudio(
                    track=track, sequence=number, start_sample=start_sample, data=packet
                )
            )
        start_sample += packet_samples(packet)
    return pieces
