# SPDX-License-Identifier: Apache-2.0
"""The database file, the one thread that writes it, and the one that reads.

Every commit is synced to the disk before its caller goes on (WAL, synchronous=FULL), so what was
acknowledged survives a power cut. Operations that arrive while a commit is under way share the
next one. Reads have a connection of their own: they see what was acknowledged before they began,
and neither wait for what is being written nor fail with it.
"""

import contextlib
import math
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import structlog

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.files import DISK_ERRNOS, sync
from callsd_daemon.store.codec import JobCodec
from callsd_daemon.store.damage import (
    BUSY_TIMEOUT_SECONDS,
    DAMAGE_CODES,
    DamageWatch,
    check_database,
    keep_open,
)
from callsd_daemon.store.failpoints import failpoint
from callsd_daemon.store.files import beside
from callsd_daemon.store.migrations import migrate
from callsd_daemon.store.operation_queue import Operation, OperationQueue
from callsd_daemon.store.read_transaction import Change, ReadTransaction
from callsd_daemon.store.transaction import History, Transaction


log = structlog.get_logger(__name__)

T = TypeVar("T")

HISTORY_REVISIONS = 10_000
"""Changes kept for watches to resume from."""

HISTORY_BYTES = 64 * 1024**2
"""Length of them in all: 10,000 changes of some 2 KB have three times the room. Large jobs that
change often are kept for fewer changes, and not at the cost of everybody's disk."""

PENDING_LIMIT = 10_000
"""Operations that may wait for each of the store's threads; more are refused."""

BATCH_LIMIT = 100
"""Operations that share one commit; bounds how long the first of them waits."""

WIPE_WAIT_SECONDS = 0.05
"""How long emptying the log may wait for those who read in it: writes wait as long."""

WIPE_RETRY_SECONDS = 1.0
"""When to try again. The next operation does it: the daemon asks for one every few seconds, to see
whether the database still answers."""

BLOCKED = frozenset({Reason.DISK_FULL, Reason.QUEUE_FULL, Reason.DATABASE_DAMAGED})
"""Why the database refuses what it would do otherwise. A full disk and a busy file pass; damage
does not while this process lives: the next one does it, with a backup."""

HELD_CODES = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
"""Somebody else has the file."""

DISK_CODES = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        *DAMAGE_CODES,
    }
)
"""The disk, or what the system lends to use it. A full one may also show as failed I/O, and what
looks like damage, and is none, as well."""


class DatabaseDamagedError(Exception):
    """The file cannot be used: it is damaged, not ours, or out of reach. It was not changed."""


