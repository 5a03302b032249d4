# SPDX-License-Identifier: Apache-2.0

import asyncio
import math
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import Job, Progress, Reservation, State
from callsd_daemon.store import database as module
from callsd_daemon.store.database import Database
from callsd_daemon.store.read_transaction import Change
from callsd_daemon.store.transaction import Transaction
from tests.helpers.jobs import make_job, put


@asynccontextmanager
async def busy(database: Database) -> AsyncIterator[None]:
    """Keep the store's thread at work, so that what comes now shares the next commit."""
    begun, done = threading.Event(), threading.Event()

    def wait(tx: Transaction) -> None:
        begun.set()
        assert done.wait(10)

    holding = asyncio.ensure_future(database.write(wait))
    try:
        assert await asyncio.to_thread(begun.wait, 10)
        yield
    finally:
        done.set()
        await holding


class TestDurability:
    """What was acknowledged is on the disk."""

    async def test_survives_reopening(
        self, database: Database, open_database: Callable[..., Database]
    ) -> None:
        """A job reads the same after the database was closed and opened again."""
        written = await database.write(put(make_job()))
        database.close()

        again = open_database()

        assert await again.read(lambda tx: tx.get("job")) == written
        assert (again.revision, again.database_id) == (1, database.database_id)

    def test_syncs_every_commit(self, database: Database) -> None:
        """The file is in write-ahead mode, and each commit is synced: a power cut loses nothing."""
        assert database._scalar("PRAGMA journal_mode") == "wal"
        assert database._scalar("PRAGMA synchronous") == 2

    async def test_private(self, database: Database, path: Path) -> None:
        """Nobody but the daemon's user can read the database or what SQLite keeps beside it."""
        await database.write(put(make_job()))

        files = sorted(path.parent.iterdir())

        assert [file.name for file in files] == ["callsd.db", "callsd.db-shm", "callsd.db-wal"]
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}

    async def test_power_cut_at_any_acknowledgement(
        self, path: Path, tmp_path: Path, open_database: Callable[..., Database]
    ) -> None:
        """The files as they are when a write is acknowledged hold that write and all before it."""
        database = open_database()
        for number in range(25):
            await database.write(put(make_job(id=f"job{number}")))
            copy = tmp_path / f"cut{number}" / "callsd.db"
            copy.parent.mkdir()
            for suffix in ("", "-wal"):
                copy.with_name(f"callsd.db{suffix}").write_bytes(
                    path.with_name(f"callsd.db{suffix}").read_bytes()
                )

            found = await open_database(copy).read(lambda tx: tx.ids())

            assert found == {f"job{earlier}" for earlier in range(number + 1)}

    async def test_half_a_write_is_none(
        self, path: Path, tmp_path: Path, open_database: Callable[..., Database]
    ) -> None:
        """Wherever a power cut tears the log, a job is there whole or not at all."""
        database = open_database()
        await database.write(put(make_job(id="first")))
        wal = path.with_name("callsd.db-wal")
        acknowledged = wal.stat().st_size
        await database.write(put(make_job(id="second", labels={"long": "x" * 9000})))
        whole = wal.read_bytes()

        for number, size in enumerate(range(acknowledged, len(whole), 1009)):
            copy = tmp_path / f"torn{number}" / "callsd.db"
            copy.parent.mkdir()
            copy.write_bytes(path.read_bytes())
            copy.with_name("callsd.db-wal").write_bytes(whole[:size])
            assert await open_database(copy).read(lambda tx: tx.ids()) == {"first"}


