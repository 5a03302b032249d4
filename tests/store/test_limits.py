# SPDX-License-Identifier: Apache-2.0
"""What is read and kept is bounded in bytes, and found without looking through everything."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from callsd_daemon.domain.captions import CAPTIONS
from callsd_daemon.domain.jobs import Job, State
from callsd_daemon.store.database import Database
from callsd_daemon.store.read_transaction import COUNTED_LABELS, JobFilter, Page, ReadTransaction
from callsd_daemon.store.transaction import Transaction
from tests.helpers.jobs import NOW, make_job, put
from tests.helpers.old_store import make_old


OpenDatabase = Callable[..., Database]

MANY = 3000
COMMON = {f"k{number}": "v" * 30 for number in range(8)}

COUNTING = 10 * COUNTED_LABELS
"""Steps to see how common a label is; to look at each job would take some 300,000."""

LARGE = {"long": "x" * 9000}
LARGE_BYTES = 9000


def page(tx: ReadTransaction, **wanted: Any) -> Page:
    """A page of jobs; everything matches but for what is given."""
    rest = {key: wanted.pop(key) for key in ("before", "limit", "max_bytes") if key in wanted}
    return tx.page(wanted=JobFilter(**wanted), **{"before": None, "limit": 50, **rest})


def ids(found: Page) -> list[str]:
    """The ids of a page's jobs."""
    return [job.id for job in found.jobs]


def put_all(*jobs: Job) -> Callable[[Transaction], None]:
    """Work for the store: write all of these."""

    def work(tx: Transaction) -> None:
        for job in jobs:
            tx.put(job)

    return work


async def steps(database: Database, **wanted: Any) -> int:
    """How much SQLite does for a page."""
    return await counted(database, lambda tx: page(tx, **wanted))


async def counted(database: Database, reading: Callable[[ReadTransaction], object]) -> int:
    """How much SQLite does to read something, counted in steps of its machine."""
    connection, taken = database._reading, 0

    def count() -> int:
        nonlocal taken
        taken += 1
        return 0

    def work(tx: ReadTransaction) -> None:
        connection.set_progress_handler(count, 1)
        try:
            reading(tx)
        finally:
            connection.set_progress_handler(None, 0)

    await database.read(work)
    return taken


