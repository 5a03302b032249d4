# SPDX-License-Identifier: Apache-2.0

import random
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from callsd_daemon.kinds.stored import codec
from callsd_daemon.store import damage, migrations
from callsd_daemon.store.database import Database, DatabaseDamagedError
from callsd_daemon.store.migrations import APPLICATION_ID, MIGRATIONS, SchemaTooNewError
from tests.helpers.jobs import make_job, put


JOBS = {f"job{number}" for number in range(60)}


async def fill(database: Database) -> None:
    """Write some jobs and close: all is in the one file then."""
    for name in sorted(JOBS):
        await database.write(put(make_job(id=name)))
    database.close()


def snapshot(directory: Path) -> dict[str, bytes]:
    """All files and what is in them."""
    return {file.name: file.read_bytes() for file in directory.iterdir() if file.is_file()}


def refused(path: Path) -> str:
    """What opening the file is refused with. Asserts that it is named, and not a byte changed."""
    before = path.read_bytes()
    with pytest.raises(DatabaseDamagedError) as problem:
        Database(path, codec())
    assert path.read_bytes() == before
    assert str(path) in str(problem.value)
    return str(problem.value)


class TestForeign:
    """Files that were never a database of ours."""

    def test_empty_file(self, path: Path) -> None:
        """A file of length zero is refused: it held jobs, or is not ours."""
        path.touch()

        assert "it was not made by callsd" in refused(path)

    def test_text(self, path: Path) -> None:
        """A file of something else says so."""
        path.write_text("shopping: milk, bread\n" * 500)

        assert "file is not a database" in refused(path)

    @pytest.mark.parametrize("version", [0, 1, 99])
    @pytest.mark.parametrize("journal", ["delete", "wal"])
    def test_database_of_another_program(self, path: Path, version: int, journal: str) -> None:
        """Another program's database is left alone, whatever version it says it has."""
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA journal_mode = {journal}")
            connection.execute("CREATE TABLE recipes (name TEXT)")
            connection.execute(f"PRAGMA user_version = {version}")

        assert "it was not made by callsd" in refused(path)

    def test_directory(self, path: Path) -> None:
        """A directory in the file's place is named, not replaced."""
        path.mkdir()

        with pytest.raises(DatabaseDamagedError, match="cannot be used now"):
            Database(path, codec())

    def test_log_without_its_database(self, path: Path) -> None:
        """A write-ahead log alone means that the database was lost: never start empty over it."""
        wal = path.with_name("callsd.db-wal")
        wal.write_bytes(b"some changes")

        with pytest.raises(DatabaseDamagedError, match="-wal is there, but callsd"):
            Database(path, codec())

        assert snapshot(path.parent) == {"callsd.db-wal": b"some changes"}


