# SPDX-License-Identifier: Apache-2.0
"""What can be done inside one transaction. Used only on the store's own thread."""

import contextlib
import json
import sqlite3
from dataclasses import dataclass, replace
from datetime import datetime

from callsd_daemon.domain.jobs import Job
from callsd_daemon.domain.work import Secrets
from callsd_daemon.store.codec import JobCodec
from callsd_daemon.store.read_transaction import Change, GatewayClient, ReadTransaction


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """How much is kept of what has changed; the latest change always is."""

    revisions: int
    body_bytes: int
    """Length of what was written after the oldest of them."""


class Transaction(ReadTransaction):
    """Reads, and writes that become durable together or not at all.

    It may be undone after all and then done again: what uses it decides and writes, and whatever
    else has to be done follows the commit.
    """

    def __init__(self, connection: sqlite3.Connection, codec: JobCodec, history: History) -> None:
        super().__init__(connection, codec)
        self._history = history
        self.changes: list[Change] = []
        """What this transaction has changed."""

    def put(self, job: Job) -> Job:
        """Write a new or changed job; returns it with its new revision.

        Raises msgspec.ValidationError, and writes nothing, when it holds NaN or infinity.
        """
        job = replace(job, revision=self.revision + 1)
        body = self._codec.encode(job)
        ((accepted_revision,),) = self._connection.execute(
            """INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (id) DO UPDATE SET
                state = excluded.state, end_time = excluded.end_time,
                expire_time = excluded.expire_time, reserved_cores = excluded.reserved_cores,
                reserved_memory_bytes = excluded.reserved_memory_bytes,
                reserved_disk_bytes = excluded.reserved_disk_bytes, body = excluded.body,
                delivery = excluded.delivery
            RETURNING accepted_revision""",
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
                json.dumps(job.after_jobs),
                "" if job.delivery is None else job.delivery.state,
            ),
        )
        self._label(accepted_revision, job.labels)
        if job.is_final and not job.is_undelivered:
            self._connection.execute("DELETE FROM secrets WHERE job_id = ?", (job.id,))
        self._record(Change(revision=job.revision, job_id=job.id, job=job), body)
        return job

    def put_secrets(self, job_id: str, secrets: Secrets) -> None:
        """Keep what a job needs and nobody may read, until it has ended and nothing is pending."""
        self._connection.execute(
            "INSERT OR REPLACE INTO secrets VALUES (?, ?)",
            (job_id, self._codec.encode_secrets(secrets)),
        )

    def delete(self, job_id: str) -> None:
        """Remove a job."""
        for (accepted_revision,) in self._connection.execute(
            "DELETE FROM jobs WHERE id = ? RETURNING accepted_revision", (job_id,)
        ).fetchall():
            self._label(accepted_revision, {})
        self._record(Change(revision=self.revision + 1, job_id=job_id, job=None), None)

    def put_gateway_client(self, client: GatewayClient) -> None:
        """Write a new or changed client."""
        self._connection.execute(
            "INSERT OR REPLACE INTO gateway_clients VALUES (?, ?, ?, ?)",
            (client.client_id, client.salt, client.key_hash, client.transcribes),
        )

    def delete_gateway_client(self, client_id: str) -> None:
        """Forget a client."""
        self._connection.execute("DELETE FROM gateway_clients WHERE client_id = ?", (client_id,))

    def _label(self, accepted_revision: int, labels: dict[str, str]) -> None:
        """Have a job found by these labels; most changes of a job leave them as they are."""
        kept = self._connection.execute(
            "SELECT key, value FROM labels WHERE accepted_revision = ?", (accepted_revision,)
        )
        if dict(kept.fetchall()) == labels:
            return
        self._connection.execute(
            "DELETE FROM labels WHERE accepted_revision = ?", (accepted_revision,)
        )
        self._connection.executemany(
            "INSERT INTO labels VALUES (?, ?, ?)",
            ((accepted_revision, key, value) for key, value in labels.items()),
        )

    def _record(self, change: Change, body: bytes | None) -> None:
        execute = self._connection.execute
        last = execute(
            "SELECT written_bytes FROM changes ORDER BY revision DESC LIMIT 1"
        ).fetchone()
        written_bytes = (0 if last is None else last[0]) + len(body or b"")
        execute(
            "INSERT INTO changes VALUES (?, ?, ?, ?)",
            (change.revision, change.job_id, written_bytes, body),
        )
        self._forget(change.revision, written_bytes)
        self.changes.append(change)

    def _forget(self, newest: int, written_bytes: int) -> None:
        """Remove the oldest changes while those after them fill the history alone."""
        forgotten = 0
        with contextlib.closing(
            self._connection.execute(
                "SELECT revision, written_bytes FROM changes ORDER BY revision"
            )
        ) as oldest:
            for revision, until in oldest:
                if (
                    newest - revision < self._history.revisions
                    and written_bytes - until < self._history.body_bytes
                ):
                    break
                forgotten = revision
        self._connection.execute("DELETE FROM changes WHERE revision <= ?", (forgotten,))


def _seconds(stamp: datetime | None) -> float | None:
    return None if stamp is None else stamp.timestamp()
