# SPDX-License-Identifier: Apache-2.0
"""Reads beside writes, and both beside another program that has the file."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import State
from callsd_daemon.store import database as module
from callsd_daemon.store.database import Database
from callsd_daemon.store.read_transaction import JobFilter, Page, ReadTransaction
from tests.helpers.holding import held
from tests.helpers.jobs import make_job, put


OpenDatabase = Callable[..., Database]


def everything(tx: ReadTransaction) -> Page:
    """All jobs."""
    return tx.page(wanted=JobFilter(), before=None, limit=99)


class TestReads:
    """They have a connection of their own."""

    async def test_see_what_was_acknowledged(self, database: Database) -> None:
        """Whoever was told that a write is done reads it, every time."""
        for number in range(200):
            job = await database.write(put(make_job(id=f"job{number}")))

            assert await database.read(lambda tx: tx.revision) == job.revision

    async def test_do_not_wait_for_writes(self, database: Database) -> None:
        """While a write takes its time, what was there before it can be read."""
        begun, go_on = threading.Event(), threading.Event()

        def work(tx: object) -> None:
            begun.set()
            assert go_on.wait(10)

        writing = asyncio.ensure_future(database.write(work))
        await asyncio.to_thread(begun.wait, 10)

        assert await database.read(lambda tx: tx.ids()) == set()
        assert not writing.done()
        go_on.set()
        await writing

    async def test_do_not_fail_with_writes(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When a commit has no space, those who only read at that time are answered."""
        committing, go_on = threading.Event(), threading.Event()

        def full(name: str) -> None:
            committing.set()
            assert go_on.wait(10)
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(module, "failpoint", full)
        writing = asyncio.ensure_future(database.write(put(make_job())))
        await asyncio.to_thread(committing.wait, 10)
        reading = asyncio.ensure_future(database.read(lambda tx: tx.ids()))
        go_on.set()
        refused = (await asyncio.gather(writing, return_exceptions=True))[0]

        assert isinstance(refused, CallsdError)
        assert refused.reason is Reason.DISK_FULL
        assert await reading == set()

    async def test_of_one_moment(self, database: Database) -> None:
        """Whatever is committed meanwhile: a read is about the moment it began, revision and all.

        A watch that goes on from there misses nothing and repeats nothing.
        """
        await database.write(put(make_job(id="before")))
        begun, go_on = threading.Event(), threading.Event()

        def look(tx: ReadTransaction) -> tuple[int, Page]:
            revision = tx.revision
            begun.set()
            assert go_on.wait(10)
            return revision, everything(tx)

        reading = asyncio.ensure_future(database.read(look))
        await asyncio.to_thread(begun.wait, 10)
        await database.write(put(make_job(id="meanwhile")))
        go_on.set()
        revision, page = await reading

        assert (revision, page.revision, [job.id for job in page.jobs]) == (1, 1, ["before"])
        after = await database.read(lambda tx: tx.changes_after(page.revision, 9))
        assert [change.job_id for change in after] == ["meanwhile"]

    async def test_ahead_of_those_who_listen(self, database: Database) -> None:
        """A page that shows a change has its revision, even if nobody was told of it yet."""
        committed, go_on = threading.Event(), threading.Event()

        def listen(changes: object) -> None:
            committed.set()
            assert go_on.wait(10)

        database.on_commit(listen)
        writing = asyncio.ensure_future(database.write(put(make_job(state=State.RUNNING))))
        await asyncio.to_thread(committed.wait, 10)

        page = await database.read(everything)

        assert (page.revision, [job.revision for job in page.jobs]) == (1, [1])
        go_on.set()
        await writing

    async def test_cannot_write(self, database: Database) -> None:
        """Who reads has no means of writing, and not even SQLite would let him."""
        await database.write(put(make_job()))

        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await database.read(lambda tx: tx._connection.execute("DELETE FROM jobs"))

        assert await database.read(lambda tx: tx.ids()) == {"job"}


class TestHeld:
    """Another program has the file for longer than the store is willing to wait."""

    async def test_reads_go_on(self, database: Database, path: Path) -> None:
        """Reads are answered while a write waits, which is done when the file is let go of."""
        await database.write(put(make_job(id="before")))
        with held(path):
            writing = asyncio.ensure_future(database.write(put(make_job(id="waits"))))
            for _ in range(20):
                assert await database.read(lambda tx: tx.ids()) == {"before"}
            assert not writing.done()

        assert (await writing).revision == 2

    async def test_writes_are_told(
        self, path: Path, open_database: OpenDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A write is refused with a reason and a time to try again; later it is as if never."""
        monkeypatch.setattr(module, "BUSY_TIMEOUT_SECONDS", 0.05)
        database = open_database()
        with held(path), pytest.raises(CallsdError) as refused:
            await database.write(put(make_job()))

        assert refused.value.reason is Reason.QUEUE_FULL
        assert refused.value.reason in module.BLOCKED
        assert "another program holds the job database" in refused.value.message
        assert refused.value.retry_after_seconds == 1.0
        assert await database.read(lambda tx: tx.ids()) == set()
        assert (await database.write(put(make_job()))).revision == 1
