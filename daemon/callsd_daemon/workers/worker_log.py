# SPDX-License-Identifier: Apache-2.0
"""A worker's log as the daemon keeps it: what has arrived of it, never longer than allowed."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import structlog

from callsd_daemon.files import FilePool, naming


log = structlog.get_logger(__name__)

CUT_MARK = b"\n[callsd: the log was longer than allowed; what stood here is lost]\n"

MAX_OFFSET = 2**62
"""Whatever a worker says, what is told of it later must be a number that can be told."""


REST_BYTES = 256 * 1024


class WorkerLog:
    """The kept log of one job or captioner.

    A file beside it says how much of the worker's own log is in it, so that the next daemon goes
    on where this one was.
    """

    def __init__(self, path: Path, pool: FilePool, *, max_bytes: int) -> None:
        self._path = path
        self._pool = pool
        self._max_bytes = max_bytes
        self._turn = asyncio.Lock()
        self._has_rest = False
        self._is_lossy = False
        self._kept_file = path.with_name(f"{path.name}.kept")
        self.kept = 0
        """So much of the worker's own log has been taken. Unit: bytes."""

    async def open(self) -> None:
        """Find out where an earlier daemon was."""
        with contextlib.suppress(OSError, ValueError):
            self.kept = int(await self._pool.run(self._kept_file.read_text))

    async def take(self, offset: int, data: bytes) -> None:
        """Keep a part of the worker's log, from `offset` on; what cannot be written is lost.

        A part that does not follow the last one tells that the worker's log was cut.
        """
        async with self._turn:
            # What was on its way when the worker died was in the rest.
            if not self._has_rest:
                await self._keep(offset, data)

    async def take_rest(self, read: Callable[[int, int], bytes]) -> None:
        """Keep what a worker that is gone wrote last and did not tell any more: why it died.

        `read` is given where that begins and how much is wanted. Blocks.
        """
        async with self._turn:
            data = await self._pool.run(read, self.kept, REST_BYTES)
            if data:
                self._has_rest = True
                await self._keep(self.kept, data)

    async def _keep(self, offset: int, data: bytes) -> None:
        try:
            await self._pool.run(self._take, offset, data)
        except OSError as problem:
            if not self._is_lossy:
                log.warning("log_not_kept", problem=str(problem))
            self._is_lossy = True

    def _take(self, offset: int, data: bytes) -> None:
        is_cut = offset != self.kept and not data.startswith(CUT_MARK)
        self.kept = min(max(0, offset + len(data)), MAX_OFFSET)
        append(self._path, CUT_MARK + data if is_cut else data, max_bytes=self._max_bytes)
        with os.fdopen(os.open(self._kept_file, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.write(f"{self.kept:020d}".encode())


def append(path: Path, data: bytes, *, max_bytes: int) -> None:
    """Add to a log; one that would become too long loses what it has. Blocks; raises OSError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    with naming(path), os.fdopen(os.open(path, flags, 0o600), "ab") as file:
        if file.tell() + len(data) > max_bytes:
            # What is newest tells most.
            file.truncate(0)
            data = CUT_MARK + data[len(CUT_MARK) - max_bytes :]
        file.write(data)
