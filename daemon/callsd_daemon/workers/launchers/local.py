# SPDX-License-Identifier: Apache-2.0
"""What launchers whose workers run on this machine have in common: directories and processes."""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from callsd_daemon.files import open_regular
from callsd_daemon.workers.launchers.launcher import End
from callsd_daemon.workers.worker_log import CUT_MARK
from callsd_ipc.names import ARTIFACTS, PIECES, WORKER_LOG


class Directories:
    """The workers' directories, one for each name.

    Their contents are not trusted: nothing there is opened through a link.
    """

    def __init__(self, top: Path, trash: Path, *, mode: int) -> None:
        """`mode` is that of each worker's directory.

        Discarded directories are moved into `trash`, so that the next worker of the name finds
        none. What the daemon may not remove from there, systemd-tmpfiles does.
        """
        self._top = top
        self._trash = trash
        self._mode = mode

    def make(self, name: str) -> Path:
        """The directory of a worker, created if needed."""
        path = self._top / name
        path.mkdir(mode=0o700, exist_ok=True)
        path.chmod(self._mode)
        return path

    def path(self, name: str) -> Path:
        """The directory of a worker, which may not exist."""
        return self._top / name

    def leftovers(self, name: str) -> frozenset[str] | None:
        """Names of the files in a worker's directory."""
        with contextlib.suppress(FileNotFoundError):
            return frozenset(path.name for path in (self._top / name).iterdir())
        return frozenset()

    def take(self, name: str, file: str, target: Path) -> bool:
        """Move a finished file to `target`; raises OSError."""
        folder = self._open(name, ARTIFACTS)
        try:
            # Refuses what we could not remove again. It is checked again after the move.
            os.close(open_regular(file, dir_fd=folder))
            os.rename(file, target, src_dir_fd=folder)
        finally:
            os.close(folder)
        return True

    def read_log(self, name: str, offset: int, size: int) -> bytes:
        """A part of the log; empty when there is none, or it cannot be read."""
        with contextlib.suppress(OSError):
            log = self._open_log(name, os.O_RDONLY)
            try:
                return os.pread(log, size, offset)
            finally:
                os.close(log)
        return b""

    def bound_log(self, name: str, max_bytes: int) -> None:
        """Empty a log that has grown too long: appending writers continue behind a mark."""
        with contextlib.suppress(FileNotFoundError):
            log = self._open_log(name, os.O_WRONLY | os.O_APPEND)
            try:
                if os.fstat(log).st_size > max_bytes:
                    os.ftruncate(log, 0)
                    os.write(log, CUT_MARK)
            finally:
                os.close(log)

    def give_pieces(self, name: str, source: Path) -> None:
        """Move pieces that recorders of the release before left into the worker's directory."""
        if not source.is_dir():
            return
        target = self.make(name) / PIECES
        if not target.exists():
            # First into a draft beside that directory: new files there get the workers' group, for
            # which they must be copied.
            draft = self._draft(name)
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(mode=0o700)
            for path in sorted(source.iterdir()):
                with (
                    os.fdopen(open_regular(path), "rb") as piece,
                    (draft / path.name).open("wb") as file,
                ):
                    shutil.copyfileobj(piece, file)
                    os.fsync(file.fileno())
                (draft / path.name).chmod(0o660 & self._mode)
            draft.chmod(self._mode)
            draft.rename(target)
        shutil.rmtree(source)

    def _draft(self, name: str) -> Path:
        return self._top / f".{name}.{PIECES}"

    def discard(self, name: str) -> None:
        """Remove a directory, as far as its worker's permissions allow."""
        with contextlib.suppress(FileNotFoundError):
            (self._top / name).rename(self._trash / f"{name}.{secrets.token_hex(4)}")
        shutil.rmtree(self._draft(name), ignore_errors=True)
        for path in self._trash.iterdir():
            shutil.rmtree(path, ignore_errors=True)

    def names(self) -> frozenset[str]:
        """All names that have a directory."""
        return frozenset(path.name for path in self._top.iterdir() if not path.name.startswith("."))

    def _open_log(self, name: str, flags: int) -> int:
        folder = self._open(name)
        try:
            return open_regular(WORKER_LOG, flags, dir_fd=folder)
        finally:
            os.close(folder)

    def _open(self, name: str, inner: str = "") -> int:
        """Open a worker's directory, or one in it, without following links."""
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        folder = os.open(self._top / name, flags)
        if not inner:
            return folder
        try:
            return os.open(inner, flags, dir_fd=folder)
        finally:
            os.close(folder)


class EndedProcess:
    """A worker that ended before it could be watched."""

    def __init__(self, end: End) -> None:
        self.exited = asyncio.Event()
        self.exited.set()
        self.end = end

    async def send(self, number: signal.Signals) -> None:
        """Do nothing."""

    async def age_seconds(self) -> float | None:
        """Not known."""
        return None

    def detach(self) -> None:
        """Do nothing."""


class LocalProcess:
    """A process on this machine, watched through a pidfd, which is never reused."""

    def __init__(
        self,
        pid: int,
        *,
        read_end: Callable[[], Awaitable[End]],
        send: Callable[[int, signal.Signals], Awaitable[None]],
        read_age: Callable[[], Awaitable[float | None]],
    ) -> None:
        """`read_end` is awaited once the process has exited; `send` gets the pidfd.

        Raises OSError: ESRCH when there is no such process (any more), EMFILE.
        """
        self.exited = asyncio.Event()
        self.end = End()
        self._read_age = read_age
        self._read_end = read_end
        self._send = send
        self._ending: asyncio.Task[None] | None = None
        self._pidfd = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_exit)

    def _on_exit(self) -> None:
        self.detach()
        self._ending = asyncio.create_task(self._take_end())

    async def _take_end(self) -> None:
        try:
            self.end = await self._read_end()
        finally:
            self.exited.set()

    async def send(self, number: signal.Signals) -> None:
        """Send a signal to the worker, if it still runs."""
        if self._pidfd >= 0:
            await self._send(self._pidfd, number)

    async def age_seconds(self) -> float | None:
        """How long ago it was started; None when that is not known."""
        return await self._read_age()

    def detach(self) -> None:
        """Stop watching; the worker goes on."""
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
