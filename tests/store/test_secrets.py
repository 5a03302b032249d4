# SPDX-License-Identifier: Apache-2.0
"""What a job's work needs and nobody may read: kept until the job ends, and nowhere else."""

from collections.abc import Callable
from pathlib import Path

import pytest

from callsd_daemon.domain.jobs import State
from callsd_daemon.domain.recording import PageSecrets
from callsd_daemon.store.database import Database
from callsd_daemon.store.migrations import MIGRATIONS
from callsd_daemon.store.transaction import Transaction
from tests.helpers.jobs import make_job, put
from tests.helpers.old_store import make_old


OpenDatabase = Callable[..., Database]

SECRETS = PageSecrets(url_fragment="s3cret", headers={"X-Token": "s3cret", "X-Other": ""})


def put_with_secrets(job_id: str) -> Callable[[Transaction], None]:
    """Work for the store: write a running job and its secrets, as one."""

    def work(books: Transaction) -> None:
        books.put(make_job(id=job_id, state=State.RUNNING))
        books.put_secrets(job_id, SECRETS)

    return work


async def kept(database: Database, job_id: str = "job") -> PageSecrets:
    """What is kept for a job."""
    return await database.read(lambda books: books.secrets(job_id))


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
        await database.write(lambda books: books.put_secrets("job", newer))

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

        def work(books: Transaction) -> None:
            put_with_secrets("job")(books)
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
        job = await database.read(lambda books: books.get("job"))
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

        assert await backup.read(lambda books: books.ids()) == {"job"}
