# SPDX-License-Identifier: Apache-2.0
"""Whether a database is damaged: before it is opened, and when SQLite says so of one in use."""

import contextlib
import ctypes
import math
import os
import sqlite3
import threading
import time
from pathlib import Path

import structlog

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.store.files import beside
from callsd_daemon.store.migrations import APPLICATION_ID, SchemaTooNewError, refuse_newer


log = structlog.get_logger(__name__)

BUSY_TIMEOUT_SECONDS = 5.0
"""How long to wait for a backup or a curious administrator to let go of the file."""

DAMAGE_CODES = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
"""What SQLite says of damage, and of a page that the disk does not give back as well."""

LOOK_SECONDS = 10.0
"""How often a disk that gives no pages back is asked for all of them."""

READ_BYTES = 1024**2


def check_database(path: Path, *, is_thorough: bool = False) -> None:
    """Look before anything is written: a file that is not ours, or damaged, stays as it is.

    `is_thorough` holds indexes against their tables as well, for twice the time. Raises
    sqlite3.DatabaseError and SchemaTooNewError.
    """
    try:
        _check(path, "integrity_check" if is_thorough else "quick_check")
    except UnicodeDecodeError as problem:
        # SQLite quotes what it has found in the file, and Python wants its messages to be UTF-8.
        message = problem.object.decode(errors="replace")
        raise sqlite3.DatabaseError(message) from problem


def _check(path: Path, check: str) -> None:
    has_log = beside(path, "-wal").exists()
    if beside(path, "-shm").exists() and not has_log:
        # SQLite makes the log first, and removes it last: somebody else has.
        raise sqlite3.DatabaseError(
            f"{path.name}-wal is gone, and the last changes with it: to go on without them, "
            f"remove {path.name}-shm"
        )
    # Without a log nobody uses it. SQLite would make one that belongs to whoever looks, such as
    # root, and callsd could not write to it.
    address = f"{path.absolute().as_uri()}?mode=ro&immutable={0 if has_log else 1}"
    with contextlib.closing(
        sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT_SECONDS)
    ) as connection:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        if application != APPLICATION_ID:
            # A file of length zero, or a database of somebody else's: never start empty silently.
            raise sqlite3.DatabaseError("it was not made by callsd")
        refuse_newer(connection, path)
        (verdict,) = connection.execute(f"PRAGMA {check}(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(" ".join(verdict.split()))  # it has two lines


class DamageWatch:
    """What is known of the damage of a database that is in use; asked by the store's threads.

    Once there is some, it stays: what would be written into such a file may never be read again.
    From the first look on it keeps a descriptor of the file, which only `close` may close: with any
    descriptor of a file that a process closes, the locks go that SQLite has on it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._look_time = -math.inf
        self._turn = threading.Lock()
        self.problem = ""
        """What is damaged; empty while nothing is known to be."""

    def is_found(self) -> bool:
        """Look whether it is as SQLite says."""
        with self._turn:
            if not self.problem and time.monotonic() >= self._look_time:
                self.problem = self._look()
                self._look_time = time.monotonic() + LOOK_SECONDS
                if self.problem:
                    log.critical(
                        "database_damaged",
                        path=str(self._path),
                        problem=self.problem,
                        fix="stop callsd, see that the disk works, copy jobs/ and workers/ away, "
                        "restore a backup (callsd restore), start callsd; nothing is written until "
                        "then",
                    )
            return bool(self.problem)

    def _look(self) -> str:
        """What is damaged. Empty when nothing is, or when the disk does not give all of it back.

        Reads it as a whole, twice: a second for some hundred megabytes.
        """
        # A disk that fails for a moment shall not be taken for damage, which is there to stay.
        return _doubt(self._path) if self._is_readable() else ""

    def _is_readable(self) -> bool:
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            _read_all(self._descriptor)
            with beside(self._path, "-wal").open("rb") as log_file:
                _read_all(log_file.fileno())
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go of the file, after SQLite has."""
        if self._descriptor is not None:
            os.close(self._descriptor)

    def check(self) -> None:
        """Raise DATABASE_DAMAGED once damage was found."""
        if self.problem:
            raise self.refusal()

    def refusal(self) -> CallsdError:
        """What everybody is told afterwards."""
        return CallsdError(
            Reason.DATABASE_DAMAGED,
            f"the job database is damaged ({self.problem}), and nothing is written to it any more: "
            "its administrator has to restore a backup (callsd restore)",
        )


def keep_open(*connections: sqlite3.Connection) -> None:
    """Leave a damaged database as it is: the last one to close it would put the log into it.

    Python closes a connection that nobody has, and whatever a module has when the process ends: so
    each of these is owed a reference for ever.
    """
    for connection in connections:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def _doubt(path: Path) -> str:
    try:
        check_database(path, is_thorough=True)
    except (OSError, sqlite3.OperationalError, SchemaTooNewError):
        return ""
    except sqlite3.DatabaseError as problem:
        return str(problem)
    return ""


def _read_all(descriptor: int) -> None:
    offset = 0
    # The call that SQLite makes.
    while got := len(os.pread(descriptor, READ_BYTES, offset)):
        offset += got
