# SPDX-License-Identifier: Apache-2.0
"""A database that is damaged while it is in use."""

import asyncio
import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.store.database import BLOCKED, Database
from callsd_daemon.store.read_transaction import JobFilter, Page, ReadTransaction
from callsd_daemon.store.transaction import Transaction
from tests.helpers.jobs import make_job, put


JOBS = 500
PAGE_BYTES = 4096


def fill(tx: Transaction) -> None:
    """Make more jobs than SQLite keeps in memory."""
    for number in range(JOBS):
        tx.put(make_job(id=f"job{number}", labels={"note": "x" * 8000}))


def everything(tx: ReadTransaction) -> Page:
    """All jobs."""
    return tx.page(wanted=JobFilter(), before=None, limit=JOBS)


def spoil(path: Path, *, first_page: int) -> None:
    """Have a disk lose what it was given, from one page on."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(first_page * PAGE_BYTES)
        file.write(b"\xff" * (size - file.tell()))


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
        await database.write(fill)
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
        await database.write(fill)
        go_on = threading.Event()
        waiting = asyncio.ensure_future(database.write(lambda _tx: go_on.wait(10)))
        # One that by itself would not meet it.
        works = (lambda _tx: "written", everything)
        beside = [asyncio.ensure_future(database.write(work)) for work in works]
        await asyncio.sleep(0)
        spoil(path, first_page=first_page)
        go_on.set()
        _, *ends = await asyncio.gather(waiting, *beside, return_exceptions=True)

        assert [getattr(end, "reason", end) for end in ends] == [Reason.DATABASE_DAMAGED] * 2

    async def test_stays_as_it_is(self, database: Database, path: Path, first_page: int) -> None:
        """Nothing is written any more, not even when it is closed: what is left can be saved."""
        await database.write(fill)
        spoil(path, first_page=first_page)
        await reason_of_reading(database)
        files = [path, path.with_name("callsd.db-wal")]
        before = [file.read_bytes() for file in files]
        with pytest.raises(CallsdError):
            await database.write(fill)
        database.close()

        assert [file.read_bytes() for file in files] == before


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
    await database.write(fill)
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
    await database.write(fill)
    assert is_held(path)

    assert database._damage._is_readable()
    assert is_held(path)
