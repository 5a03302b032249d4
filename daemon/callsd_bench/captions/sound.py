# SPDX-License-Identifier: Apache-2.0
"""A call's sound, made ready to be played: nothing is decoded or encoded while the clock runs."""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from callsd.v1.caption_pb2 import (
    SPEAKER_EVENT_TYPE_LEFT,
    AudioBatch,
    AudioChunk,
    SpeakerEvent,
    StreamCaptionsRequest,
)
from callsd_bench.captions.figures import SLICE, SLICE_SECONDS, Slices
from callsd_bench.captions.records import write_record
from callsd_bench.shared.call import Call, read_beginning
from callsd_bench.shared.opus import PACKET_SECONDS, opus_packets
from callsd_worker.media.decode import SAMPLE_RATE_HZ


SEND_SECONDS = 0.1
"""What is gathered to one message."""

OPUS_BIT_RATE = 24_000
"""Per speaker; what clients of calls use for speech."""

QUIET_RATIO = 0.01
"""A slice at the edge of a turn that is 40 dB below the loudest one of it is no speech: the times
of turns are seldom as exact as a slice is long."""

_SLICE_SAMPLES = round(SLICE_SECONDS * SAMPLE_RATE_HZ)

Sound = NDArray[np.int16]
"""Mono at 16 kHz, from the start of the call."""


class Encoding(StrEnum):
    """How sound travels."""

    S16LE = "s16le"
    OPUS = "opus"


def read_sound(call: Call) -> dict[str, Sound]:
    """All tracks, each as long as the call. BenchError: one cannot be decoded."""
    return {
        track.speaker: read_beginning(track.path, seconds=call.duration_seconds)
        for track in call.tracks
    }


def speech_slices(call: Call, sound: Mapping[str, Sound]) -> dict[str, Slices]:
    """What each speaker says, in slices; the turns of the call without their quiet edges."""
    slices: dict[str, list[tuple[float, int]]] = {speaker: [] for speaker in sound}
    for number, turn in enumerate(call.turns):
        start = round(turn.start_seconds * SAMPLE_RATE_HZ)
        said = sound[turn.speaker][start : round(turn.end_seconds * SAMPLE_RATE_HZ)]
        count = len(said) // _SLICE_SAMPLES
        pieces = said[: count * _SLICE_SAMPLES].reshape(count, _SLICE_SAMPLES).astype(np.float32)
        loudness = np.sqrt(np.mean(pieces**2, axis=1))
        audible = np.flatnonzero(loudness > QUIET_RATIO * loudness.max(initial=0.0))
        if len(audible):
            slices[turn.speaker] += [
                (turn.start_seconds + (index + 1) * SLICE_SECONDS, number)
                for index in range(audible[0], audible[-1] + 1)
            ]
    return {speaker: np.array(sorted(parts), SLICE) for speaker, parts in slices.items()}


def write_score(sound: Mapping[str, Sound], *, encoding: Encoding, path: Path) -> int:
    """Write the messages that play a call, except the config; returns how many have sound.

    There is one for each `SEND_SECONDS`; those behind them say that the speakers have left.
    """
    chunks_of: dict[Encoding, Callable[[Sound], Sequence[bytes]]] = {
        Encoding.S16LE: _pcm_chunks,
        Encoding.OPUS: partial(opus_packets, bit_rate=OPUS_BIT_RATE),
    }
    tracks = {speaker: chunks_of[encoding](samples) for speaker, samples in sound.items()}
    chunk_seconds = PACKET_SECONDS if encoding is Encoding.OPUS else SEND_SECONDS
    per_message = round(SEND_SECONDS / chunk_seconds)
    begins = range(0, max(map(len, tracks.values())), per_message)
    with path.open("wb") as file:
        for begin in begins:
            batch = AudioBatch(
                chunks=[
                    _chunk(speaker, number, chunks[number], chunk_seconds)
                    for speaker, chunks in tracks.items()
                    for number in range(begin, min(begin + per_message, len(chunks)))
                ]
            )
            write_record(file, StreamCaptionsRequest(batch=batch).SerializeToString())
        for speaker, samples in sound.items():
            event = SpeakerEvent(speaker=speaker, type=SPEAKER_EVENT_TYPE_LEFT)
            event.offset.FromMilliseconds(round(1000 * len(samples) / SAMPLE_RATE_HZ))
            write_record(file, StreamCaptionsRequest(event=event).SerializeToString())
    return len(begins)


def _chunk(speaker: str, number: int, data: bytes, seconds: float) -> AudioChunk:
    chunk = AudioChunk(speaker=speaker, sequence=number + 1, data=data)
    chunk.start_offset.FromMilliseconds(round(1000 * number * seconds))
    return chunk


def _pcm_chunks(samples: Sound) -> list[bytes]:
    length = round(SEND_SECONDS * SAMPLE_RATE_HZ)
    return [
        samples[begin : begin + length].astype("<i2").tobytes()
        for begin in range(0, len(samples), length)
    ]
