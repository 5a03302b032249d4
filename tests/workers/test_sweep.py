# SPDX-License-Identifier: Apache-2.0
"""What is removed when its time is up, on a disk of which a part fails."""

import errno
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pytest

from callsd_daemon.kinds.stored import codec
from callsd_daemon.store.database import Database
from callsd_daemon.workers.housekeeping import Housekeeper
from tests.helpers.jobs import NOW
from tests.helpers.kinds import KINDS


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
    nothing = cast(Any, None)
    housekeeper = Housekeeper(
        database=database,
        kinds=KINDS,
        admission=nothing,
        supervisor=nothing,
        calls=cast(Any, NoCalls()),
        uploads=cast(Any, half),
        launcher=cast(Any, half),
        directory=tmp_path / "jobs",
        now=lambda: NOW,
    )

    await housekeeper._sweep()

    assert half.removed == {"b", "c", "uploads"}
