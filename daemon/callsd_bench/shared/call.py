# SPDX-License-Identifier: Apache-2.0
"""Calls to measure on: a directory with `turns.json` and one mono track per speaker.

`turns.json` is a list of turns, or an object with such a list under "turns"; a turn is
{"speaker", "start", "end" (seconds from the start of the tracks), "text"}.
A track is named for its speaker: `<speaker>.flac`, `.wav`, `.ogg` or `.opus`.
"""

import csv
import json
import math
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callsd_bench.shared.errors import BenchError
from callsd_worker.media.decode import SAMPLE_RATE_HZ, AudioStream, MediaError


SAMPLE_CALL = Path(__file__).parents[1] / "sample_call"

TRACK_SUFFIXES = (".flac", ".wav", ".ogg", ".opus")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one speaker says in one go."""

    speaker: str
    start_seconds: float
    end_seconds: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTrack:
    """One speaker's audio file."""

    speaker: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call with its reference; `turns` are in order of start."""

    name: str
    duration_seconds: float
    tracks: tuple[CallTrack, ...]
    turns: tuple[Turn, ...]


def load_call(directory: Path) -> Call:
    """Read a call directory. BenchError: what is missing or malformed in it."""
    path = directory / "turns.json"
    try:
        document = json.loads(path.read_bytes())
        items = document["turns"] if isinstance(document, dict) else document
        turns = tuple(sorted(map(_turn, items), key=lambda turn: turn.start_seconds))
        named = document.get("speakers", ()) if isinstance(document, dict) else ()
        speakers = sorted({turn.speaker for turn in turns} | {str(name) for name in named})
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(
            f"{path} is not a list of turns: {type(error).__name__} {error}"
        ) from error
    if not turns:
        raise BenchError(f"{path} holds no turns: there is nothing to measure")
    tracks = tuple(
        CallTrack(speaker=speaker, path=_track(directory, speaker)) for speaker in speakers
    )
    return Call(
        name=directory.resolve().name,
        duration_seconds=max(_duration_seconds(track.path) for track in tracks),
        tracks=tracks,
        turns=turns,
    )


def cut_call(call: Call, *, seconds: float, directory: Path) -> Call:
    """The first `seconds` of a call, its tracks as WAV files in `directory`.

    Only turns that end in time are kept; of one that does not, no word is heard either, so that
    nothing is said that the reference lacks.
    """
    if seconds >= call.duration_seconds:
        return call
    turns = tuple(turn for turn in call.turns if turn.end_seconds <= seconds)
    if not turns:
        raise BenchError(f"no turn of {call.name} ends within {seconds:g} s: take more seconds")
    tracks = []
    for track in call.tracks:
        later = (
            turn.start_seconds
            for turn in call.turns
            if turn.speaker == track.speaker and turn.end_seconds > seconds
        )
        path = directory / f"{track.speaker}.wav"
        _write_beginning(track.path, path, seconds=seconds, audible_seconds=min([seconds, *later]))
        tracks.append(replace(track, path=path))
    return replace(call, duration_seconds=seconds, tracks=tuple(tracks), turns=turns)


def load_clips(directory: Path) -> tuple[Call, ...]:
    """Each clip of a directory as a call of one speaker.

    `transcripts.tsv` has at least the columns `file` and `transcript`. With a column `speaker`
    several clips may be of one speaker; without, each is of somebody else.
    """
    path = directory / "transcripts.tsv"
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        clips = tuple(
            _clip(directory, row["file"], row["transcript"], speaker=row.get("speaker"))
            for row in rows
        )
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}") from error
    except (KeyError, ValueError) as error:
        raise BenchError(f"{path} has no usable columns 'file' and 'transcript'") from error
    if not clips:
        raise BenchError(f"{path} lists no clips: there is nothing to measure")
    return clips


def _clip(directory: Path, file: str, transcript: str, *, speaker: str | None) -> Call:
    path = directory / file
    speaker = speaker or path.stem
    duration_seconds = _duration_seconds(path)
    turn = Turn(speaker=speaker, start_seconds=0, end_seconds=duration_seconds, text=transcript)
    return Call(
        name=file,
        duration_seconds=duration_seconds,
        tracks=(CallTrack(speaker=speaker, path=path),),
        turns=(turn,),
    )


def _turn(item: dict[str, Any]) -> Turn:
    return Turn(
        speaker=str(item["speaker"]),
        start_seconds=float(item["start"]),
        end_seconds=float(item["end"]),
        text=str(item["text"]),
    )


def _track(directory: Path, speaker: str) -> Path:
    for suffix in TRACK_SUFFIXES:
        path = directory / f"{speaker}{suffix}"
        if path.parent == directory and path.is_file():
            return path
    raise BenchError(f"{directory} has no track {speaker}{{{','.join(TRACK_SUFFIXES)}}}")


def _duration_seconds(path: Path) -> float:
    try:
        with AudioStream(path) as stream:
            if stream.declared_seconds > 0:
                return stream.declared_seconds
            for _ in stream.blocks():
                pass
            return stream.position_seconds
    except MediaError as error:
        raise BenchError(f"{path}: {error}") from error


def read_beginning(
    path: Path, *, seconds: float, audible_seconds: float = math.inf
) -> NDArray[np.int16]:
    """The first `seconds` of a track at 16 kHz, silent after `audible_seconds` and its end.

    BenchError: it cannot be decoded.
    """
    total = round(seconds * SAMPLE_RATE_HZ)
    audible = round(min(seconds, audible_seconds) * SAMPLE_RATE_HZ)
    samples = np.zeros(total, np.int16)
    try:
        with AudioStream(path) as stream:
            for start, block in _blocks_before(stream, audible):
                samples[start : start + len(block)] = np.rint(block * 32767)
    except MediaError as error:
        raise BenchError(f"{path}: {error}") from error
    return samples


def _write_beginning(
    source: Path, destination: Path, *, seconds: float, audible_seconds: float
) -> None:
    samples = read_beginning(source, seconds=seconds, audible_seconds=audible_seconds)
    write_wav(destination, samples)


def write_wav(path: Path, samples: NDArray[np.int16]) -> None:
    """Write a track: mono at 16 kHz."""
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, SAMPLE_RATE_HZ, len(samples), "NONE", ""))
        out.writeframes(samples.astype("<i2").tobytes())


def _blocks_before(
    stream: AudioStream, end_sample: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    for block in stream.blocks():
        if block.start_sample >= end_sample:
            return
        yield block.start_sample, block.samples[: end_sample - block.start_sample]


def total_seconds(calls: Sequence[Call]) -> float:
    """Length of all calls together."""
    return sum(call.duration_seconds for call in calls)
