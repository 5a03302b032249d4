# SPDX-License-Identifier: Apache-2.0
"""Opens files in directories that others can write to, and writes files whole or not at all.

Untrusted files are opened once, without blocking, and checked through the descriptor: they may be
links, pipes or devices, and be replaced at any moment. Which errors are no fault of a file is
said here, too.
"""

import asyncio
import contextlib
import errno
import functools
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.threads import started_pool


P = ParamSpec("P")
T = TypeVar("T")

UNTRUSTED_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Do not follow links, and do not block: opening a pipe without a writer would."""

POOL_THREADS = 8

SCARCE_ERRNOS = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What the system lacks for a while."""

DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})
"""The disk is full, or does not do what it is asked."""

PASSING_ERRNOS = SCARCE_ERRNOS | DISK_ERRNOS
"""What says nothing about a file: it may be there and good, and is looked at again later."""


def as_refusal(problem: OSError) -> CallsdError | None:
    """What a client is told for whom a file could not be used; None when it is no passing error."""
    if problem.errno in SCARCE_ERRNOS:
        return CallsdError(
            Reason.SLOTS_EXHAUSTED,
            f"the daemon lacks file descriptors or memory ({problem.strerror}): try again, or "
            "raise LimitNOFILE or MemoryMax",
            retry_after_seconds=1.0,
        )
    if problem.errno in DISK_ERRNOS:
        return CallsdError(
            Reason.DISK_FULL,
            f"the disk is full or fails ({problem.strerror}): free some space, or see the daemon's "
            "log for the file",
            retry_after_seconds=10.0,
        )
    return None


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """An error of what is done with an open file names it, as one of opening it does."""
    try:
        yield
    except OSError as problem:
        problem.filename = problem.filename or str(path)
        raise


def open_regular(path: str | Path, flags: int = os.O_RDONLY, *, dir_fd: int | None = None) -> int:
    """Open a plain file without a second hard link; the caller closes it.

    With O_CREAT, a new file gets mode 0600. Raises OSError; EINVAL when it is anything else.
    """
    descriptor = os.open(path, flags | UNTRUSTED_FLAGS, 0o600, dir_fd=dir_fd)
    status = _status(descriptor, path)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return descriptor


def read_regular(path: Path, max_bytes: int) -> bytes:
    """The content of an untrusted file. Raises OSError; EFBIG when longer than `max_bytes`."""
    with naming(path), os.fdopen(open_regular(path), "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, "longer than allowed", str(path))
    return content


def open_beneath(root: Path, path: Path) -> int:
    """Open a plain file below `root` for reading, by a path relative to it; the caller closes it.

    No part of the path may be a link, so that nobody who can write below `root` can make it lead
    elsewhere. Raises OSError: ELOOP or ENOTDIR for a link, EINVAL when it is not a plain file.
    """
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise OSError(errno.EXDEV, "leads out of its directory", str(path))
    *folders, name = path.parts
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in folders:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            inner = os.open(part, flags, dir_fd=folder)
            os.close(folder)
            folder = inner
        descriptor = os.open(name, os.O_RDONLY | UNTRUSTED_FLAGS, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(_status(descriptor, path).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return descriptor


def _status(descriptor: int, path: str | Path) -> os.stat_result:
    """What a file is that was just opened; it is closed when that cannot be told."""
    try:
        with naming(path):
            return os.fstat(descriptor)
    except OSError:
        os.close(descriptor)
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Write, sync, rename, sync the directory: after a power cut the file is complete or absent."""
    draft = path.with_name(f".{path.name}.part")
    draft.unlink(missing_ok=True)
    try:
        # O_EXCL: a new file, never the target of a link of that name.
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with naming(draft), os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        draft.replace(path)
    finally:
        # An incomplete draft would only take space on a full disk.
        draft.unlink(missing_ok=True)
    sync(path.parent)


def make_readable_directory(path: Path) -> None:
    """Make a directory into which everybody can look, whatever the umask; parents likewise.

    Those that are there already stay as they are.
    """
    if not path.is_dir():
        make_readable_directory(path.parent)
        path.mkdir(exist_ok=True)
        path.chmod(0o755)


def sync(path: Path) -> None:
    """Have a file, or the names in a directory, on the disk when this returns; raises OSError."""
    with naming(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class FilePool:
    """Threads for file operations that may block on an untrusted or slow disk.

    They are separate from all other threads, so that a disk that hangs delays nothing else.
    """

    def __init__(self, threads: int = POOL_THREADS) -> None:
        self._threads = started_pool(threads, "files")

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do `work` on one of the threads."""
        call = functools.partial(work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def open(self, opener: Callable[[], int]) -> int:
        """Have a file opened; the caller closes the descriptor.

        One that comes when nobody waits for it any more is closed here.
        """
        opening = asyncio.get_running_loop().run_in_executor(self._threads, opener)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_late)
            raise

    def close(self) -> None:
        """Accept nothing more; operations that hang are abandoned."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _close_late(opening: asyncio.Future[int]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result())
