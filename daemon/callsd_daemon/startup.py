# SPDX-License-Identifier: Apache-2.0
"""What can keep the daemon from starting, and how it tells."""

import contextlib
import ctypes
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from callsd_daemon.files import open_regular


DATABASE_FILE = "callsd.db"
"""Where in the state directory the database is."""

LOCK_FILE = "lock"
"""In either directory: held by the daemon that uses it."""

STATE_ROOMS = ("jobs", "uploads", "captioners", "trash")
"""What lies beside it: all of it the daemon's alone."""

PR_SET_DUMPABLE = 4
"""Of prctl(2)."""

EXIT_OK = 0
EXIT_FORCED = 1
EXIT_STATE_UNUSABLE = 73
EXIT_ALREADY_RUNNING = 75
EXIT_CONFIG = 78


def hide() -> None:
    """Let no other process of this user look into this one: its memory, its files, its tokens.

    Where workers are of the same user, they may be somebody else's by now.
    """
    with contextlib.suppress(OSError, AttributeError):  # on a system that has no such call
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


class StartError(Exception):
    """The daemon cannot start; `exit_code` tells scripts why."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextlib.contextmanager
def own_state(state: Path, runtime: Path) -> Iterator[None]:
    """Make the directories, and hold the locks that keep a second daemon away from either.

    Nothing in a directory is touched before it is locked. Raises StartError.
    """
    os.umask(0o077)
    with contextlib.ExitStack() as locks:
        try:
            for directory, setting in (
                (state, "state.directory"),
                (runtime, "state.runtime_directory"),
            ):
                directory.mkdir(parents=True, exist_ok=True)
                if directory.stat().st_uid != os.geteuid():
                    raise StartError(
                        f"{directory} belongs to another user: run callsd as that user, or choose "
                        f"another directory ({setting})",
                        EXIT_STATE_UNUSABLE,
                    )
                locks.callback(os.close, _lock(directory, setting))
            # Whoever may use the socket comes to it, and to nothing else.
            runtime.chmod(0o750)
            for directory in (state, *(state / name for name in STATE_ROOMS)):
                directory.mkdir(exist_ok=True)
                directory.chmod(0o700)
            for directory in (state / "workers", runtime / "workers"):
                # Where they are there already, they may be shared with the workers' group.
                directory.mkdir(exist_ok=True)
        except OSError as problem:
            raise StartError(
                f"{problem.filename} cannot be used ({problem.strerror}): choose another "
                "state.directory or state.runtime_directory, or change its owner",
                EXIT_STATE_UNUSABLE,
            ) from None
        yield


def _lock(directory: Path, setting: str) -> int:
    """A descriptor that holds the lock of a directory; raises StartError and OSError."""
    # Of mode 0600: a file that others may open they may lock as well.
    descriptor = open_regular(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StartError(
            f"another callsd is running with {directory}: stop it first, or give this one a "
            f"{setting} of its own",
            EXIT_ALREADY_RUNNING,
        ) from None
    return descriptor
