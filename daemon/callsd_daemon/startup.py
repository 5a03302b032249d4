# SPDX-License-Identifier: Apache-2.0
"""What can keep the daemon from starting, and how it tells."""

import contextlib
import ctypes
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO


DATABASE_FILE = "callsd.db"
"""Where in the state directory the database is."""

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
    """Make the directories, and hold the lock that keeps a second daemon away.

    Raises StartError.
    """
    os.umask(0o077)
    try:
        state.mkdir(parents=True, exist_ok=True)
        runtime.mkdir(parents=True, exist_ok=True)
        for directory in (state, runtime):
            if directory.stat().st_uid != os.geteuid():
                raise StartError(
                    f"{directory} belongs to another user: run callsd as that user, or choose "
                    "another directory (state.directory, state.runtime_directory)",
                    EXIT_STATE_UNUSABLE,
                )
        # Whoever may use the socket comes to it, and to nothing else.
        runtime.chmod(0o750)
        for directory in (state, *(state / name for name in STATE_ROOMS)):
            directory.mkdir(exist_ok=True)
            directory.chmod(0o700)
        for directory in (state / "workers", runtime / "workers"):
            # Where they are there already, they may be shared with the workers' group.
            directory.mkdir(exist_ok=True)
        lock: IO[str] = (state / "lock").open("a+")
    except OSError as problem:
        raise StartError(
            f"{problem.filename} cannot be used ({problem.strerror}): choose another "
            "state.directory or state.runtime_directory, or change its owner",
            EXIT_STATE_UNUSABLE,
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(
                f"another callsd is running with {state}: stop it first, or give this one a "
                "state.directory of its own",
                EXIT_ALREADY_RUNNING,
            ) from None
        yield
