# SPDX-License-Identifier: Apache-2.0
"""What people write on the command line: labels, tracks, offsets, lengths of time."""

import contextlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click


AUDIO_SUFFIXES = (".flac", ".wav", ".ogg", ".opus")
"""Files of a call directory that are tracks."""

MAX_TURNS_BYTES = 16 << 20


class _File(click.Path):
    """A file, which may be missing still. Of a pipe nobody knows when something comes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path: Path = super().convert(value, param, ctx)  # type: ignore[assignment] # path_type
        with contextlib.suppress(OSError):  # whoever opens it says what is wrong
            if path.exists() and not path.is_file():
                self.fail(f"{path} is not a file", param, ctx)
        return path


FILE = _File(path_type=Path, dir_okay=False)

INT32 = click.IntRange(0, 2**31 - 1)
"""What a field can hold; which values make sense the server says."""

_OFFSET = re.compile(r"(?:(?:(\d{1,9}):)?(\d{1,9}):)?(\d{1,9}(?:\.\d+)?)s?")
_HEADER = re.compile(r"([^:=\s]+)\s*[:=]\s*(.*)")
_SPAN = re.compile(r"(\d{1,9})\s*(s|min|m|h|d)?")
_SPAN_SECONDS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackFile:
    """One speaker's sound in a file on this machine."""

    speaker: str
    path: Path
    start_offset_seconds: float = 0.0


def parse_labels(texts: Iterable[str]) -> dict[str, str]:
    """`k=v` each."""
    labels = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise click.BadParameter(f"{text!r}: expected KEY=VALUE", param_hint="--label")
        labels[key] = value
    return labels


def parse_headers(texts: Iterable[str]) -> dict[str, str]:
    """`Name=value` or `Name: value` each; what is wrong with one is told without its value."""
    headers = {}
    for text in texts:
        match = _HEADER.fullmatch(text.strip())
        if match is None:
            raise click.BadParameter("expected NAME=VALUE", param_hint="--header")
        headers[match[1]] = match[2]
    return headers


def parse_track(text: str) -> TrackFile:
    """`SPEAKER=FILE[@OFFSET]`; a file whose own name ends like an offset goes before an offset."""
    speaker, separator, rest = text.partition("=")
    if not separator or not speaker or not rest:
        raise click.BadParameter(
            f"{text!r}: expected SPEAKER=FILE or SPEAKER=FILE@OFFSET", param_hint="--track"
        )
    path, at, offset = rest.rpartition("@")
    if at and not _is_file(Path(rest)) and (match := _OFFSET.fullmatch(offset)):
        hours, minutes, seconds = (float(part or 0) for part in match.groups())
        return TrackFile(
            speaker=speaker,
            path=_existing(Path(path)),
            start_offset_seconds=hours * 3600 + minutes * 60 + seconds,
        )
    return TrackFile(speaker=speaker, path=_existing(Path(rest)))


def call_tracks(directory: Path) -> list[TrackFile]:
    """The tracks of a call directory: `turns.json` and `<speaker>.flac|wav|ogg|opus`.

    In the order in which `turns.json` names the speakers (its `speakers`, or those of its turns, as
    for `callsd bench`); files it does not name are left out.
    """
    turns = directory / "turns.json"
    if turns.is_fifo():
        raise click.BadParameter(f"{turns}: not a file", param_hint="--call")
    try:
        with turns.open("rb") as file:
            speakers = _speakers(json.loads(file.read(MAX_TURNS_BYTES)))
    except OSError as error:
        raise click.BadParameter(f"{turns}: {error.strerror}", param_hint="--call") from None
    except (ValueError, KeyError, TypeError):
        raise click.BadParameter(
            f"{turns}: expected a list of turns, or an object with `speakers` or `turns`",
            param_hint="--call",
        ) from None
    tracks = []
    for speaker in speakers:
        found = [
            path
            for suffix in AUDIO_SUFFIXES
            if (path := directory / f"{speaker}{suffix}").is_file()
        ]
        if not found:
            raise click.BadParameter(
                f"{directory}: no {speaker}.flac, .wav, .ogg or .opus", param_hint="--call"
            )
        tracks.append(TrackFile(speaker=speaker, path=found[0]))
    return tracks


def _speakers(document: Any) -> list[str]:
    """Who is named in a `turns.json`; raises ValueError, KeyError or TypeError."""
    if isinstance(document, dict) and "speakers" in document:
        named = document["speakers"]
    else:
        turns = document["turns"] if isinstance(document, dict) else document
        named = [turn["speaker"] for turn in turns]
    if not named:
        raise ValueError("names nobody")
    return list(dict.fromkeys(named))


def parse_span(text: str) -> float:
    """Seconds of a length of time such as 90s, 15min, 12h, 30d; of a bare number, seconds."""
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise click.BadParameter(f"{text!r}: expected a length such as 90s, 15min, 12h or 30d")
    return float(int(match[1]) * _SPAN_SECONDS[match[2] or "s"])


def _existing(path: Path) -> Path:
    if not _is_file(path):
        raise click.BadParameter(f"{path}: no such file", param_hint="--track")
    return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False
