# SPDX-License-Identifier: Apache-2.0
"""What a job's work needs and nobody may read: kept until the job ends, and nowhere else."""

import contextlib
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from callsd_daemon.domain.capture import CAPTURE
from callsd_daemon.domain.delivery import Delivery, DeliveryState
from callsd_daemon.domain.jobs import State
from callsd_daemon.domain.mattermost import SiteSecrets
from callsd_daemon.domain.recording import RECORDING, PageSecrets
from callsd_daemon.domain.work import Secrets
from callsd_daemon.store import database as module
from callsd_daemon.store.backup import back_up
from callsd_daemon.store.damage import BUSY_TIMEOUT_SECONDS
from callsd_daemon.store.database import Database
from callsd_daemon.store.migrations import MIGRATIONS
from callsd_daemon.store.transaction import Transaction
from tests.helpers.jobs import CALL, make_job, put
from tests.helpers.old_store import make_old


OpenDatabase = Callable[..., Database]

DIED = 9

DIE = """
import asyncio, os, sys; from pathlib import Path
from callsd_daemon.domain.jobs import State
from callsd_daemon.kinds.stored import codec
from callsd_daemon.store.database import Database
from tests.helpers.jobs import make_job, put
from tests.store.test_secrets import put_with_secrets
async def work():
    database = Database(Path(sys.argv[1]), codec())
    await database.write(lambda tx: None)
    await database.write(put_with_secrets("job"))
    database._wipe = lambda: os._exit(9)
    await database.write(put(make_job(state=State.SUCCEEDED)))
    await database.write(lambda tx: None)
asyncio.run(work())
"""

SECRETS = PageSecrets(url_fragment="s3cret", headers={"X-Token": "s3cret", "X-Other": ""})


def put_with_secrets(job_id: str) -> Callable[[Transaction], None]:
    """Work for the store: write a running job and its secrets, as one."""

    def work(tx: Transaction) -> None:
        tx.put(make_job(id=job_id, kind=RECORDING, state=State.RUNNING))
        tx.put_secrets(job_id, SECRETS)

    return work


async def kept(database: Database, job_id: str = "job") -> Secrets:
    """What is kept for a job."""
    return await database.read(lambda tx: tx.secrets(make_job(id=job_id, kind=RECORDING)))


class TestSecrets:
    """From the request to the end of the job."""

    async def test_survive_reopening(self, database: Database, open_database: OpenDatabase) -> None:
        """A daemon that starts again can give a worker what the request said."""
        await database.write(put_with_secrets("job"))
        database.close()

        assert await kept(open_database()) == SECRETS

    async def test_of_one_job(self, database: Database) -> None:
        """Each job has its own; one without any has empty ones."""
        await database.write(put_with_secrets("other"))

        assert await kept(database) == PageSecrets()
        assert await kept(database, "other") == SECRETS

    async def test_replaced(self, database: Database) -> None:
        """What is kept last counts."""
        await database.write(put_with_secrets("job"))
        newer = PageSecrets(url_fragment="n3wer")
        await database.write(lambda tx: tx.put_secrets("job", newer))

        assert await kept(database) == newer

    @pytest.mark.parametrize("state", list(State))
    async def test_gone_with_the_end(self, database: Database, state: State) -> None:
        """They stay through all that a job goes through, and are gone once it has ended."""
        await database.write(put_with_secrets("job"))
        await database.write(put_with_secrets("other"))

        job = await database.write(put(make_job(state=state)))

        assert await kept(database) == (PageSecrets() if job.is_final else SECRETS)
        assert await kept(database, "other") == SECRETS

    async def test_go_with_a_write_or_not_at_all(self, database: Database) -> None:
        """A job that could not be written leaves no secrets."""

        def work(tx: Transaction) -> None:
            put_with_secrets("job")(tx)
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await database.write(work)

        assert await kept(database) == PageSecrets()

    async def test_in_no_body(self, database: Database) -> None:
        """Neither a job as it is shown nor what watches are told holds any of them."""
        await database.write(put_with_secrets("job"))
        await database.write(put(make_job(state=State.STOPPING)))
        bodies = [
            bytes(body)
            for table in ("jobs", "changes")
            for (body,) in database._connection.execute(f"SELECT body FROM {table}")  # noqa: S608
        ]

        assert len(bodies) == 3
        assert not any(b"s3cret" in body for body in bodies)

    def test_not_shown_by_accident(self) -> None:
        """What is printed or logged of them says nothing."""
        assert repr(SECRETS) == "PageSecrets()"


def holders(path: Path, secret: bytes = b"s3cret") -> list[str]:
    """Files of the database, and copies of it, in which a secret can be read."""
    return [file.name for file in sorted(path.parent.iterdir()) if secret in file.read_bytes()]


async def settle(database: Database) -> None:
    """Wait until the store has done what it does after a write that was answered."""
    await database.write(lambda tx: tx.revision)


