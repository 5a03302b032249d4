# SPDX-License-Identifier: Apache-2.0
"""The sound of a call on this machine, as plain samples: a directory, a file, or stdin.

Files are decoded by a process of the worker package: this one holds no media library.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import click

from callsd_daemon.cli.shared.exit import Problem
from callsd_daemon.cli.shared.params import AUDIO_SUFFIXES, TrackFile, call_tracks


BYTES_PER_SECOND = 32_000
"""16 kHz, one channel, 16 bit."""

SOUND_SUFFIXES = (*AUDIO_SUFFIXES, ".aac", ".m4a", ".mka", ".mp3", ".mp4", ".oga", ".webm")
"""Files of a directory without turns.json that are taken for sound."""

DECODER = "callsd_worker.media.pcm"

STDIN = "-"

# A decoder that was told to end, or that nobody reads any more, has nothing left to do.
_END_SECONDS = 5.0


class Source(Protocol):
    """One speaker's sound."""

    speaker: str
    seconds: float
    """How long it claims to be; 0 if nobody knows."""
    is_live: bool
    """Whether it may come as slowly as it is spoken."""

    def read(self, size_bytes: int) -> bytes:
        """So many bytes of s16le; fewer at the end, none behind it."""


class FileSource:
    """A file, decoded by another process as it is read."""

    is_live = False

    def __init__(self, track: TrackFile) -> None:
        self.speaker = track.speaker
        self._path = track.path
        self._process = subprocess.Popen(
            [sys.executable, "-m", DECODER, str(track.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Ctrl-C is ours to handle: what was sent is ended in order.
            start_new_session=True,
        )
        try:
            self.seconds = float(self._told().get("seconds", 0.0))
        except BaseException:
            self.close()
            raise

    def read(self, size_bytes: int) -> bytes:
        """As `Source`; raises `Problem` when the file cannot be decoded."""
        data = _pipe(self._process.stdout).read(size_bytes)
        if len(data) < size_bytes and self._process.wait(_END_SECONDS):
            raise self._problem(self._told())
        return data

    def close(self) -> None:
        """End the decoder."""
        self._process.kill()
        self._process.wait(_END_SECONDS)
        for pipe in (self._process.stdout, self._process.stderr):
            _pipe(pipe).close()

    def _told(self) -> dict[str, Any]:
        """The next thing that the decoder says of the file, besides notices."""
        for line in _pipe(self._process.stderr):
            try:
                told: dict[str, Any] = json.loads(line)
            except ValueError:
                told = {"error": f"the decoder broke: {line.decode(errors='replace').strip()}"}
            if "error" in told:
                raise self._problem(told)
            if "notice" in told:
                click.echo(f"notice: {self._path}: {told['notice']}", err=True)
                continue
            return told
        raise self._problem({})

    def _problem(self, told: dict[str, Any]) -> Problem:
        return Problem(
            f"{self._path}: {told.get('error', 'the decoder died')}", reason="INPUT_INVALID"
        )


@dataclass(slots=True, kw_only=True)
class PipeSource:
    """Samples from a pipe, as they come."""

    speaker: str
    pipe: IO[bytes]
    seconds: float = 0.0
    is_live: bool = True

    def read(self, size_bytes: int) -> bytes:
        """As `Source`."""
        data = self.pipe.read(size_bytes)
        return data[: len(data) // 2 * 2]


@contextmanager
def opened(call: str, *, speaker: str | None) -> Iterator[list[Source]]:
    """The speakers of a directory, of a file, or of stdin (`-`): raw s16le, 16 kHz, mono.

    Raises:
        Problem: A file cannot be decoded.
    """
    if call == STDIN:
        if sys.stdin.isatty():
            raise click.UsageError("stdin is a terminal: pipe raw s16le, 16 kHz, mono into it")
        yield [PipeSource(speaker=speaker or "stdin", pipe=sys.stdin.buffer)]
        return
    with ExitStack() as stack:
        sources: list[Source] = []
        for track in _tracks(Path(call), speaker=speaker):
            source = FileSource(track)
            stack.callback(source.close)
            sources.append(source)
        yield sources


def _tracks(path: Path, *, speaker: str | None) -> list[TrackFile]:
    if path.is_file():
        return [TrackFile(speaker=speaker or path.stem, path=path)]
    if not path.is_dir():
        raise click.BadParameter(f"{path}: no such file or directory", param_hint="--call")
    if speaker:
        raise click.UsageError("--speaker names the one speaker of a file or of stdin")
    if (path / "turns.json").exists():
        return call_tracks(path)
    tracks = [
        TrackFile(speaker=one.stem, path=one)
        for one in sorted(path.iterdir())
        if one.suffix.lower() in SOUND_SUFFIXES and one.is_file()
    ]
    if not tracks:
        raise click.BadParameter(
            f"{path}: no sound in it; expected one file for each speaker", param_hint="--call"
        )
    return tracks


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
