# SPDX-License-Identifier: Apache-2.0
"""The database file and the one thread that uses it.

Every commit is synced to the disk before its caller goes on (WAL, synchronous=FULL), so what was
acknowledged survives a power cut. Operations that arrive while a commit is under way share the
next one.
"""

import asyncio
import contextlib
import errno
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.store.failpoints import failpoint
from callsd_daemon.store.migrations import migrate
from callsd_daemon.store.transaction import Change, Transaction


T = TypeVar("T")

HISTORY_REVISIONS = 10_000
"""Changes kept for watches to resume from."""

PENDING_LIMIT = 10_000
"""Operations that may wait for the store's thread; more are refused."""

BATCH_LIMIT = 100
"""Operations that share one commit; bounds how long the first of them waits."""

BUSY_TIMEOUT_SECONDS = 5.0
"""How long to wait for a backup or a curious administrator to let go of the file."""


class DatabaseDamagedError(Exception):
    """The file is not a healthy database of ours."""


class Database:
    """Opened once by the daemon; `write` and `read` are its only doors."""

    def __init__(self, path: Path, *, history: int = HISTORY_REVISIONS) -> None:
        """Open or create the database at `path`.

        Raises DatabaseDamagedError when the file is not ours or not healthy, SchemaTooNewError
        when it is newer than this program.
        """
        self._path = path
        self._history = history
        self._operations: queue.Queue[_Operation | None] = queue.Queue(PENDING_LIMIT)
        self._on_commit: Callable[[list[Change]], object] = lambda _changes: None
        self._connection = _open(path)
        self.database_id: str = self._scalar("SELECT value FROM meta WHERE key = 'database_id'")
        self._revision: int = self._scalar("SELECT coalesce(max(revision), 0) FROM changes")
        self._thread = threading.Thread(target=self._serve, name="store", daemon=True)
        self._thread.start()

    @property
    def revision(self) -> int:
        """Revision of the last committed change."""
        return self._revision

    def on_commit(self, listener: Callable[[list[Change]], object]) -> None:
        """Call `listener` on the store's thread with the changes of each commit, in order."""
        self._on_commit = listener

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in a transaction; returns once its changes are on the disk.

        An exception from `work` undoes its changes and is raised here; nothing else is affected.
        Cancelling the caller does not take back what was begun.
        """
        future: Future[T] = Future()
        try:
            self._operations.put_nowait(_Operation(work, future))
        except queue.Full:
            raise CallsdError(
                Reason.QUEUE_FULL,
                "the job database cannot keep up: try again later",
                retry_after_seconds=1.0,
            ) from None
        return await asyncio.wrap_future(future)

    read = write
    """The same door: a transaction that changes nothing commits nothing."""

    def close(self) -> None:
        """Finish what is pending and close the file."""
        self._operations.put(None)
        self._thread.join()
        self._connection.close()

    def _serve(self) -> None:
        while (first := self._operations.get()) is not None:
            batch, last = [first], False
            with contextlib.suppress(queue.Empty):
                while len(batch) < BATCH_LIMIT:
                    operation = self._operations.get_nowait()
                    if operation is None:
                        last = True
                        break
                    batch.append(operation)
            self._run(batch)
            if last:
                return

    def _run(self, waiting: list["_Operation"]) -> None:
        # Nobody waits any more for what was cancelled before it began.
        batch = [item for item in waiting if item.future.set_running_or_notify_cancel()]
        execute = self._connection.execute
        done: list[tuple[_Operation, Any]] = []
        changes: list[Change] = []
        try:
            execute("BEGIN IMMEDIATE")
            for operation in batch:
                execute("SAVEPOINT operation")
                transaction = Transaction(
                    self._connection, self._revision + len(changes), self._history
                )
                try:
                    result = operation.work(transaction)
                except sqlite3.Error:
                    raise
                except Exception as problem:  # noqa: BLE001 - handed to whoever asked
                    execute("ROLLBACK TO operation")
                    operation.future.set_exception(problem)
                else:
                    done.append((operation, result))
                    changes += transaction.changes
                execute("RELEASE operation")
            if changes:
                failpoint("store.before_commit")
            execute("COMMIT")
        except (sqlite3.Error, OSError) as problem:
            with contextlib.suppress(sqlite3.Error):
                execute("ROLLBACK")
            error = _as_error(problem)
            for operation in batch:
                if not operation.future.done():
                    operation.future.set_exception(error)
            return
        self._acknowledge(done, changes)

    def _acknowledge(self, done: list[tuple["_Operation", Any]], changes: list[Change]) -> None:
        if changes:
            failpoint("store.after_commit")
            self._revision = changes[-1].revision
            self._on_commit(changes)
        for operation, result in done:
            operation.future.set_result(result)

    def _scalar(self, query: str) -> Any:
        (value,) = self._connection.execute(query).fetchone()
        return value


class _Operation:
    __slots__ = ("future", "work")

    def __init__(self, work: Callable[[Transaction], Any], future: "Future[Any]") -> None:
        self.work = work
        self.future = future


def _open(path: Path) -> sqlite3.Connection:
    fresh = not path.exists()
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        if not fresh:
            _check(connection, path)
        migrate(connection, path)
    except sqlite3.DatabaseError as problem:
        connection.close()
        raise DatabaseDamagedError(
            f"{path} is not a healthy database ({problem}): restore a backup, or move the file "
            "away to start empty"
        ) from problem
    except BaseException:
        connection.close()
        raise
    path.chmod(0o600)
    return connection


def _check(connection: sqlite3.Connection, path: Path) -> None:
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
    if version == 0:
        # A file of length zero, or a database of somebody else's: never start empty silently.
        raise sqlite3.DatabaseError(f"{path.name} exists but holds no callsd schema")


def _as_error(problem: Exception) -> Exception:
    text = str(problem)
    full = "full" in text or getattr(problem, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    if full or "disk I/O error" in text:
        return CallsdError(
            Reason.DISK_FULL,
            f"the job database could not be written ({text}): free some disk space",
            retry_after_seconds=10.0,
        )
    return problem
