# SPDX-License-Identifier: Apache-2.0
"""Locks and directories that the daemon needs to start, and the error when it cannot."""

import contextlib
import ctypes
import fcntl
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from callsd_daemon.files import naming, open_regular


DATABASE_FILE = "callsd.db"
"""The database, in the state directory."""

TOKENS_FILE = "tokens.json"
"""Names, scopes and hashes of the tokens, beside it."""

LOCK_FILE = "lock"
"""In state and runtime directory: locked by the daemon that uses it."""

STATE_DIRECTORIES = ("jobs", "uploads", "captioners", "trash")
"""Directories beside it, which only the daemon uses."""

PR_SET_DUMPABLE = 4
"""Of prctl(2)."""

EXIT_OK = 0
EXIT_FORCED = 1
EXIT_STATE_UNUSABLE = 73
EXIT_ALREADY_RUNNING = 75
EXIT_CONFIG = 78


def hide() -> None:
    """Deny other processes of this user access to the memory and descriptors of this one.

    Workers of the same user may have been taken over.
    """
    with contextlib.suppress(OSError, AttributeError):  # on a system without prctl
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def user_name(number: int) -> str:
    """The name of a user; the number, if there is none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


class StartError(Exception):
    """The daemon cannot start; `exit_code` says why."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextlib.contextmanager
def own_state(state: Path, runtime: Path) -> Iterator[None]:
    """Create the directories, and lock both against a second daemon.

    Nothing in a directory is touched before it is locked. Until both are let go, what this process
    makes is its own alone (umask). Raises StartError.
    """
    with contextlib.ExitStack() as locks:
        locks.callback(os.umask, os.umask(0o077))
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
            # The socket's group needs access; all else in here is private by its own mode.
            runtime.chmod(0o750)
            for directory in (state, *(state / name for name in STATE_DIRECTORIES)):
                directory.mkdir(exist_ok=True)
                directory.chmod(0o700)
            for directory in (state / "workers", runtime / "workers"):
                # Existing ones may be shared with the workers' group: keep their mode.
                directory.mkdir(exist_ok=True)
        except OSError as problem:
            own, path = user_name(os.geteuid()), problem.filename
            raise StartError(
                f"{path} cannot be used ({problem.strerror}): see that it is {own}'s (chown -R "
                f"{own} {path}), or choose another state.directory or state.runtime_directory",
                EXIT_STATE_UNUSABLE,
            ) from None
        yield


def _lock(directory: Path, setting: str) -> int:
    """A descriptor that holds the lock of a directory; raises StartError and OSError."""
    # Mode 0600: a file that others can open they can lock, too.
    descriptor = open_regular(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT)
    try:
        with naming(directory / LOCK_FILE):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StartError(
            f"another callsd is running with {directory}: stop it first, or give this one a "
            f"{setting} of its own",
            EXIT_ALREADY_RUNNING,
        ) from None
    return descriptor
