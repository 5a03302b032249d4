# SPDX-License-Identifier: Apache-2.0
"""Writes jobs, and notes in which order SQLite writes to its files and syncs them.

Run as `python disk_log.py DATABASE LOG COUNT SYNCHRONOUS`. LOG becomes a list of `Entry` (msgpack).
The files are real; the functions by which SQLite writes to them are replaced by ones that take a
note first. Source: sqlite3.h, "OS Interface Object" and "OS Interface File Virtual Methods Object".
"""

import _sqlite3
import asyncio
import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from callsd_daemon.kinds.stored import codec
from callsd_daemon.store.database import Database
from tests.helpers.jobs import make_job, put


CHECKPOINT_PAGES = 40
"""So few that the log is often written back into the database."""

OFFSET_OF_OPEN = 40
"""Of xOpen in sqlite3_vfs: three int, padding, three pointers."""

WRITE, TRUNCATE, SYNC = 3, 4, 5
"""Places in sqlite3_io_methods, counted in pointers; place 0 is iVersion."""

METHODS_BYTES = 19 * 8

POINTER = ctypes.c_void_p
Open = ctypes.CFUNCTYPE(ctypes.c_int, POINTER, POINTER, POINTER, ctypes.c_int, POINTER)
Write = ctypes.CFUNCTYPE(ctypes.c_int, POINTER, POINTER, ctypes.c_int, ctypes.c_int64)
Truncate = ctypes.CFUNCTYPE(ctypes.c_int, POINTER, ctypes.c_int64)
Sync = ctypes.CFUNCTYPE(ctypes.c_int, POINTER, ctypes.c_int)


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened; `file` is "" for the database and "-wal" for its log."""

    what: Literal["write", "truncate", "sync", "acknowledged"]
    file: str = ""
    offset: int = 0
    """Of a write; the new length of a file that is cut; the number of an acknowledged job."""
    data: bytes = b""


class Recorder:
    """Notes what SQLite does with the files of one database, for as long as the process lives."""

    def __init__(self, path: Path) -> None:
        self.entries: list[Entry] = []
        self._path = str(path)
        self._names: dict[int, str] = {}
        self._kept: list[Any] = []
        self._copies: dict[int, int] = {}
        find = ctypes.CDLL(_sqlite3.__file__).sqlite3_vfs_find
        find.restype, find.argtypes = POINTER, [ctypes.c_char_p]
        place = POINTER.from_address(find(None) + OFFSET_OF_OPEN)
        original = Open(place.value or 0)

        def open_(vfs: int, name: int | None, file: int, flags: int, out: int) -> int:
            result = original(vfs, name, file, flags, out)
            text = ctypes.string_at(name).decode() if name else ""
            if result == 0 and text in (self._path, f"{self._path}-wal"):
                self._names[file] = text.removeprefix(self._path)
                methods = POINTER.from_address(file)
                methods.value = self._noting(methods.value or 0)
            return int(result)

        self._kept += [original, callback := Open(open_)]
        place.value = ctypes.cast(callback, POINTER).value

    def _noting(self, methods: int) -> int:
        """A copy of a file's methods that takes notes."""
        if methods not in self._copies:
            copy = ctypes.create_string_buffer(ctypes.string_at(methods, METHODS_BYTES))
            start = ctypes.addressof(copy)
            self._kept.append(copy)
            self._copies[methods] = start
            write = self._replace(start, WRITE, Write)
            truncate = self._replace(start, TRUNCATE, Truncate)
            sync = self._replace(start, SYNC, Sync)

            def noted_write(file: int, data: int, size: int, offset: int) -> int:
                content = ctypes.string_at(data, size)
                self.entries.append(Entry("write", self._names[file], offset, content))
                return int(write[0](file, data, size, offset))

            def noted_truncate(file: int, size: int) -> int:
                self.entries.append(Entry("truncate", self._names[file], size))
                return int(truncate[0](file, size))

            def noted_sync(file: int, flags: int) -> int:
                result = int(sync[0](file, flags))
                # Once it has returned: before, nothing is certain.
                self.entries.append(Entry("sync", self._names[file]))
                return result

            for (_, place, kind), function in zip(
                (write, truncate, sync), (noted_write, noted_truncate, noted_sync), strict=True
            ):
                self._kept.append(callback := kind(function))
                place.value = ctypes.cast(callback, POINTER).value
        return self._copies[methods]

    def _replace(self, start: int, index: int, kind: Any) -> tuple[Any, Any, Any]:
        place = POINTER.from_address(start + 8 * index)
        original = kind(place.value)
        self._kept.append(original)
        return original, place, kind


async def _write(database: Database, recorder: Recorder, count: int) -> None:
    for number in range(count):
        # Of different sizes, so that what is torn is now a body, now a list of free pages.
        job = make_job(id=f"job{number}", labels={"note": "x" * (number % 7 * 1500)})
        await database.write(put(job))
        recorder.entries.append(Entry("acknowledged", offset=number))


def main() -> None:
    """Write jobs."""
    path, log, count, synchronous = sys.argv[1:]
    recorder = Recorder(Path(path))
    database = Database(Path(path), codec())
    database._connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    if synchronous:
        database._connection.execute(f"PRAGMA synchronous = {synchronous}")
    recorder.entries.clear()
    Path(f"{path}.begin").write_bytes(Path(path).read_bytes())
    asyncio.run(_write(database, recorder, int(count)))
    Path(log).write_bytes(msgspec.msgpack.encode(recorder.entries))


if __name__ == "__main__":
    main()
