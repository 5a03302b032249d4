# SPDX-License-Identifier: Apache-2.0

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from callsd.v1.job_pb2 import JOB_STATE_CANCELLED, JobEvent, WatchJobsResponse
from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import State
from callsd_daemon.kinds.stored import codec
from callsd_daemon.rpc.jobs import render_change
from callsd_daemon.store.database import Database
from callsd_daemon.store.read_transaction import Change, JobFilter
from callsd_daemon.usecases import changes as module
from callsd_daemon.usecases.changes import Batch, Changes
from callsd_daemon.usecases.streams import Streams
from tests.helpers.jobs import make_job, put


WAIT_SECONDS = 20.0


def new_changes() -> Changes:
    """Nothing has happened yet."""
    empty = cast(Database, SimpleNamespace(revision=0))
    return Changes(empty, Streams(limit=1), render_change)


class TestChanges:
    """What watchers are told."""

    def test_ahead_of_the_feed(self) -> None:
        """Who has read of a change before it was published is told of the next one only."""
        feed = new_changes()
        three = [Change(revision=number, job_id=f"job{number}", job=None) for number in (1, 2, 3)]
        feed.publish(three[:1])
        assert feed._after(2) == []

        feed.publish(three[1:2])
        assert feed._after(2) == []

        feed.publish(three[2:])
        items = feed._after(2)
        assert items is not None
        assert [item.revision for item in items] == [3]

    def test_made_once(self) -> None:
        """What tells of a change is serialised once, and sent to all who watch as it is."""
        feed = new_changes()
        feed.publish([Change(revision=1, job_id="job1", job=None)])
        one, other = feed._after(0), feed._after(0)

        assert one is not None
        assert other is not None
        assert one[0].message is other[0].message
        told = WatchJobsResponse.FromString(one[0].message)
        assert [(event.revision, event.job_deleted) for event in told.events] == [(1, "jobs/job1")]

    def test_bounded_by_bytes(self) -> None:
        """Large changes are forgotten early: their watchers are sent to the store for them."""
        feed, labels = new_changes(), {"long": "x" * 1024**2}
        large = [
            Change(revision=number, job_id="large", job=make_job(revision=number, labels=labels))
            for number in range(1, 21)
        ]
        feed.publish(large)
        oldest = next(number for number in range(20) if feed._after(number) is not None)

        assert 20 - 8 <= oldest <= 20 - 7
        assert feed._after(oldest - 1) is None

    def test_message(self) -> None:
        """A message has some hundreds of small events, or few large ones, or a single huge one."""
        feed = new_changes()
        sizes = [100_000, 100_000, 100_000, 500_000, *[10] * 600]
        feed.publish(
            [
                Change(
                    revision=number,
                    job_id="job",
                    job=make_job(revision=number, labels={"long": "x" * size}),
                )
                for number, size in enumerate(sizes, start=1)
            ]
        )
        cursor, messages = 0, list[int]()
        while items := feed._after(cursor):
            assert [item.revision for item in items] == list(
                range(cursor + 1, cursor + 1 + len(items))
            )
            cursor = items[-1].revision
            messages.append(len(items))

        assert cursor == len(sizes)
        assert messages[:4] == [2, 1, 1, 500]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A new database."""
    database = Database(tmp_path / "callsd.db", codec())
    yield database
    database.close()


def of(database: Database) -> Changes:
    """What is told of the database's changes."""
    changes, loop = Changes(database, Streams(limit=2), render_change), asyncio.get_running_loop()
    database.on_commit(lambda told: loop.call_soon_threadsafe(changes.publish, told))
    return changes


@pytest.fixture
async def changes(database: Database) -> Changes:
    """What is told of the database's changes."""
    return of(database)


def watch(changes: Changes, wanted: JobFilter) -> AsyncGenerator[Batch, None]:
    """All that matches, and what comes after."""
    return changes.watch(wanted, lambda batch: batch, database_id="", resume_revision=None)


def events(batch: Batch) -> list[JobEvent]:
    """What a watcher is told of by a message."""
    told = list[JobEvent]()
    for message in batch.messages:
        told += WatchJobsResponse.FromString(message).events
    return told


