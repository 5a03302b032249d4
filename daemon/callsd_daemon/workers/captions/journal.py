# SPDX-License-Identifier: Apache-2.0
"""The journal of a call: one line of JSON for each final caption or position.

A line is in the page cache before the caption is published, so that it outlives this process. It is
on the disk a second later.
"""

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

import msgspec

from callsd_daemon.domain.captions import Words


FILE = "captions.jsonl"


class Position(msgspec.Struct, frozen=True, kw_only=True, tag="position"):
    """How much of a speaker's audio is processed."""

    speaker: str
    display_name: str
    processed_sample: int
    processed_sequence: int
    received_samples: int
    skipped_samples: int


class Final(msgspec.Struct, frozen=True, kw_only=True, tag="final"):
    """A final caption, and the position that goes with it."""

    sequence: int
    position: Position
    words: Words
    engine: str = ""
    """The engine that recognised it; empty if that was not known yet."""


Entry = Position | Final

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


class Journal:
    """The file of one call. Written by one process, whole lines at a time."""

    def __init__(self, directory: Path) -> None:
        """Open or create the file; an incomplete last line is cut off."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = directory / FILE
        self._offsets = array("Q")
        """Where in the file each final caption begins."""
        self._end = 0
        self._is_dirty = False
        self._waiting: list[Entry] = []
        self.positions: dict[str, Position] = {}
        """The last position of each speaker."""
        self.engine = ""
        """That of the last final caption that names one."""
        for offset, line, end in _lines(self._path):
            self._remember(line, offset)
            self._end = end
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._file, self._end)

    @property
    def last_sequence(self) -> int:
        """Number of the last final caption; they are numbered from 1 without gap."""
        return len(self._offsets) + sum(isinstance(line, Final) for line in self._waiting)

    def append(self, line: Entry) -> bool:
        """Write a line; False when the disk is full: it is kept in memory and written later."""
        self._waiting.append(line)
        return self.flush()

    def flush(self) -> bool:
        """Write the lines that wait; False when that still fails."""
        while self._waiting:
            data = _encode(self._waiting[0]) + b"\n"
            try:
                written = os.pwrite(self._file, data, self._end)
            except OSError:
                return False
            if written < len(data):
                # Half a line would make the rest of the file unreadable.
                return False
            line = self._waiting.pop(0)
            self._remember(line, self._end)
            self._end += written
            self._is_dirty = True
        return True

    def sync(self) -> None:
        """Sync the file to the disk."""
        if self._is_dirty:
            self._is_dirty = False
            os.fdatasync(self._file)

    def finals(self, after_sequence: int, limit: int) -> list[Final]:
        """Final captions behind `after_sequence`, in order."""
        if after_sequence >= len(self._offsets):
            return []
        found: list[Final] = []
        for _, line, _ in _lines(self._path, self._offsets[max(0, after_sequence)]):
            if isinstance(line, Final):
                found.append(line)
                if len(found) == limit:
                    break
        return found

    def close(self) -> None:
        """Write and sync what is possible, and close the file."""
        self.flush()
        self.sync()
        os.close(self._file)

    def _remember(self, line: Entry, offset: int) -> None:
        if isinstance(line, Final):
            self._offsets.append(offset)
            self.engine = line.engine or self.engine
            line = line.position
        self.positions[line.speaker] = line


def read_finals(directory: Path, after_sequence: int) -> Iterator[Final]:
    """Final captions of a call that is over, behind `after_sequence`, in order."""
    for _, line, _ in _lines(directory / FILE):
        if isinstance(line, Final) and line.sequence > after_sequence:
            yield line


def _lines(path: Path, offset: int = 0) -> Iterator[tuple[int, Entry, int]]:
    """Each complete line with its start and end in the file; stops at an incomplete one."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        for data in file:
            if not data.endswith(b"\n"):
                return
            try:
                line = _decode(data)
            except msgspec.DecodeError:
                return
            yield offset, line, offset + len(data)
            offset += len(data)
