# SPDX-License-Identifier: Apache-2.0
"""What is done again and again, where a part of the disk fails or the store is damaged."""

import asyncio
import contextlib
import errno
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.kinds.stored import codec
from callsd_daemon.store.database import Database
from callsd_daemon.workers import housekeeping
from callsd_daemon.workers.housekeeping import Housekeeper
from tests.helpers.jobs import NOW
from tests.helpers.kinds import KINDS
from tests.helpers.waiting import until


NAMES = frozenset({"a", "b", "c"})


class Half:
    """Directories of workers, and uploads; of the former the first one cannot be removed."""

    def __init__(self) -> None:
        self.removed: set[str] = set()

    def names(self) -> frozenset[str]:
        """Directories that belong to no job."""
        return NAMES

    def discard(self, name: str) -> None:
        """Remove one, or fail."""
        if name == min(NAMES):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.removed.add(name)

    def remove_expired(self, now: datetime, needed: frozenset[str]) -> None:
        """Remove all uploads."""
        self.removed.add("uploads")


class NoCalls:
    """No captioner has a directory."""

    def names(self) -> frozenset[str]:
        """None."""
        return frozenset()


class Blocked:
    """A machine that cannot be looked at, for these reasons and then for ever."""

    def __init__(self, reasons: list[Reason]) -> None:
        self.reasons = reasons

    async def sample(self) -> None:
        """Fail by the next of them."""
        if self.reasons:
            raise CallsdError(self.reasons.pop(0), "it is so")
        await asyncio.Event().wait()


def make_housekeeper(
    database: Database, directory: Path, *, half: Half | None = None, machine: Blocked | None = None
) -> Housekeeper:
    """One that has what a test needs."""
    return Housekeeper(
        database=database,
        kinds=KINDS,
        admission=cast(Any, machine),
        supervisor=cast(Any, None),
        calls=cast(Any, NoCalls()),
        uploads=cast(Any, half),
        launcher=cast(Any, half),
        directory=directory / "jobs",
        now=lambda: NOW,
    )


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """There are no jobs."""
    database = Database(tmp_path / "callsd.db", codec())
    yield database
    database.close()


async def test_one_fails(database: Database, tmp_path: Path) -> None:
    """A directory that cannot be removed stays; everything else goes."""
    (tmp_path / "jobs").mkdir()
    half = Half()

    await make_housekeeper(database, tmp_path, half=half)._sweep()

    assert half.removed == {"b", "c", "uploads"}


async def test_told_once(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What keeps the queue from being moved is told once for as long as it stays the same."""
    monkeypatch.setattr(housekeeping, "TICK_SECONDS", 0.0)
    machine = Blocked([Reason.DATABASE_DAMAGED] * 3 + [Reason.DISK_FULL] * 3)
    with capture_logs() as logs:
        task = asyncio.create_task(make_housekeeper(database, tmp_path, machine=machine).run())
        await until(lambda: not machine.reasons, "all ticks have failed")
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    told = [log["reason"] for log in logs if log["event"] == "tick_delayed"]
    assert told == ["DATABASE_DAMAGED", "DISK_FULL"]