async def follow(watch: AsyncGenerator[Batch, None], revision: int) -> list[JobEvent]:
    """What a watcher is told of until it knows of a revision."""
    told = list[JobEvent]()
    async with asyncio.timeout(WAIT_SECONDS):
        async for batch in watch:
            told += events(batch)
            if batch.is_initial_state_sent and batch.revision >= revision:
                return told
    raise AssertionError("the watch has ended")


def names(told: list[JobEvent]) -> list[str]:
    """Names of the jobs."""
    return [event.job_changed.name for event in told]


class TestWatch:
    """A watch of a real database."""

    async def test_empty(self, changes: Changes) -> None:
        """Where there are no jobs, this is said at once."""
        batch = await asyncio.wait_for(anext(watch(changes, JobFilter())), WAIT_SECONDS)

        assert batch == Batch(messages=[], revision=0, is_initial_state_sent=True)

    async def test_several_pages(self, changes: Changes, database: Database) -> None:
        """More jobs than fit into one message come complete, and what changes meanwhile too."""
        jobs = [make_job(id=f"job{number}") for number in range(450)]
        await database.write(lambda tx: [tx.put(job) for job in jobs])
        watching = watch(changes, JobFilter())
        first = await asyncio.wait_for(anext(watching), WAIT_SECONDS)
        assert not first.is_initial_state_sent
        for job in jobs[::45]:
            await database.write(put(replace(job, state=State.CANCELLED)))
        told = events(first) + await follow(watching, database.revision)

        assert len(told) == len({event.revision for event in told})
        state = {event.job_changed.name: event.job_changed.state for event in told}
        assert len(state) == len(jobs)
        cancelled = {name for name, found in state.items() if found == JOB_STATE_CANCELLED}
        assert cancelled == {f"jobs/{job.id}" for job in jobs[::45]}

    async def test_filter(self, changes: Changes, database: Database) -> None:
        """Only jobs that match are told of, from the beginning on."""
        jobs = {name: make_job(id=name, labels={"call": name[0]}) for name in ("a1", "a2", "b1")}
        for job in jobs.values():
            await database.write(put(job))
        by_label = watch(changes, JobFilter(labels={"call": "a"}))
        by_name = watch(changes, JobFilter(ids=["b1"]))
        assert names(await follow(by_label, database.revision)) == ["jobs/a1", "jobs/a2"]
        assert names(await follow(by_name, database.revision)) == ["jobs/b1"]
        for name in ("a2", "b1", "a1"):
            await database.write(put(replace(jobs[name], state=State.CANCELLED)))

        assert names(await follow(by_label, database.revision)) == ["jobs/a2", "jobs/a1"]
        assert names(await follow(by_name, database.revision - 1)) == ["jobs/b1"]

    async def test_bookmarks(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        """An idle watch still tells the revision, even if nothing matches its filter."""
        monkeypatch.setattr(module, "BOOKMARK_SECONDS", 0.05)
        changes = of(database)
        watching = watch(changes, JobFilter(labels={"no": "such"}))
        assert await follow(watching, 0) == []
        await database.write(put(make_job()))

        assert await follow(watching, database.revision) == []

    async def test_bookmarks_among_changes(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A watch whose filter nothing matches tells the revision however much happens."""
        monkeypatch.setattr(module, "BOOKMARK_SECONDS", 0.2)
        changes = of(database)
        watching = watch(changes, JobFilter(labels={"no": "such"}))
        assert await follow(watching, 0) == []

        async def work() -> None:
            while True:
                await database.write(put(make_job()))

        working = asyncio.create_task(work())
        batch = await asyncio.wait_for(anext(watching), WAIT_SECONDS)
        working.cancel()

        assert (batch.messages, batch.revision > 0) == ([], True)

    async def test_ends(self, changes: Changes) -> None:
        """Who waits for something new is told of the daemon's end at once."""
        watching = watch(changes, JobFilter())
        await anext(watching)
        waiting = asyncio.ensure_future(anext(watching))
        await asyncio.sleep(0)
        changes._streams.close()
        changes.wake()

        with pytest.raises(CallsdError) as caught:
            await asyncio.wait_for(waiting, WAIT_SECONDS)
        assert caught.value.reason is Reason.DRAINING
