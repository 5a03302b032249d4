# SPDX-License-Identifier: Apache-2.0
"""The pieces of one recording, as they lie on the disk.

Each piece's name says when it began, so that whoever finds them can put them together: a later
worker, after this one was killed or the machine was switched off.
"""

import contextlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path


PIECES = "pieces"
"""Where in the job's directory they lie."""

_NAME = re.compile(r"(\d{4})-(\d{13})\.mkv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One piece. `start_seconds` is wall-clock time."""

    number: int
    start_seconds: float
    path: Path


def next_piece(directory: Path) -> Piece:
    """A piece that begins now."""
    number = max((piece.number for piece in find_pieces(directory)), default=0) + 1
    now = time.time()
    folder = directory / PIECES
    folder.mkdir(exist_ok=True)
    return Piece(
        number=number,
        start_seconds=now,
        path=folder / f"{number:04d}-{round(now * 1000):013d}.mkv",
    )


def find_pieces(directory: Path) -> list[Piece]:
    """All pieces of a job, in order."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in sorted((directory / PIECES).iterdir()):
            if (match := _NAME.fullmatch(path.name)) is not None:
                start_seconds = int(match[2]) / 1000
                found.append(Piece(number=int(match[1]), start_seconds=start_seconds, path=path))
    return found


def keep(path: Path) -> None:
    """Have the disk keep what a file holds so far: after a power cut it is still there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
