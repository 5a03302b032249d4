# SPDX-License-Identifier: Apache-2.0

import os
from pathlib import Path

import pytest

from callsd_daemon.domain.recording import PageSecrets
from callsd_daemon.kinds.stored import codec
from callsd_daemon.store.backup import BackupError, back_up, restore
from callsd_daemon.store.database import Database
from callsd_daemon.store.transaction import Transaction
from tests.helpers.jobs import make_job


SECRET = "token-of-a-page-1f0c"


async def put(database: Database, *ids: str) -> None:
    """Have jobs in the database, each with a secret."""

    def write(tx: Transaction) -> None:
        for job_id in ids:
            tx.put(make_job(id=job_id))
            tx.put_secrets(job_id, PageSecrets(url_fragment=SECRET))

    await database.write(write)


async def ids(path: Path) -> set[str]:
    """The jobs in a database."""
    database = Database(path, codec())
    try:
        return await database.read(lambda tx: set(tx.ids()))
    finally:
        database.close()


@pytest.fixture
async def database(tmp_path: Path) -> Path:
    """A database with two jobs, which is open, as that of a daemon that runs."""
    one = Database(tmp_path / "callsd.db", codec())
    await put(one, "a", "b")
    return tmp_path / "callsd.db"


async def test_a_copy_of_what_is_in_use(database: Path, tmp_path: Path) -> None:
    """A database that is open is copied whole, for its owner alone, and without secrets."""
    copy = tmp_path / "copy.db"
    back_up(database, copy)
    assert copy.stat().st_mode & 0o777 == 0o600
    assert SECRET.encode() not in copy.read_bytes()
    assert await ids(copy) == {"a", "b"}
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


async def test_nothing_is_overwritten(database: Path, tmp_path: Path) -> None:
    """A file that is there stays."""
    copy = tmp_path / "copy.db"
    copy.write_text("mine")
    with pytest.raises(BackupError, match="is there already"):
        back_up(database, copy)
    assert copy.read_text() == "mine"


async def test_nothing_to_copy(tmp_path: Path) -> None:
    """Where there is no database it is said so, and none is made."""
    with pytest.raises(BackupError, match="there is no"):
        back_up(tmp_path / "callsd.db", tmp_path / "copy.db")
    assert list(tmp_path.iterdir()) == []


async def test_a_copy_is_put_back(tmp_path: Path) -> None:
    """What the copy knows is there again; what came after it lies beside it, whole."""
    path, copy = tmp_path / "callsd.db", tmp_path / "copy.db"
    first = Database(path, codec())
    await put(first, "a")
    back_up(path, copy)
    await put(first, "b")
    first.close()
    old = restore(copy, path)
    assert await ids(path) == {"a"}
    assert old is not None
    assert await ids(old) == {"a", "b"}


async def test_a_copy_is_put_where_nothing_is(database: Path, tmp_path: Path) -> None:
    """On a new machine there is no old database to keep."""
    copy, path = tmp_path / "copy.db", tmp_path / "new" / "callsd.db"
    back_up(database, copy)
    path.parent.mkdir()
    assert restore(copy, path) is None
    assert await ids(path) == {"a", "b"}


@pytest.mark.parametrize("damage", ["nothing", "text", "cut", "zeros"])
async def test_what_is_no_copy_is_refused(tmp_path: Path, damage: str) -> None:
    """What is no database of callsd's, or a damaged one, takes nobody's place."""
    path, copy = tmp_path / "callsd.db", tmp_path / "copy.db"
    one = Database(path, codec())
    await put(one, *(f"job{number}" for number in range(200)))
    one.close()
    back_up(path, copy)
    content = copy.read_bytes()
    middle = len(content) // 2
    copy.write_bytes(
        {
            "nothing": b"",
            "text": b"my dear diary" * 1000,
            "cut": content[:middle],
            "zeros": content[:middle] + bytes(8192) + content[middle + 8192 :],
        }[damage]
    )
    before = path.read_bytes()
    with pytest.raises(BackupError, match="cannot be used"):
        restore(copy, path)
    assert path.read_bytes() == before


async def test_a_full_disk_leaves_nothing(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that cannot be finished is not there at all."""

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BackupError, match="No space left"):
        back_up(database, tmp_path / "copy.db")
    assert not [path for path in tmp_path.iterdir() if "copy" in path.name]
