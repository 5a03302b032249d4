# SPDX-License-Identifier: Apache-2.0
"""A database that is damaged while it is in use."""

import asyncio
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import State
from callsd_daemon.store import damage
from callsd_daemon.store.database import BLOCKED, Database
from callsd_daemon.store.read_transaction import JobFilter, Page, ReadTransaction
from callsd_daemon.store.transaction import Transaction
from tests.helpers.jobs import MANY, fill, make_job, put


PAGE_BYTES = 4096

MEET = """
import asyncio, shutil, sys; from pathlib import Path
from callsd_daemon.kinds.stored import codec
from callsd_daemon.store.database import Database
from tests.store.test_damage import reason_of_reading, spoil, write_many
async def work(path):
    database = Database(path, codec())
    await write_many(database)
    spoil(path, first_page=40)
    await reason_of_reading(database)
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{path}{suffix}", f"{path}{suffix}.before")
    database.close()
asyncio.run(work(Path(sys.argv[1])))
"""


async def write_many(database: Database) -> None:
    """Have more jobs than SQLite keeps in memory, and the last change in its log alone."""
    await database.write(fill)
    # The log is emptied once after the first write, which may have been answered by then.
    await database.write(lambda tx: tx.revision)
    await database.write(put(make_job()))


def everything(tx: ReadTransaction) -> Page:
    """All jobs."""
    return tx.page(wanted=JobFilter(), before=None, limit=MANY)


def spoil(path: Path, *, first_page: int) -> None:
    """Have a disk lose what it was given, from one page on."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(first_page * PAGE_BYTES)
        file.write(b"\xff" * (size - file.tell()))


def spoil_schema(path: Path) -> None:
    """Have a byte in it that no text has."""
    content = path.read_bytes()
    changed = content.replace(b"jobs_by_state ON", b"jobs_by_state \xffN")
    assert changed != content
    path.write_bytes(changed)


async def reason_of_reading(database: Database) -> Reason:
    """Why not all jobs can be read."""
    with pytest.raises(CallsdError) as refused:
        await database.read(everything)
    return refused.value.reason


@pytest.mark.parametrize("first_page", [0, 5, 40], ids=["header", "pages", "jobs"])
class TestDamaged:
    """Pages are not what SQLite has written: real damage, of a real file."""

    async def test_is_told(self, database: Database, path: Path, first_page: int) -> None:
        """Who meets it is told what it is and what to do, and so is everybody who writes."""
        await write_many(database)
        assert not database.is_damaged
        spoil(path, first_page=first_page)

        assert await reason_of_reading(database) is Reason.DATABASE_DAMAGED
        assert database.is_damaged
        with pytest.raises(CallsdError, match="callsd restore") as refused:
            await database.write(put(make_job()))
        assert refused.value.reason is Reason.DATABASE_DAMAGED
        assert refused.value.reason in BLOCKED

    async def test_nothing_beside_it_is_kept(
        self, database: Database, path: Path, first_page: int
    ) -> None:
        """What shares its transaction with who meets the damage is not acknowledged either."""
        await write_many(database)
        begun, go_on = threading.Event(), threading.Event()

        def hold(_tx: Transaction) -> bool:
            begun.set()
            return go_on.wait(60)

        holding = asyncio.ensure_future(database.write(hold))
        assert await asyncio.to_thread(begun.wait, 60)
        # One that by itself would not meet it.
        works = (lambda _tx: "written", everything)
        beside = [asyncio.ensure_future(database.write(work)) for work in works]
        await asyncio.sleep(0)
        spoil(path, first_page=first_page)
        go_on.set()
        held, *ends = await asyncio.gather(holding, *beside, return_exceptions=True)

        assert held is True
        assert [getattr(end, "reason", end) for end in ends] == [Reason.DATABASE_DAMAGED] * 2

    async def test_stays_as_it_is(self, database: Database, path: Path, first_page: int) -> None:
        """Nothing is written any more, not even when it is closed: what is left can be saved."""
        await write_many(database)
        spoil(path, first_page=first_page)
        await reason_of_reading(database)
        files = [path, path.with_name("callsd.db-wal")]
        before = [file.read_bytes() for file in files]
        assert all(before)
        with pytest.raises(CallsdError):
            await database.write(fill)
        database.close()

        assert [file.read_bytes() for file in files] == before


async def test_an_index_of_yesterday(open_database: Callable[..., Database], path: Path) -> None:
    """A disk that has lost one change of an index is found out when that is met."""
    database = open_database()
    await database.write(put(make_job()))
    query = "SELECT rootpage FROM sqlite_schema WHERE name = 'jobs_by_state'"
    page = database._scalar(query) - 1
    database.close()
    before = path.read_bytes()[page * PAGE_BYTES :][:PAGE_BYTES]
    database = open_database()
    await database.write(put(make_job(state=State.RUNNING)))
    database.close()
    with path.open("r+b") as file:
        file.seek(page * PAGE_BYTES)
        file.write(before)
    database = open_database()

    with pytest.raises(CallsdError) as refused:
        await database.write(put(make_job(state=State.SUCCEEDED)))
    assert refused.value.reason is Reason.DATABASE_DAMAGED


async def test_a_message_that_is_no_text(database: Database, path: Path) -> None:
    """What SQLite quotes of the damage may be anything, and is damage."""
    await database.write(fill)
    # The log is empty then: of what is in it the file's pages are not looked at.
    await database.write(lambda tx: tx.revision)
    spoil(path, first_page=40)
    spoil_schema(path)

    assert await reason_of_reading(database) is Reason.DATABASE_DAMAGED
    assert "malformed database schema" in database._damage.problem


async def test_a_look_that_fails(
    database: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever meets the damage is answered all the same, and whoever comes afterwards."""
    await write_many(database)
    spoil(path, first_page=40)
    monkeypatch.setattr(damage, "check_database", lambda *_, **__: 1 / 0)

    for ask in (database.read, database.write):
        with pytest.raises(ZeroDivisionError):
            await ask(everything)
        assert await ask(lambda tx: tx.revision) > MANY


def test_the_end_of_the_process(path: Path) -> None:
    """A process that has met damage leaves the files as they are, to its very end."""
    done = subprocess.run([sys.executable, "-c", MEET, path], check=False, timeout=60)
    assert done.returncode == 0

    wal = path.with_name("callsd.db-wal")
    for file in (path, wal):
        assert file.read_bytes() == file.with_suffix(f"{file.suffix}.before").read_bytes()
    assert wal.stat().st_size


def is_held(path: Path) -> bool:
    """Whether others see that SQLite has the file, by the lock that it has on it all the time."""
    code = (
        "import fcntl, sys\n"
        "with open(sys.argv[1], 'r+b') as file:\n"
        "    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], check=False, capture_output=True, timeout=30
    )
    assert not done.returncode or b"BlockingIOError" in done.stderr
    return done.returncode != 0


async def test_a_disk_that_gives_nothing_back(
    database: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be read is not called damaged, but what is still wrong when it can be is."""
    await write_many(database)
    spoil(path, first_page=5)

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "pread", fail)
        assert await reason_of_reading(database) is Reason.DISK_FULL
        assert not database.is_damaged
    # It is not read as a whole for everybody who asks.
    assert await reason_of_reading(database) is Reason.DISK_FULL
    database._damage._look_time = 0.0

    assert await reason_of_reading(database) is Reason.DATABASE_DAMAGED


async def test_to_look_costs_no_lock(database: Database, path: Path) -> None:
    """Other programs still see that the file is in use: else one of them could remove its log."""
    await write_many(database)
    assert is_held(path)

    assert database._damage._is_readable()
    assert is_held(path)