class TestWiped:
    """Secrets leave the files, not only the tables."""

    async def test_in_no_file(self, database: Database, path: Path) -> None:
        """Once a job has ended, and another has not, its secrets are in no file, nor in a copy."""
        await settle(database)
        await database.write(put_with_secrets("job"))
        other = PageSecrets(url_fragment="0ther")
        await database.write(put_with_secrets("other"))
        await database.write(lambda tx: tx.put_secrets("other", other))
        assert holders(path) == ["callsd.db-wal"]
        await database.write(put(make_job(state=State.SUCCEEDED)))
        await settle(database)
        assert holders(path) == []
        back_up(path, path.with_name("backup.db"))
        await database.write(lambda tx: tx.delete("job"))
        await settle(database)

        assert holders(path) == []
        assert holders(path, b"0ther") == ["callsd.db"]
        assert await kept(database, "other") == other

    async def test_in_the_file_already(self, database: Database, path: Path) -> None:
        """Secrets that had got from the log into the file leave both."""
        await settle(database)
        await database.write(put_with_secrets("job"))
        with contextlib.closing(sqlite3.connect(path)) as shell:
            shell.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert holders(path) == ["callsd.db"]
        await database.write(put(make_job(state=State.FAILED)))
        await settle(database)

        assert holders(path) == []

    async def test_somebody_reads(
        self, database: Database, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who reads is not disturbed and holds up nobody; the log is emptied afterwards."""
        monkeypatch.setattr(module, "WIPE_RETRY_SECONDS", 0.0)
        await settle(database)
        await database.write(put_with_secrets("job"))
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as shell:
            shell.execute("BEGIN")
            assert shell.execute("SELECT count(*) FROM jobs").fetchone() == (1,)
            with capture_logs() as said:
                await database.write(put(make_job(state=State.SUCCEEDED)))
                for _ in range(3):
                    began = time.monotonic()
                    await settle(database)
                    assert time.monotonic() - began < BUSY_TIMEOUT_SECONDS / 2
            assert holders(path) == ["callsd.db-wal"]
            assert [one["event"] for one in said] == ["wal_not_emptied"]
        await settle(database)
        await settle(database)

        assert holders(path) == []

    async def test_not_at_once_again(
        self, database: Database, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While somebody reads it is tried now and then, not with every write."""
        monkeypatch.setattr(module, "WIPE_RETRY_SECONDS", 3600.0)
        await settle(database)
        await database.write(put_with_secrets("job"))
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as shell:
            shell.execute("BEGIN")
            shell.execute("SELECT count(*) FROM jobs").fetchone()
            await database.write(put(make_job(state=State.SUCCEEDED)))
            await settle(database)
            statements: list[str] = []
            database._connection.set_trace_callback(statements.append)
            for _ in range(5):
                await settle(database)

        assert not any("checkpoint" in one for one in statements)

    async def test_only_after_secrets(self, database: Database, path: Path) -> None:
        """The end of a job that had none costs nothing."""
        await settle(database)
        await database.write(put(make_job()))
        await database.write(put(make_job(state=State.SUCCEEDED)))
        await settle(database)

        assert path.with_name("callsd.db-wal").stat().st_size > 0

    @pytest.fixture
    def died(self, path: Path) -> None:
        """A daemon has ended a job, and died before it could wipe what it kept."""
        done = subprocess.run([sys.executable, "-c", DIE, str(path)], check=False)
        assert done.returncode == DIED

    @pytest.mark.usefixtures("died")
    async def test_daemon_died(self, path: Path, open_database: OpenDatabase) -> None:
        """What a daemon that died had no time to wipe, the next one does first of all."""
        assert holders(path) == ["callsd.db-wal"]
        await settle(database := open_database())
        await settle(database)

        assert holders(path) == []


class TestCaptures:
    """A capture's token is needed beyond its end: until the plugin knows of that."""

    TOKEN = SiteSecrets(token="s3cret")

    async def test_until_all_is_told(self, database: Database, path: Path) -> None:
        """It survives reopening, stays while something is to be told, and leaves every file."""
        job = make_job(kind=CAPTURE, state=State.RUNNING, delivery=Delivery(call=CALL))
        await settle(database)
        await database.write(put(job))
        await database.write(lambda tx: tx.put_secrets(job.id, self.TOKEN))
        for state in (State.RUNNING, State.SUCCEEDED):
            await database.write(put(replace(job, state=state)))
            assert await database.read(lambda tx: tx.secrets(job)) == self.TOKEN
        assert holders(path) == ["callsd.db-wal"]
        assert job.delivery is not None
        done = job.delivery.done(DeliveryState.NOTHING)
        await database.write(put(replace(job, state=State.SUCCEEDED, delivery=done)))
        await settle(database)

        assert await database.read(lambda tx: tx.secrets(job)) == SiteSecrets()
        assert holders(path) == []


class TestOlderDatabases:
    """Databases made before there were recordings."""

    @pytest.fixture
    def old(self, path: Path) -> Path:
        """A database with the first schema and a job that waits."""
        make_old(path, 1, make_job(revision=1))
        return path

    async def test_migrated(self, old: Path, open_database: OpenDatabase) -> None:
        """Its jobs are there and end as ever, and secrets can be kept."""
        database = open_database(old)
        job = await database.read(lambda tx: tx.get("job"))
        await database.write(put_with_secrets("page"))
        ended = await database.write(put(make_job(state=State.CANCELLED)))

        assert database._scalar("PRAGMA user_version") == len(MIGRATIONS) >= 2
        assert job == make_job(revision=1)
        assert ended.is_final
        assert await kept(database, "page") == SECRETS

    async def test_backup(self, old: Path, open_database: OpenDatabase) -> None:
        """What it was before is kept aside."""
        open_database(old).close()

        backup = open_database(old.with_name("callsd.db.v1.bak"))

        assert await backup.read(lambda tx: tx.ids()) == {"job"}
