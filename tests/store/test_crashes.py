# SPDX-License-Identifier: Apache-2.0

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.store.database import Database
from tests.helpers.jobs import make_job, put


WRITER = Path(__file__).with_name("writer.py")
LIMITED = Path(__file__).with_name("limited_writer.py")
ROOT = Path(__file__).parents[2]


def run(
    program: Path, path: Path, count: int, failpoints: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run a program that writes jobs to its end, whatever that is."""
    return subprocess.run(
        [sys.executable, str(program), str(path), str(count)],
        env={**os.environ, "CALLSD_FAILPOINTS": failpoints, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


class TestKilled:
    """What a `kill -9` leaves behind."""

    @pytest.mark.parametrize(
        ("failpoint", "acknowledged", "stored"),
        [
            ("store.before_commit=1", 0, 0),
            ("store.before_commit=4", 3, 3),
            # Written, but its caller never heard of it: it is there, as a retry will find.
            ("store.after_commit=1", 0, 1),
            ("store.after_commit=4", 3, 4),
        ],
    )
    async def test_at_commit(
        self,
        path: Path,
        open_database: Callable[..., Database],
        failpoint: str,
        acknowledged: int,
        stored: int,
    ) -> None:
        """Every acknowledged job is there, and none of what was not committed."""
        killed = run(WRITER, path, 6, failpoint)
        database = open_database()

        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert killed.stdout.split() == [f"job{number}" for number in range(acknowledged)]
        assert await database.read(lambda tx: tx.ids()) == {
            f"job{number}" for number in range(stored)
        }
        assert database.revision == stored
        job = await database.write(put(make_job(id="next")))
        assert job.revision == stored + 1

    async def test_not_at_all(self, path: Path, open_database: Callable[..., Database]) -> None:
        """A failpoint that is not due harms nobody."""
        done = run(WRITER, path, 2, "store.after_commit=3,create.before_reply")

        assert (done.returncode, done.stdout.split()) == (0, ["job0", "job1"])
        assert await open_database().read(lambda tx: tx.ids()) == {"job0", "job1"}

    async def test_during_the_very_first_start(
        self, path: Path, open_database: Callable[..., Database]
    ) -> None:
        """A database that was never finished is no database: the next start makes a new one."""
        draft = path.with_name("callsd.db.new")
        draft.write_bytes(b"half a header")
        draft.with_name("callsd.db.new-wal").write_bytes(b"half a log")

        database = open_database()

        assert await database.read(lambda tx: tx.ids()) == set()
        assert not list(path.parent.glob("*.new*"))


def limit_pages(database: Database, extra: int) -> None:
    """Let the file grow by so many pages and no more."""
    pages = database._scalar("PRAGMA page_count")
    database._connection.execute(f"PRAGMA max_page_count = {pages + extra}")


class TestDiskFull:
    """No space is left."""

    async def fill(self, database: Database) -> int:
        """Write large jobs until one is refused; returns how many were acknowledged."""
        for number in range(1000):
            large = make_job(id=f"job{number}", labels={"note": "x" * 20_000})
            try:
                await database.write(put(large))
            except CallsdError as refusal:
                self.refusal = refusal
                return number
        return -1

    async def test_no_more_pages(self, database: Database) -> None:
        """A full database says DISK_FULL, keeps what it has, and goes on when there is space."""
        limit_pages(database, extra=40)

        written = await self.fill(database)

        assert written > 0
        assert self.refusal.reason is Reason.DISK_FULL
        assert self.refusal.retry_after_seconds == 10.0
        everything = {f"job{number}" for number in range(written)}
        assert await database.read(lambda tx: tx.ids()) == everything
        assert database.revision == written

        limit_pages(database, extra=1000)
        job = await database.write(put(make_job(id="next")))

        assert job.revision == written + 1
        assert database._scalar("PRAGMA integrity_check") == "ok"

    async def test_no_more_bytes(self, path: Path, open_database: Callable[..., Database]) -> None:
        """Files that may not grow have the same reason, and every acknowledged job stays."""
        done = run(LIMITED, path, 100)
        assert done.returncode == 0, done.stderr
        written, reason = done.stdout.split()

        assert int(written) > 0
        assert reason == Reason.DISK_FULL
        assert await open_database().read(lambda tx: tx.ids()) == {
            "next",
            *(f"job{number}" for number in range(int(written))),
        }

    async def test_others_in_the_same_commit(self, database: Database) -> None:
        """When one operation has no space, none is acknowledged that is not on the disk."""
        limit_pages(database, extra=8)
        large = make_job(id="large", labels={"note": "x" * 200_000})
        small = [make_job(id=f"small{number}") for number in range(3)]

        outcomes = await asyncio.gather(
            database.write(put(small[0])),
            database.write(put(large)),
            database.write(put(small[1])),
            database.write(put(small[2])),
            return_exceptions=True,
        )

        refused = [item for item in outcomes if isinstance(item, CallsdError)]
        accepted = {item.id for item in outcomes if not isinstance(item, BaseException)}
        assert outcomes[1] in refused
        assert {refusal.reason for refusal in refused} == {Reason.DISK_FULL}
        assert await database.read(lambda tx: tx.ids()) == accepted
        assert database.revision == len(accepted)
