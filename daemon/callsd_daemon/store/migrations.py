# SPDX-License-Identifier: Apache-2.0
"""The schema, as the list of steps that lead to it. A step is never changed once released."""

import contextlib
import sqlite3
import uuid
from pathlib import Path


APPLICATION_ID = 0x63616C73
"""Marks the file as ours: "cals" in the header's application id."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
        # One row per job. `body` is the whole job as JSON; the other columns are copies for
        # finding it. What is reserved is the sum over jobs in active states: there is no second
        # book that could disagree.
        """CREATE TABLE jobs (
            id TEXT PRIMARY KEY,
            accepted_revision INTEGER NOT NULL UNIQUE,
            state TEXT NOT NULL,
            kind TEXT NOT NULL,
            cost_key TEXT NOT NULL,
            end_time REAL,
            expire_time REAL,
            reserved_cores REAL NOT NULL,
            reserved_memory_bytes INTEGER NOT NULL,
            reserved_disk_bytes INTEGER NOT NULL,
            body BLOB NOT NULL
        ) STRICT""",
        "CREATE INDEX jobs_by_state ON jobs (state, accepted_revision)",
        "CREATE INDEX jobs_by_cost ON jobs (cost_key, end_time)",
        # Every change, for watches to resume from. `body` is NULL when the job was removed.
        """CREATE TABLE changes (
            revision INTEGER PRIMARY KEY,
            job_id TEXT NOT NULL,
            body BLOB
        ) STRICT""",
    ),
    (
        # What a job's work needs and nobody may read: kept apart from `body`, which is shown, and
        # gone when the job ends.
        "CREATE TABLE secrets (job_id TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT",
    ),
    (
        # How long a worker can live is its launcher's business, which may not be until the boot.
        """UPDATE jobs SET body = CAST(json_remove(json_set(CAST(body AS TEXT), '$.worker.epoch',
            json_extract(CAST(body AS TEXT), '$.worker.boot_id')), '$.worker.boot_id') AS BLOB)
            WHERE json_extract(CAST(body AS TEXT), '$.worker.boot_id') IS NOT NULL""",
    ),
    (
        # Jobs' labels, found by what they say and, as jobs are listed, newest first.
        """CREATE TABLE labels (
            accepted_revision INTEGER NOT NULL,
            key TEXT NOT NULL,
            value TEXT NOT NULL,
            PRIMARY KEY (accepted_revision, key)
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX labels_by_value ON labels (key, value, accepted_revision)",
        """INSERT INTO labels SELECT jobs.accepted_revision, label.key, label.value
            FROM jobs, json_each(CAST(jobs.body AS TEXT), '$.labels') AS label""",
        # `written_bytes` is the length of all bodies up to this one, those removed since included:
        # how much is kept is a difference. It stands before `body`, to be read without it.
        """CREATE TABLE new_changes (
            revision INTEGER PRIMARY KEY,
            job_id TEXT NOT NULL,
            written_bytes INTEGER NOT NULL,
            body BLOB
        ) STRICT""",
        """INSERT INTO new_changes SELECT revision, job_id,
            sum(coalesce(length(body), 0)) OVER (ORDER BY revision), body FROM changes""",
        "DROP TABLE changes",
        "ALTER TABLE new_changes RENAME TO changes",
    ),
    (
        # What a kind brings had a field for each kind; now there is one field for all of them.
        *(
            f"""UPDATE {table} SET body = CAST(json_remove(
                json_set(CAST(body AS TEXT),
                    '$.spec', json_extract(CAST(body AS TEXT),
                        '$.' || json_extract(CAST(body AS TEXT), '$.kind')),
                    '$.results', json_patch('{{}}', json_object(
                        'transcription', json_extract(CAST(body AS TEXT), '$.transcription_result'),
                        'captions', json_extract(CAST(body AS TEXT), '$.captions_result'),
                        'recording', json_extract(CAST(body AS TEXT), '$.recording_result')))),
                '$.transcription', '$.captions', '$.recording',
                '$.transcription_result', '$.captions_result', '$.recording_result')
                AS BLOB) WHERE body IS NOT NULL"""  # noqa: S608 - names of ours
            for table in ("jobs", "changes")
        ),
    ),
    (
        "ALTER TABLE jobs ADD COLUMN after_job TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE jobs ADD COLUMN delivery TEXT NOT NULL DEFAULT ''",
        # Columns that stand behind the bodies are read from indexes alone.
        "DROP INDEX jobs_by_state",
        "CREATE INDEX jobs_by_state ON jobs (state, accepted_revision, after_job)",
        "CREATE INDEX jobs_by_delivery ON jobs (delivery, accepted_revision) WHERE delivery != ''",
        # Who may hand work in at the HTTP gateway. Of keys only a slow hash is kept.
        """CREATE TABLE gateway_clients (
            client_id TEXT PRIMARY KEY,
            salt BLOB NOT NULL,
            key_hash BLOB NOT NULL,
            transcribes INTEGER NOT NULL DEFAULT 0
        ) STRICT""",
    ),
    (
        # A transcript of a call waits for its recording, and for what was captured of it.
        "ALTER TABLE jobs RENAME COLUMN after_job TO after_jobs",
        """UPDATE jobs SET after_jobs =
            CASE after_jobs WHEN '' THEN '[]' ELSE json_array(after_jobs) END""",
        *(
            f"""UPDATE {table} SET body = CAST(json_remove(json_set(CAST(body AS TEXT),
                    '$.after_jobs',
                    json_array(json_extract(CAST(body AS TEXT), '$.after_job'))),
                '$.after_job') AS BLOB)
            WHERE body IS NOT NULL
                AND coalesce(json_extract(CAST(body AS TEXT), '$.after_job'), '') != ''"""  # noqa: S608 - names of ours
            for table in ("jobs", "changes")
        ),
    ),
    # What is due is looked for every half minute: without this in all jobs, bodies and all.
    ("CREATE INDEX jobs_by_expiry ON jobs (expire_time) WHERE expire_time IS NOT NULL",),
)


class SchemaTooNewError(Exception):
    """The database was written by a newer callsd."""


def refuse_newer(connection: sqlite3.Connection, path: Path) -> int:
    """The schema's version; raises SchemaTooNewError when this program does not know it."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise SchemaTooNewError(
            f"{path} has schema {version}, and this callsd knows up to {len(MIGRATIONS)}: "
            "install the newer callsd again, or restore the backup made before its upgrade"
        )
    return int(version)


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the database up to date, each step in one transaction.

    A database that already holds something is copied to `<path>.v<version>.bak` first.
    """
    version = refuse_newer(connection, path)
    if 0 < version < len(MIGRATIONS):
        backup = path.with_name(f"{path.name}.v{version}.bak")
        backup.unlink(missing_ok=True)
        backup.touch(mode=0o600)
        connection.execute("VACUUM INTO ?", (str(backup),))
        _forget_secrets(backup)
    for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        for statement in statements:
            connection.execute(statement)
        if number == 1:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute("INSERT INTO meta VALUES ('database_id', ?)", (str(uuid.uuid4()),))
        connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")


def _forget_secrets(backup: Path) -> None:
    """A copy that stays shall not keep what recordings that run now need."""
    with contextlib.closing(sqlite3.connect(backup, isolation_level=None)) as copy:
        copy.execute("PRAGMA secure_delete = ON")
        if copy.execute("SELECT 1 FROM sqlite_schema WHERE name = 'secrets'").fetchone():
            copy.execute("DELETE FROM secrets")
