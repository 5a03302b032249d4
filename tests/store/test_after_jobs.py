# SPDX-License-Identifier: Apache-2.0
"""Jobs that begin after others: when it is their turn, and what is kept for them."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from callsd_daemon.domain.capture import CAPTURE
from callsd_daemon.domain.jobs import Job, State
from callsd_daemon.domain.recording import RECORDING
from callsd_daemon.domain.transcription import Track
from callsd_daemon.kinds.stored import codec
from callsd_daemon.store import migrations
from callsd_daemon.store.database import Database
from callsd_daemon.store.migrations import MIGRATIONS
from callsd_daemon.store.read_transaction import ReadTransaction
from tests.helpers.jobs import NOW, SPEC, make_job, put


OpenDatabase = Callable[..., Database]

VERSION_OF_ONE = 6
"""Until then a job began after one other at most."""

UNFINISHED = (State.QUEUED, State.STARTING, State.RUNNING, State.STOPPING)
FINAL = (State.SUCCEEDED, State.FAILED, State.CANCELLED)


def recording(state: State) -> Job:
    """A recording whose time is up."""
    return make_job(id="recording", kind=RECORDING, state=state, expire_time=NOW)


def capture(state: State) -> Job:
    """A capture whose time is up."""
    return make_job(id="capture", kind=CAPTURE, state=state, expire_time=NOW)


def transcription(state: State = State.QUEUED) -> Job:
    """What begins after both."""
    return make_job(id="transcription", state=state, after_jobs=("recording", "capture"))


async def put_all(database: Database, *jobs: Job) -> None:
    """Write these jobs, in this order."""
    await database.write(lambda tx: [tx.put(job) for job in jobs])


def queue(tx: ReadTransaction) -> tuple[list[str], int, str]:
    """Who waits for room, how many these are, and who is next."""
    first = tx.first_queued()
    return list(tx.queue_positions()), tx.queue_length(), "" if first is None else first.id


class TestTurn:
    """The queue is of those that wait for nothing but room."""

    @pytest.mark.parametrize("last", ["recording", "capture"])
    @pytest.mark.parametrize("before", UNFINISHED)
    async def test_waits_for_all(self, database: Database, before: State, last: str) -> None:
        """Whichever of two ends last, until then the job is not in the queue, nor holds it up."""
        states = {"recording": State.SUCCEEDED, "capture": State.SUCCEEDED, last: before}
        await put_all(
            database, recording(states["recording"]), capture(states["capture"]), transcription()
        )
        waiting, length, first = await database.read(queue)
        assert "transcription" not in waiting
        assert length == len(waiting)
        assert first != "transcription"

    @pytest.mark.parametrize("end", FINAL)
    async def test_however_they_end(self, database: Database, end: State) -> None:
        """Once all have ended, well or not, it is its turn."""
        await put_all(database, recording(end), capture(end), transcription())
        assert await database.read(queue) == (["transcription"], 1, "transcription")

    async def test_gone(self, database: Database) -> None:
        """A job that is there no more is not waited for."""
        await put_all(database, capture(State.SUCCEEDED), transcription())
        assert await database.read(queue) == (["transcription"], 1, "transcription")


class TestKept:
    """What a job takes its sound from is there until that job has ended."""

    @pytest.mark.parametrize("state", UNFINISHED)
    async def test_while_it_is_needed(self, database: Database, state: State) -> None:
        """However long the job waits and works, neither of the two is due for removal."""
        both = recording(State.SUCCEEDED), capture(State.SUCCEEDED)
        await put_all(database, *both, transcription(state))

        def look(tx: ReadTransaction) -> tuple[list[str], list[str]]:
            due = [job.id for job in tx.expired(NOW + timedelta(days=1), 9)]
            return due, [tx.needed_by(name) for name in ("recording", "capture", "transcription")]

        assert await database.read(look) == ([], ["transcription", "transcription", ""])

    @pytest.mark.parametrize("state", FINAL)
    async def test_no_longer(self, database: Database, state: State) -> None:
        """When it has ended they go as all others do."""
        both = recording(State.SUCCEEDED), capture(State.SUCCEEDED)
        await put_all(database, *both, transcription(state))

        def look(tx: ReadTransaction) -> tuple[set[str], str]:
            return {job.id for job in tx.expired(NOW, 9)}, tx.needed_by("capture")

        assert await database.read(look) == ({"recording", "capture"}, "")

    async def test_one_of_two(self, database: Database) -> None:
        """While one job needs it, it does not matter that another one has ended."""
        await put_all(
            database,
            capture(State.SUCCEEDED),
            transcription(State.SUCCEEDED),
            replace(transcription(), id="again"),
        )
        assert await database.read(lambda tx: tx.needed_by("capture")) == "again"
        assert await database.read(lambda tx: tx.expired(NOW, 9)) == ()

    async def test_nobody_else_is_held_up(self, database: Database) -> None:
        """What no job needs is removed, and so many at a time are found besides what is kept."""
        await put_all(
            database,
            recording(State.SUCCEEDED),
            transcription(),
            make_job(id="other", state=State.FAILED, expire_time=NOW + timedelta(seconds=1)),
        )
        found = await database.read(lambda tx: tx.expired(NOW + timedelta(days=1), 1))
        assert [job.id for job in found] == ["other"]


def with_one(job: Job, after_job: str) -> bytes:
    """A job's body as it was when it began after one other at most."""
    fields = msgspec.to_builtins(job)
    del fields["after_jobs"]
    return msgspec.json.encode(fields | {"after_job": after_job})