class TestSharing:
    """Operations that arrive together share one commit, and nothing else."""

    async def test_one_commit(self, database: Database) -> None:
        """What arrives while the store is busy is committed together, in order, without a gap."""
        commits: list[list[Change]] = []
        database.on_commit(commits.append)
        async with busy(database):
            writes = [
                asyncio.ensure_future(database.write(put(make_job(id=f"job{number}"))))
                for number in range(20)
            ]
            await asyncio.sleep(0)

        jobs = await asyncio.gather(*writes)

        assert [job.revision for job in jobs] == list(range(1, 21))
        assert [change.job for commit in commits for change in commit] == list(jobs)
        assert len(commits) == 1

    async def test_failure_is_its_own(self, database: Database) -> None:
        """An operation that fails loses its changes, all of them, and nobody else's."""

        def fail(tx: Transaction) -> None:
            tx.put(make_job(id="lost"))
            raise CallsdError(Reason.QUEUE_FULL, "the queue is full")

        def break_(tx: Transaction) -> None:
            tx.put(make_job(id="lost"))
            tx._connection.execute("SELECT nonsense")

        async with busy(database):
            outcomes = asyncio.gather(
                database.write(put(make_job(id="before"))),
                database.write(fail),
                database.write(break_),
                database.write(put(make_job(id="after"))),
                return_exceptions=True,
            )
            await asyncio.sleep(0)
        before, failed, broken, after = await outcomes

        assert isinstance(before, Job)
        assert isinstance(after, Job)
        assert (before.revision, after.revision) == (1, 2)
        assert isinstance(failed, CallsdError)
        assert failed.reason is Reason.QUEUE_FULL
        assert isinstance(broken, sqlite3.OperationalError)
        assert await database.read(lambda tx: tx.ids()) == {"before", "after"}

    async def test_later_operations_see_earlier_ones(self, database: Database) -> None:
        """Within a commit, what was promised to one job is not there for the next one."""

        def start(tx: Transaction) -> Reservation:
            tx.put(make_job(id=f"job{tx.revision}", state=State.STARTING))
            return tx.reserved()

        async with busy(database):
            writes = [asyncio.ensure_future(database.write(start)) for _ in range(3)]
            await asyncio.sleep(0)

        assert [reserved.cores for reserved in await asyncio.gather(*writes)] == [1.0, 2.0, 3.0]

    async def test_listener_before_caller(self, database: Database) -> None:
        """When a caller goes on, those who listen have been told already."""
        told: list[Change] = []
        database.on_commit(told.extend)

        job = await database.write(put(make_job()))

        assert told == [Change(revision=1, job_id="job", job=job)]
        assert database.revision == 1

    async def test_listener_that_fails(self, database: Database) -> None:
        """A listener's error harms neither those who wrote nor those who come after."""
        database.on_commit(lambda changes: changes[7])

        first = await database.write(put(make_job(id="first")))
        second = await database.write(put(make_job(id="second")))

        assert (first.revision, second.revision) == (1, 2)

    async def test_reading_commits_nothing(self, database: Database) -> None:
        """A transaction without changes tells nobody and makes no revision."""
        commits: list[list[Change]] = []
        database.on_commit(commits.append)

        assert await database.read(lambda tx: tx.ids()) == set()
        assert (commits, database.revision) == ([], 0)


class TestCallers:
    """Those who ask may go away, come too many, or too late."""

    async def test_cancelled_before_it_began(self, database: Database) -> None:
        """What nobody waits for any more, and was not begun, is not done."""
        async with busy(database):
            waiting = asyncio.ensure_future(database.write(put(make_job())))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.sleep(0)

        # A write comes after all that was asked before it.
        assert await database.write(lambda tx: tx.ids()) == set()

    async def test_cancelled_while_under_way(self, database: Database) -> None:
        """What was begun is completed and told to those who listen, even if its caller left."""
        told: list[Change] = []
        database.on_commit(told.extend)
        begun, go_on = threading.Event(), threading.Event()

        def work(tx: Transaction) -> None:
            begun.set()
            assert go_on.wait(10)
            tx.put(make_job())

        caller = asyncio.ensure_future(database.write(work))
        await asyncio.to_thread(begun.wait, 10)
        caller.cancel()
        go_on.set()

        assert await database.write(lambda tx: tx.ids()) == {"job"}
        assert [change.job_id for change in told] == ["job"]
        assert caller.cancelled()

    async def test_too_many(
        self, open_database: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """More operations than may wait are refused at once, with a time to try again."""
        monkeypatch.setattr(module, "PENDING_LIMIT", 3)
        database = open_database()
        begun, go_on = threading.Event(), threading.Event()

        def work(tx: Transaction) -> None:
            begun.set()
            assert go_on.wait(10)

        holding = asyncio.ensure_future(database.write(work))
        await asyncio.to_thread(begun.wait, 10)
        waiting = [asyncio.ensure_future(database.write(put(make_job()))) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(CallsdError) as refused:
            await database.write(put(make_job()))
        go_on.set()

        assert refused.value.reason is Reason.QUEUE_FULL
        assert refused.value.retry_after_seconds == 1.0
        assert [job.revision for job in await asyncio.gather(*waiting)] == [1, 2, 3]
        await holding

    async def test_close_completes_what_is_pending(
        self, database: Database, open_database: Callable[..., Database]
    ) -> None:
        """Closing waits for all that was asked before."""
        writes = [
            asyncio.ensure_future(database.write(put(make_job(id=f"job{number}"))))
            for number in range(250)
        ]
        await asyncio.sleep(0)
        await asyncio.to_thread(database.close)

        assert len(await asyncio.gather(*writes)) == 250
        assert len(await open_database().read(lambda tx: tx.ids())) == 250

    async def test_closed(self, database: Database) -> None:
        """A closed database refuses at once instead of letting its caller wait for ever."""
        database.close()

        with pytest.raises(CallsdError) as refused:
            await database.read(lambda tx: tx.ids())

        assert refused.value.reason is Reason.DRAINING

    @pytest.mark.parametrize("figure", [math.nan, math.inf])
    async def test_unreadable_job(self, database: Database, figure: float) -> None:
        """A job that could not be read again is not written."""
        with pytest.raises(msgspec.ValidationError):
            await database.write(put(make_job(progress=Progress(total_seconds=figure))))

        assert await database.read(lambda tx: tx.ids()) == set()
