# SPDX-License-Identifier: Apache-2.0
"""What can be done inside one transaction. Used only on the store's own thread."""

import sqlite3
from dataclasses import replace
from datetime import datetime

import msgspec

from callsd_daemon.domain.jobs import Job
from callsd_daemon.domain.recording import PageSecrets
from callsd_daemon.store.reading import Change, Reading


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Job).decode


class Transaction(Reading):
    """Reads, and writes that become durable together or not at all.

    It may be undone after all and then done again: what uses it decides and writes, and whatever
    else has to be done follows the commit.
    """

    def __init__(self, connection: sqlite3.Connection, history: int) -> None:
        super().__init__(connection)
        self._history = history
        self.changes: list[Change] = []
        """What this transaction has changed."""

    def put(self, job: Job) -> Job:
        """Write a new or changed job; returns it with its new revision.

        Raises msgspec.ValidationError, and writes nothing, when it holds NaN or infinity.
        """
        job = replace(job, revision=self.revision + 1)
        body = _encode(job)
        # NaN and infinity have no JSON: better no change than a job that nobody can read again.
        _decode(body)
        self._connection.execute(
            """INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (id) DO UPDATE SET
                state = excluded.state, end_time = excluded.end_time,
                expire_time = excluded.expire_time, reserved_cores = excluded.reserved_cores,
                reserved_memory_bytes = excluded.reserved_memory_bytes,
                reserved_disk_bytes = excluded.reserved_disk_bytes, body = excluded.body""",
            (
                job.id,
                job.revision,
                job.state,
                job.kind,
                job.cost_key,
                _seconds(job.end_time),
                _seconds(job.expire_time),
                job.reservation.cores,
                job.reservation.memory_bytes,
                job.reservation.disk_bytes,
                body,
            ),
        )
        if job.is_final:
            self._connection.execute("DELETE FROM secrets WHERE job_id = ?", (job.id,))
        self._record(Change(revision=job.revision, job_id=job.id, job=job), body)
        return job

    def put_secrets(self, job_id: str, page_secrets: PageSecrets) -> None:
        """Keep what a job's work needs and nobody may read, until the job ends."""
        self._connection.execute(
            "INSERT OR REPLACE INTO secrets VALUES (?, ?)", (job_id, _encode(page_secrets))
        )

    def delete(self, job_id: str) -> None:
        """Remove a job."""
        self._connection.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
        self._record(Change(revision=self.revision + 1, job_id=job_id, job=None), None)

    def _record(self, change: Change, body: bytes | None) -> None:
        self._connection.execute(
            "INSERT INTO changes VALUES (?, ?, ?)", (change.revision, change.job_id, body)
        )
        self._connection.execute(
            "DELETE FROM changes WHERE revision <= ?", (change.revision - self._history,)
        )
        self.changes.append(change)


def _seconds(stamp: datetime | None) -> float | None:
    return None if stamp is None else stamp.timestamp()
