# SPDX-License-Identifier: Apache-2.0
"""Opens files in whose place may be anything, and writes files whole or not at all."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


_BUFFER_BYTES = 256 * 1024


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; links are not followed, pipes not waited for.

    Raises OSError; EINVAL when it is anything else.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.fdopen(os.open(path, flags), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which is at `path` once this is left: synced, renamed, its name synced.

    So after a power cut it is complete or absent. When it cannot be written nothing is left of it.
    """
    draft = path.with_name(f".{path.name}.part")
    try:
        with draft.open("wb", buffering=_BUFFER_BYTES) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    sync_names(path.parent)


def sync_names(directory: Path) -> None:
    """Have the names in a directory on the disk when this returns. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file at once, likewise. Raises OSError."""
    with written_whole(path) as file:
        file.write(content)