@pytest.fixture
def old(path: Path) -> Path:
    """A database of that time, with a recording, a job that waits for it, and its history."""
    with pytest.MonkeyPatch.context() as older:
        older.setattr(migrations, "MIGRATIONS", MIGRATIONS[:VERSION_OF_ONE])
        Database(path, codec()).close()
    spec = replace(SPEC, tracks=(Track(speaker="Call", recording="recording"),))
    rows = [
        (replace(recording(State.RUNNING), revision=1), ""),
        (make_job(id="later", revision=2, spec=spec), "recording"),
        (make_job(id="other", revision=3), ""),
    ]
    with closing(sqlite3.connect(path)) as connection, connection:
        for job, after_job in rows:
            body, held = with_one(job, after_job), job.reservation
            connection.execute(
                "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, NULL, NULL, ?, ?, ?, ?, ?, '')",
                (
                    *(job.id, job.revision, job.state, job.kind, job.cost_key),
                    *(held.cores, held.memory_bytes, held.disk_bytes, body, after_job),
                ),
            )
            connection.execute(
                "INSERT INTO changes VALUES (?, ?, ?, ?)", (job.revision, job.id, len(body), body)
            )
        connection.execute("INSERT INTO changes VALUES (4, 'gone', 0, NULL)")
    return path


class TestOneBefore:
    """Databases of the time when a job began after one other at most."""

    async def test_migrated(self, old: Path, open_database: OpenDatabase) -> None:
        """What waits goes on waiting for the same job; jobs and history tell the same of it."""
        database = open_database(old)

        def look(tx: ReadTransaction) -> dict[str, tuple[str, ...]]:
            return {name: tx.find(name).after_jobs for name in ("recording", "later", "other")}

        assert await database.read(look) == {"recording": (), "later": ("recording",), "other": ()}
        assert await database.read(queue) == (["other"], 1, "other")
        changes = await database.read(lambda tx: tx.changes_after(0, 9))
        told = [None if one.job is None else one.job.after_jobs for one in changes]
        assert told == [(), ("recording",), (), None]
        for table in ("jobs", "changes"):
            bodies = database._connection.execute(
                f"SELECT body FROM {table} WHERE body IS NOT NULL"  # noqa: S608
            )
            texts = [bytes(body) for (body,) in bodies]
            assert [b'"after_jobs":["recording"]' in text for text in texts] == [False, True, False]

    async def test_goes_on(self, old: Path, open_database: OpenDatabase) -> None:
        """After the recording's end it is that job's turn, before those that came later."""
        database = open_database(old)
        await database.write(put(replace(recording(State.SUCCEEDED), expire_time=NOW)))
        assert await database.read(queue) == (["later", "other"], 2, "later")
        assert await database.read(lambda tx: tx.needed_by("recording")) == "later"
        assert await database.read(lambda tx: tx.expired(NOW, 9)) == ()

    async def test_backup(self, old: Path, open_database: OpenDatabase) -> None:
        """What it was before is kept aside."""
        open_database(old).close()
        backup = old.with_name(f"callsd.db.v{VERSION_OF_ONE}.bak")
        with closing(sqlite3.connect(backup)) as connection:
            rows = connection.execute("SELECT id, after_job FROM jobs ORDER BY accepted_revision")
            assert rows.fetchall() == [("recording", ""), ("later", "recording"), ("other", "")]
