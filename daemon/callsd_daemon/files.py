# SPDX-License-Identifier: Apache-2.0
"""Files in directories that somebody else can write, and files of our own that must be whole.

A stranger's file is opened once, never waits, and is looked at through its descriptor: it may be a
link, a pipe or a device, and something else a moment later.
"""

import asyncio
import errno
import functools
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar


P = ParamSpec("P")
T = TypeVar("T")

STRANGERS_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Follow no link, and wait for nobody: a pipe without a writer would never open."""

POOL_THREADS = 8


def open_regular(path: str | Path, flags: int = os.O_RDONLY, *, dir_fd: int | None = None) -> int:
    """Open a file that is a plain file and has no second name; the caller closes it.

    With O_CREAT, one that is made is our user's alone. Raises OSError; EINVAL when it is anything
    else than that.
    """
    descriptor = os.open(path, flags | STRANGERS_FLAGS, 0o600, dir_fd=dir_fd)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return descriptor


def read_regular(path: Path, max_bytes: int) -> bytes:
    """All of a stranger's file. Raises OSError; EFBIG when it is longer than `max_bytes`."""
    with os.fdopen(open_regular(path), "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, "longer than allowed", str(path))
    return content


def open_beneath(root: Path, path: Path) -> int:
    """Open a plain file below `root` for reading, by a path relative to it; the caller closes it.

    No part of the path may be a link, so that whoever can write below `root` cannot lead out of
    it. Raises OSError: ELOOP or ENOTDIR for a link, EINVAL when it is not a plain file.
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
        descriptor = os.open(name, os.O_RDONLY | STRANGERS_FLAGS, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return descriptor


def write_whole(path: Path, content: bytes) -> None:
    """Write, sync, rename, sync the directory: after a power cut all of it is there or nothing."""
    draft = path.with_name(f".{path.name}.part")
    draft.unlink(missing_ok=True)
    try:
        # A new file, never what a link of that name leads to.
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        draft.replace(path)
    finally:
        # Half a file on a full disk helps nobody.
        draft.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Have the disk keep the names in a directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FilePool:
    """Threads for what may block on a disk that is not ours to trust.

    Apart from the threads of everything else, so that a disk that hangs holds up those only who
    wait for it.
    """

    def __init__(self, threads: int = POOL_THREADS) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="files")

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do `work` on one of the threads."""
        call = functools.partial(work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def close(self) -> None:
        """Take nothing more; what hangs is left to hang."""
        self._threads.shutdown(wait=False, cancel_futures=True)
