# SPDX-License-Identifier: Apache-2.0
"""What the store's tests share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from callsd_daemon.kinds.stored import codec
from callsd_daemon.store.database import Database


OpenDatabase = Callable[..., Database]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database lies."""
    return tmp_path / "callsd.db"


@pytest.fixture
def open_database(path: Path) -> Iterator[OpenDatabase]:
    """Opens databases, by default the one at `path`, and closes them in the end."""
    opened: list[Database] = []

    def open_(at: Path = path, **options: int) -> Database:
        opened.append(Database(at, codec(), **options))
        return opened[-1]

    yield open_
    for database in opened:
        database.close()


@pytest.fixture
def database(open_database: OpenDatabase) -> Database:
    """A new database."""
    return open_database()