class Database:
    """Opened once by the daemon; `write` and `read` are its only ways in."""

    def __init__(
        self,
        path: Path,
        codec: JobCodec,
        *,
        history: int = HISTORY_REVISIONS,
        history_bytes: int = HISTORY_BYTES,
    ) -> None:
        """Open or create the database at `path`.

        Raises DatabaseDamagedError when the file is not ours or not healthy, SchemaTooNewError
        when it is newer than this program.
        """
        self._path = path
        self._codec = codec
        self._history = History(revisions=history, body_bytes=history_bytes)
        self._on_commit: Callable[[list[Change]], object] = lambda _changes: None
        self._connection, self._reading = _open(path)
        self.database_id: str = self._scalar("SELECT value FROM meta WHERE key = 'database_id'")
        self._revision: int = self._scalar("SELECT coalesce(max(revision), 0) FROM changes")
        self._with_secrets: set[str] = set()
        # Whoever had this database open before may have died before its log was empty.
        self._wipe_time, self._is_put_off = -math.inf, False
        self._damage = DamageWatch(path)
        self._writes = OperationQueue("store", self._serve, limit=PENDING_LIMIT, batch=BATCH_LIMIT)
        self._reads = OperationQueue("store reads", self._look, limit=PENDING_LIMIT, batch=1)

    @property
    def revision(self) -> int:
        """Revision of the last committed change."""
        return self._revision

    @property
    def is_damaged(self) -> bool:
        """Whether damage was met: nothing is written any more until a backup is restored."""
        return bool(self._damage.problem)

    def on_commit(self, listener: Callable[[list[Change]], object]) -> None:
        """Call `listener` on the store's thread with the changes of each commit, in order."""
        self._on_commit = listener

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in a transaction; returns once its changes are on the disk.

        An exception from `work` undoes its changes and is raised here; nothing else is affected.
        Cancelling the caller does not take back what was begun. Raises DRAINING once the database
        is closed, QUEUE_FULL when it cannot keep up or somebody else holds the file, DISK_FULL when
        it cannot write, and DATABASE_DAMAGED: nothing was changed then, and `work` may be tried
        again.
        """
        return await self._writes.ask(work)

    async def read(self, work: Callable[[ReadTransaction], T]) -> T:
        """Run `work` on what is on the disk, all of it as it was at one moment.

        Raises what `work` raises, and the same refusals as `write`, of which none is about a
        write. Of a damaged database what is still whole can be read.
        """
        return await self._reads.ask(work)

    def close(self) -> None:
        """Finish what is pending and close the file."""
        self._writes.close()
        self._reads.close()
        if self.is_damaged:
            keep_open(self._reading, self._connection)
            return
        # The last one to leave puts the log into the file, which a reader may not.
        self._reading.close()
        self._connection.close()
        self._damage.close()

    def _serve(self, batch: list[Operation]) -> None:
        self._run(batch)
        try:
            if time.monotonic() >= self._wipe_time and not self.is_damaged:
                self._wipe()
        except sqlite3.Error as problem:
            self._put_off(str(problem))

    def _run(self, batch: list[Operation]) -> None:
        execute = self._connection.execute
        done: list[tuple[Operation, Any]] = []
        changes: list[Change] = []
        try:
            self._damage.check()
            execute("BEGIN IMMEDIATE")
            for operation in batch:
                execute("SAVEPOINT operation")
                transaction = Transaction(self._connection, self._codec, self._history)
                try:
                    result = operation.work(transaction)
                except Exception as problem:
                    if not self._connection.in_transaction:
                        raise  # SQLite itself has given up the work of the whole batch
                    execute("ROLLBACK TO operation")
                    operation.future.set_exception(self._as_error(problem))
                else:
                    done.append((operation, result))
                    changes += transaction.changes
                execute("RELEASE operation")
            # In the transaction: to begin another one for it takes much longer than to look.
            keepers = {job_id for (job_id,) in execute("SELECT job_id FROM secrets")}
            self._damage.check()  # somebody may have met it meanwhile
            if changes:
                failpoint("store.before_commit")
            execute("COMMIT")
        except Exception as problem:  # noqa: BLE001 - handed to whoever asked
            with contextlib.suppress(sqlite3.Error):
                execute("ROLLBACK")
            error = self._as_error(problem)
            for operation in batch:
                if not operation.future.done():
                    operation.future.set_exception(error)
            return
        self._notice_ends(keepers)
        self._acknowledge(done, changes)

    def _acknowledge(self, done: list[tuple[Operation, Any]], changes: list[Change]) -> None:
        if changes:
            failpoint("store.after_commit")
            self._revision = changes[-1].revision
            try:
                self._on_commit(changes)
            except Exception:
                # It is on the disk: whoever listens can catch up, but nobody may wait for ever.
                log.exception("commit_listener_failed", revision=self._revision)
        for operation, result in done:
            operation.future.set_result(result)

    def _notice_ends(self, keepers: set[str]) -> None:
        """Notice when secrets have been deleted; there are as many as recordings under way."""
        if self._with_secrets - keepers:
            self._wipe_time = -math.inf
        self._with_secrets = keepers

    def _wipe(self) -> None:
        """Empty the log, in which everything stays readable that was deleted from the database.

        Follows the end of secrets only: it costs two syncs, and some 4 MB at most to be put into
        place. Who reads at this moment may need the log: then it is for later.
        """
        self._connection.execute(f"PRAGMA busy_timeout = {WIPE_WAIT_SECONDS * 1000:.0f}")
        try:
            held, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_SECONDS * 1000:.0f}")
        if held:
            self._put_off("somebody reads in it")
            return
        self._wipe_time, self._is_put_off = math.inf, False

    def _put_off(self, problem: str) -> None:
        if not self._is_put_off:
            log.info("wal_not_emptied", problem=problem)
        self._wipe_time, self._is_put_off = time.monotonic() + WIPE_RETRY_SECONDS, True

    def _look(self, batch: list[Operation]) -> None:
        for operation in batch:
            try:
                self._reading.execute("BEGIN")
                try:
                    result = operation.work(ReadTransaction(self._reading, self._codec))
                finally:
                    with contextlib.suppress(sqlite3.Error):
                        self._reading.execute("ROLLBACK")
            except Exception as problem:  # noqa: BLE001 - handed to whoever asked
                operation.future.set_exception(self._as_error(problem))
            else:
                operation.future.set_result(result)

    def _scalar(self, query: str) -> Any:
        (value,) = self._connection.execute(query).fetchone()
        return value

    def _as_error(self, problem: Exception) -> Exception:
        """What to tell the caller: what passes by itself, or with some space, has a reason."""
        # The low byte of SQLite's code is the kind of error.
        code = getattr(problem, "sqlite_errorcode", 0) & 0xFF
        if code in HELD_CODES:
            return CallsdError(
                Reason.QUEUE_FULL,
                f"another program holds the job database ({problem}): try again later",
                retry_after_seconds=1.0,
            )
        if code in DAMAGE_CODES and self._damage.is_found():
            return self._damage.refusal()
        if code in DISK_CODES or (isinstance(problem, OSError) and problem.errno in DISK_ERRNOS):
            return CallsdError(
                Reason.DISK_FULL,
                f"the job database could not be used ({problem}): see that its disk "
                "has space and works",
                retry_after_seconds=10.0,
            )
        return problem


def _open(path: Path) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    """The connection that writes, and the one that reads."""
    try:
        if path.exists():
            check_database(path)
        else:
            _create(path)
        connection = _connect(path)
        try:
            migrate(connection, path)
            reading = _connect_reading(path)
        except BaseException:
            connection.close()
            raise
    except (sqlite3.OperationalError, OSError) as problem:
        raise DatabaseDamagedError(
            f"{path} cannot be used now ({problem}): see that nothing else holds it, that it and "
            "its directory can be written, and that the disk has space"
        ) from problem
    except sqlite3.DatabaseError as problem:
        raise DatabaseDamagedError(
            f"{path} is not a healthy database ({problem}): if the kernel's log says that the disk "
            "works, copy jobs/ and workers/ away, as what belongs to no known job is removed; then "
            f"restore a backup, or move {path.name} and {path.name}-wal away to start empty"
        ) from problem
    return connection, reading


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        # What is deleted is gone: pages' secrets are.
        connection.execute("PRAGMA secure_delete = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _connect_reading(path: Path) -> sqlite3.Connection:
    connection = _connect(path)
    connection.execute("PRAGMA query_only = ON")
    # What has to be sorted is not put into a file: the disk may be full.
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


def _create(path: Path) -> None:
    """Make an empty database. It gets its name once it is whole: an empty file is never ours."""
    wal = beside(path, "-wal")
    if wal.exists() and wal.stat().st_size:
        raise sqlite3.DatabaseError(f"{wal.name} is there, but {path.name} is not")
    draft = beside(path, ".new")
    for suffix in ("", "-wal", "-shm"):
        beside(draft, suffix).unlink(missing_ok=True)
    # SQLite gives its other files the mode of this one.
    draft.touch(mode=0o600)
    with contextlib.closing(_connect(draft)) as connection:
        migrate(connection, draft)
    draft.rename(path)
    sync(path.parent)
