# SPDX-License-Identifier: Apache-2.0
"""The pieces of one recording as files.

The name of a piece has the time at which it began, so that a later worker can join them, after this
one was killed or the machine was switched off.
"""

import contextlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from callsd_ipc.names import PIECES


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
    """All pieces in a worker's directory, in order."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in sorted((directory / PIECES).iterdir()):
            if (match := _NAME.fullmatch(path.name)) is not None:
                start_seconds = int(match[2]) / 1000
                found.append(Piece(number=int(match[1]), start_seconds=start_seconds, path=path))
    return found


def keep(path: Path) -> None:
    """Sync the content of a file, so that it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
