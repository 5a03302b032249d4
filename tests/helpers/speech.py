# SPDX-License-Identifier: Apache-2.0
"""Real speech as live sound: numbered pieces of the sample call, and what is made of it."""

import functools
from collections.abc import Iterable, Iterator
from datetime import timedelta

import jiwer
import numpy as np
import numpy.typing as npt
from google.protobuf.duration_pb2 import Duration
from whisper_normalizer.english import EnglishTextNormalizer

from callsd.v1.caption_pb2 import AudioBatch, AudioChunk, StreamCaptionsRequest
from callsd_worker.media.decode import SAMPLE_RATE_HZ
from tests.captioner.sound import decoded, opus_pieces


CHUNK_SAMPLES = SAMPLE_RATE_HZ // 10
MAX_BATCH_BYTES = 500 * 1024
MAX_BATCH_CHUNKS = 1000

Pcm = npt.NDArray[np.int16]

_normalise = EnglishTextNormalizer()


@functools.cache
def track(speaker: str) -> Pcm:
    """A speaker of the sample call as s16le, holes filled with silence."""
    return (np.clip(decoded(speaker), -1, 1) * 32767).astype("<i2")


def speech(speaker: str, begin_seconds: float, end_seconds: float) -> Pcm:
    """A stretch of what a speaker of the sample call says."""
    return track(speaker)[round(begin_seconds * 16_000) : round(end_seconds * 16_000)]


def errors(said: str, heard: str) -> int:
    """Words that are wrong, missing or too many."""
    outcome = jiwer.process_words(_normalise(said), _normalise(heard) or "-")
    return outcome.substitutions + outcome.deletions + outcome.insertions


def offset(samples: int) -> Duration:
    """A position in the call."""
    found = Duration()
    found.FromNanoseconds(samples * 62_500)
    return found


def seconds(duration: Duration) -> float:
    """A position or length in the API."""
    return duration.ToTimedelta() / timedelta(seconds=1)


def audio(speaker: str = "ada", sequence: int = 1, **fields: object) -> StreamCaptionsRequest:
    """A message of 100 ms of silence, but for `fields`."""
    chunk = {"start_offset": Duration(), "data": bytes(2 * CHUNK_SAMPLES), **fields}
    return StreamCaptionsRequest(
        audio=AudioChunk(speaker=speaker, sequence=sequence, **chunk)  # type: ignore[arg-type]
    )


def chunks(
    speaker: str,
    samples: Pcm,
    *,
    start_sample: int = 0,
    first_sequence: int = 1,
    chunk_samples: int = CHUNK_SAMPLES,
) -> list[AudioChunk]:
    """Sound in numbered pieces."""
    return [
        AudioChunk(
            speaker=speaker,
            sequence=first_sequence + index,
            start_offset=offset(start_sample + first),
            data=samples[first : first + chunk_samples].tobytes(),
        )
        for index, first in enumerate(range(0, samples.size, chunk_samples))
    ]


def opus_chunks(speaker: str, stretch_seconds: tuple[float, float]) -> list[AudioChunk]:
    """A speaker's own packets in numbered pieces, from the start of the call on."""
    pieces = opus_pieces(speaker, stretch_seconds)
    return [
        AudioChunk(
            speaker=speaker,
            sequence=number,
            start_offset=offset(piece.start_sample - pieces[0].start_sample),
            data=piece.data,
        )
        for number, piece in enumerate(pieces, start=1)
    ]


def batches(pieces: Iterable[AudioChunk]) -> Iterator[AudioBatch]:
    """As many pieces in each message as it may have."""
    batch, size = AudioBatch(), 0
    for piece in pieces:
        if size + len(piece.data) > MAX_BATCH_BYTES or len(batch.chunks) == MAX_BATCH_CHUNKS:
            yield batch
            batch, size = AudioBatch(), 0
        batch.chunks.append(piece)
        size += len(piece.data)
    yield batch