class TestDamaged:
    """Databases of ours with which something has happened."""

    @pytest.mark.parametrize("keep", [0.03, 0.5, 0.99])
    async def test_cut_short(self, database: Database, path: Path, keep: float) -> None:
        """A database that lost its end is refused with what to do."""
        await fill(database)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep)])

        message = refused(path)

        assert "restore a backup" in message
        assert "callsd.db-wal" in message

    @pytest.mark.parametrize("offset", [0, 7, 15])
    async def test_header(self, database: Database, path: Path, offset: int) -> None:
        """A flipped byte in the file's first line is seen."""
        await fill(database)
        content = bytearray(path.read_bytes())
        content[offset] ^= 0xFF
        path.write_bytes(content)

        assert "file is not a database" in refused(path)

    async def test_schema_that_is_no_text(self, database: Database, path: Path) -> None:
        """What SQLite quotes of the damage may be anything, and is damage."""
        await fill(database)
        content = path.read_bytes()
        path.write_bytes(content.replace(b"jobs_by_state ON", b"jobs_by_state \xffN"))

        assert "malformed database schema" in refused(path)

    @pytest.mark.parametrize("page", range(1, 9))
    async def test_head_of_a_page(self, database: Database, path: Path, page: int) -> None:
        """A page whose head is overwritten is seen, whichever page it is."""
        await fill(database)
        content = bytearray(path.read_bytes())
        start = 4096 * (page - 1) + (100 if page == 1 else 0)
        content[start : start + 8] = b"\xff" * 8
        path.write_bytes(content)

        assert "is not a healthy database" in refused(path)

    async def test_log_is_left_alone(self, database: Database, path: Path, tmp_path: Path) -> None:
        """When a damaged database is refused, its log is not written into it: it may be needed."""
        # The log is emptied once after the first write, which may have been answered by then.
        await database.write(lambda tx: tx.revision)
        await database.write(put(make_job()))
        copy = tmp_path / "killed" / "callsd.db"
        copy.parent.mkdir()
        content = bytearray(path.read_bytes())
        content[0] ^= 0xFF
        copy.write_bytes(content)
        wal = path.with_name("callsd.db-wal").read_bytes()
        assert wal
        copy.with_name("callsd.db-wal").write_bytes(wal)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 99")
        newer = tmp_path / "newer" / "callsd.db"
        newer.parent.mkdir()
        for suffix in ("", "-wal"):
            newer.with_name(f"callsd.db{suffix}").write_bytes(
                path.with_name(f"callsd.db{suffix}").read_bytes()
            )
        before = newer.read_bytes(), newer.with_name("callsd.db-wal").read_bytes()

        assert "file is not a database" in refused(copy)
        with pytest.raises(SchemaTooNewError):
            Database(newer, codec())

        assert copy.with_name("callsd.db-wal").read_bytes() == wal
        assert (newer.read_bytes(), newer.with_name("callsd.db-wal").read_bytes()) == before

    async def test_random_pages(
        self, database: Database, path: Path, open_database: Callable[..., Database]
    ) -> None:
        """Pages of noise are refused, or they held nothing: no job is missing without a word."""
        await fill(database)
        healthy, chance, refusals = path.read_bytes(), random.Random(7), 0  # noqa: S311 - the same pages every time
        for number in range(20):
            content = bytearray(healthy)
            start = 4096 * chance.randrange(1, len(content) // 4096)
            content[start : start + 4096] = chance.randbytes(4096)
            copy = path.with_name(f"copy{number}.db")
            copy.write_bytes(content)
            try:
                found = await open_database(copy).read(lambda tx: tx.ids())
            except DatabaseDamagedError:
                refusals += 1
            else:
                assert found == JOBS

        assert refusals > 10

    async def test_locked(
        self,
        path: Path,
        monkeypatch: pytest.MonkeyPatch,
        database: Database,
        open_database: Callable[..., Database],
    ) -> None:
        """A file that somebody else holds is not called damaged, and is used once it is free."""
        monkeypatch.setattr(damage, "BUSY_TIMEOUT_SECONDS", 0.05)
        await fill(database)
        with closing(sqlite3.connect(path, isolation_level=None)) as holder:
            holder.execute("PRAGMA locking_mode = EXCLUSIVE")
            holder.execute("BEGIN EXCLUSIVE")

            with pytest.raises(DatabaseDamagedError, match="cannot be used now") as problem:
                Database(path, codec())

        assert "locked" in str(problem.value)
        assert "restore" not in str(problem.value)
        assert await open_database().read(lambda tx: tx.ids()) == JOBS

    def test_no_such_directory(self, path: Path) -> None:
        """A directory that is not there is named."""
        with pytest.raises(DatabaseDamagedError, match="cannot be used now"):
            Database(path.parent / "nowhere" / "callsd.db", codec())


class TestMigrations:
    """From one version to the next."""

    async def test_newer(self, database: Database, path: Path) -> None:
        """A database of a newer callsd is refused, by name of both versions, and not changed."""
        await fill(database)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 99")
        before = path.read_bytes()

        with pytest.raises(
            SchemaTooNewError, match=f"has schema 99, and this callsd knows up to {len(MIGRATIONS)}"
        ):
            Database(path, codec())

        assert path.read_bytes() == before

    async def test_backup_first(
        self,
        database: Database,
        path: Path,
        open_database: Callable[..., Database],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Before a step the whole database is copied aside, readable only by its owner."""
        await fill(database)
        step = ("ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0",)
        with monkeypatch.context() as newer:
            newer.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, step))
            migrated = open_database()
            assert migrated._scalar("PRAGMA user_version") == len(MIGRATIONS) + 1
            assert await migrated.read(lambda tx: tx.ids()) == JOBS
            migrated.close()
        backup = path.with_name(f"callsd.db.v{len(MIGRATIONS)}.bak")

        assert stat.S_IMODE(backup.stat().st_mode) == 0o600
        with pytest.raises(SchemaTooNewError):
            Database(path, codec())
        restored = open_database(backup)
        assert await restored.read(lambda tx: tx.ids()) == JOBS
        assert restored.database_id == database.database_id

    async def test_step_that_fails(
        self,
        database: Database,
        path: Path,
        open_database: Callable[..., Database],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A step that fails in the middle leaves the database at the version before it."""
        await fill(database)
        step = ("ALTER TABLE jobs ADD COLUMN priority INTEGER", "ALTER TABLE nonsense DROP x")
        with monkeypatch.context() as newer:
            newer.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, step))
            with pytest.raises(DatabaseDamagedError):
                Database(path, codec())

        assert await open_database().read(lambda tx: tx.ids()) == JOBS

    def test_marked_as_ours(self, database: Database) -> None:
        """Every file of ours says so in its header."""
        assert database._scalar("PRAGMA application_id") == APPLICATION_ID
        assert database._scalar("PRAGMA user_version") == len(MIGRATIONS)