class TestLabels:
    """Jobs are found by their labels."""

    @pytest.fixture
    async def full(self, database: Database) -> Database:
        """Many finished jobs, all with the same labels, one of them with one more."""
        jobs = [
            make_job(id=f"job{number}", state=State.SUCCEEDED, labels=COMMON)
            for number in range(MANY)
        ]
        jobs[MANY // 2] = make_job(id="one", state=State.SUCCEEDED, labels={**COMMON, "a": "b"})
        await database.write(put_all(*jobs))
        return database

    @pytest.mark.parametrize(
        "labels",
        [
            {"team": "nobody's"},
            {**COMMON, "k7": "no"},
            {"k0": "no", **COMMON, "k7": "no"},
            {"a": "b"},
            {**COMMON, "a": "b"},
        ],
    )
    async def test_rare(self, full: Database, labels: dict[str, str]) -> None:
        """However many jobs there are, looking for labels that few have takes next to nothing."""
        assert await steps(full, labels=labels) < COUNTING * len(labels) + 1000

    async def test_common(self, full: Database) -> None:
        """A page of what all jobs have is as long as the page, not as the list."""
        assert await steps(full, labels=COMMON) < COUNTING * len(COMMON) + 50 * 250
        found = await full.read(lambda tx: page(tx, labels=COMMON))
        assert ids(found) == [f"job{number}" for number in range(MANY - 1, MANY - 51, -1)]

    async def test_with_names(self, full: Database) -> None:
        """Labels are looked up for the jobs that are named, not the other way round."""
        names = ("job1", "job2", "one", "nobody")

        assert await steps(full, labels=COMMON, ids=names) < 2000
        found = await full.read(lambda tx: page(tx, labels={"a": "b"}, ids=names))
        assert ids(found) == ["one"]

    async def test_with_everything(self, full: Database) -> None:
        """Labels, states and kinds narrow each other down, over several pages."""
        common = {"labels": {"k0": "v" * 30}, "states": {State.SUCCEEDED, State.FAILED}}
        first = await full.read(lambda tx: page(tx, **common, limit=2000))
        rest = await full.read(lambda tx: page(tx, **common, limit=2000, before=first.next_before))
        none = await full.read(lambda tx: page(tx, **common, kinds={CAPTIONS}))

        assert len({*ids(first), *ids(rest)}) == len(first.jobs) + len(rest.jobs)
        assert first.next_before is not None
        assert none.jobs == ()

    async def test_follow_their_job(self, database: Database) -> None:
        """A job is found by the labels that it has now, and not once it is removed."""

        async def found(**labels: str) -> list[str]:
            return ids(await database.read(lambda tx: page(tx, labels=labels)))

        await database.write(put(make_job(labels={"room": "1", "team": "red"})))
        await database.write(
            put(make_job(state=State.RUNNING, labels={"room": "1", "team": "red"}))
        )
        assert await found(room="1", team="red") == ["job"]

        await database.write(put(make_job(state=State.RUNNING, labels={"room": "2"})))
        assert await found(room="1") == await found(team="red") == []
        assert await found(room="2") == ["job"]

        await database.write(lambda tx: tx.delete("job"))
        assert await found(room="2") == []
        assert database._scalar("SELECT count(*) FROM labels") == 0


class TestSweep:
    """What is looked for every half minute."""

    @pytest.mark.parametrize(
        "look",
        [
            pytest.param(lambda tx: tx.expired(NOW, 100), id="due"),
            pytest.param(lambda tx: list(tx.unfinished()), id="unfinished"),
        ],
    )
    async def test_few(self, database: Database, look: Callable[[ReadTransaction], object]) -> None:
        """However many jobs have ended, to find those that are due, or go on, takes nothing."""
        later = NOW + timedelta(days=1)
        jobs = [
            make_job(id=f"job{number}", state=State.SUCCEEDED, expire_time=later)
            for number in range(MANY)
        ]
        await database.write(put_all(*jobs))

        assert await counted(database, look) < 1000

    async def test_ids(self, database: Database) -> None:
        """All ids come in parts, each once."""
        names = {f"job{number}" for number in range(10)}
        await database.write(put_all(*(make_job(id=name) for name in names)))
        found, last = list[str](), ""
        while part := await database.read(partial(ReadTransaction.ids, after=last, limit=3)):
            assert len(part) <= 3
            found += part
            last = max(part)

        assert sorted(found) == sorted(names)


class TestBytes:
    """Large jobs."""

    async def test_page(self, database: Database) -> None:
        """A page ends when it is full, with one job at least, and the next one goes on from it."""
        await database.write(
            put_all(*(make_job(id=f"job{number}", labels=LARGE) for number in range(7)))
        )
        seen, sizes, before = list[str](), list[int](), None
        while before is not None or not seen:
            found = await database.read(
                lambda tx, before=before: page(  # type: ignore[misc]
                    tx, before=before, max_bytes=3 * LARGE_BYTES
                )
            )
            seen += ids(found)
            sizes.append(len(found.jobs))
            before = found.next_before
        alone = await database.read(lambda tx: page(tx, max_bytes=1))

        assert seen == [f"job{number}" for number in reversed(range(7))]
        assert sizes == [2, 2, 2, 1]
        assert ids(alone) == ["job6"]

    async def test_changes(self, database: Database) -> None:
        """Changes are read up to a length, one at least."""
        await database.write(
            put_all(*(make_job(id=f"job{number}", labels=LARGE) for number in range(5)))
        )

        some = await database.read(lambda tx: tx.changes_after(1, 99, max_bytes=3 * LARGE_BYTES))
        one = await database.read(lambda tx: tx.changes_after(1, 99, max_bytes=1))

        assert [change.revision for change in some] == [2, 3]
        assert [change.revision for change in one] == [2]

    async def test_history(self, open_database: OpenDatabase) -> None:
        """The history of large jobs is cut by its length, and what is left of it can be resumed."""
        database = open_database(history=100, history_bytes=5 * LARGE_BYTES)
        for number in range(20):
            await database.write(put(make_job(id="large", labels=LARGE)))
            await database.write(put(make_job(id=f"small{number}")))
            await database.write(lambda tx: tx.delete("large"))
        oldest = await database.read(lambda tx: tx.oldest_resumable())
        kept = await database.read(lambda tx: tx.changes_after(oldest, 99))
        length = database._scalar("SELECT sum(length(body)) FROM changes")

        assert 4 * LARGE_BYTES < length < 7 * LARGE_BYTES
        assert [change.revision for change in kept] == list(range(oldest + 1, 61))

    async def test_larger_than_the_history(self, open_database: OpenDatabase) -> None:
        """The latest change is kept, however long it is: revisions go on from it."""
        database = open_database(history_bytes=10)
        await database.write(put_all(*(make_job(id=f"job{n}", labels=LARGE) for n in range(3))))

        assert await database.read(lambda tx: tx.oldest_resumable()) == 2
        assert database.revision == 3


class TestOlderDatabases:
    """Databases made before labels had a table of their own."""

    async def test_migrated(self, path: Path, open_database: OpenDatabase) -> None:
        """Jobs are found by their labels as before, and watches resume from where they were."""
        jobs = [
            make_job(id="plain", revision=1),
            make_job(id="odd", revision=2, labels={"team.x": 'a "b" é\u2028'}),
            make_job(id="large", revision=3, labels=LARGE),
        ]
        make_old(path, 3, *jobs)
        database = open_database(history_bytes=LARGE_BYTES)

        found = await database.read(lambda tx: page(tx, labels=jobs[1].labels))
        changes = await database.read(lambda tx: tx.changes_after(0, 99))
        assert list(found.jobs) == jobs[1:2]
        assert [change.job for change in changes] == jobs

        await database.write(lambda tx: tx.delete("odd"))
        assert await database.read(lambda tx: tx.oldest_resumable()) == 2
        assert ids(await database.read(lambda tx: page(tx, labels=jobs[1].labels))) == []
