# SPDX-License-Identifier: Apache-2.0
"""What can be asked of the database, all of it about one moment."""

import sqlite3
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from callsd_daemon.domain.delivery import DeliveryState
from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import (
    ACTIVE_STATES,
    FINAL_STATES,
    Job,
    Reservation,
    State,
    Usage,
)
from callsd_daemon.domain.work import Secrets
from callsd_daemon.store.codec import JobCodec


PAGE_BYTES = 256 * 1024
"""Length of the jobs that are read at once, as they are kept: some hundreds, which take 30 ms to be
read and made into messages. A page that holds so much ends; with one job it may hold more."""

COUNTED_LABELS = 1000
"""Jobs with one label are counted up to here, to find the label that the fewest have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One revision: the whole job after it, or None when the job was removed."""

    revision: int
    job_id: str
    job: Job | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs: those that match all that is set."""

    states: Collection[str] = ()
    kinds: Collection[str] = ()
    labels: dict[str, str] = field(default_factory=dict)
    ids: Collection[str] = ()
    deliveries: Collection[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some jobs, newest first; `next_before` asks for the next page, None after the last."""

    jobs: tuple[Job, ...]
    next_before: int | None
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayClient:
    """Somebody who may hand work in at the HTTP gateway."""

    client_id: str
    salt: bytes
    key_hash: bytes = field(repr=False)
    transcribes: bool = False
    """Whether it will ask for a transcription with each recording."""


def _any_of(states: Iterable[State]) -> str:
    return ", ".join(f"'{state}'" for state in sorted(states))


_READY = f"""state = '{State.QUEUED}' AND (after_jobs = '[]' OR NOT EXISTS (
    SELECT 1 FROM json_each(jobs.after_jobs) AS id JOIN jobs AS first ON first.id = id.value
    WHERE first.state NOT IN ({_any_of(FINAL_STATES)})))"""  # noqa: S608 - names of ours
"""Jobs that wait for nothing but room; others begin after jobs that have not ended."""

_UNFINISHED = _any_of(set(State) - FINAL_STATES)

_NEEDING = f"""SELECT later.id, first.value AS needs
    FROM jobs AS later, json_each(later.after_jobs) AS first WHERE later.after_jobs != '[]'
    AND later.state IN ({_UNFINISHED})"""  # noqa: S608 - names of ours
"""Jobs that have not ended, each with a job whose files it needs."""


class ReadTransaction:
    """Jobs and changes as they are at one moment, which the first question chooses."""

    def __init__(self, connection: sqlite3.Connection, codec: JobCodec) -> None:
        self._connection = connection
        self._codec = codec

    @property
    def revision(self) -> int:
        """Revision of the last change, those of this transaction included."""
        row = self._connection.execute("SELECT coalesce(max(revision), 0) FROM changes").fetchone()
        return int(row[0])

    def get(self, job_id: str) -> Job | None:
        """The job, or None."""
        row = self._connection.execute("SELECT body FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return None if row is None else self._codec.decode(row[0])

    def find(self, job_id: str) -> Job:
        """The job; raises JOB_NOT_FOUND."""
        job = self.get(job_id)
        if job is None:
            raise CallsdError(
                Reason.JOB_NOT_FOUND,
                f"there is no job {job_id}; finished jobs are removed after a while",
                metadata={"job": job_id},
            )
        return job

    def secrets(self, job: Job) -> Secrets:
        """What is kept for a job that has not ended, or is not delivered."""
        row = self._connection.execute(
            "SELECT body FROM secrets WHERE job_id = ?", (job.id,)
        ).fetchone()
        return self._codec.decode_secrets(job.kind, None if row is None else row[0])

    def active(self) -> tuple[Job, ...]:
        """Jobs that hold a reservation, in the order they were accepted."""
        rows = self._connection.execute(
            "SELECT body FROM jobs WHERE state IN (?, ?, ?) ORDER BY accepted_revision",
            tuple(ACTIVE_STATES),
        )
        return tuple(map(self._codec.decode, _bodies(rows)))

    def first_queued(self) -> Job | None:
        """The job that has waited longest."""
        row = self._connection.execute(
            f"SELECT body FROM jobs WHERE {_READY} ORDER BY accepted_revision LIMIT 1"  # noqa: S608
        ).fetchone()
        return None if row is None else self._codec.decode(row[0])

    def queue_length(self) -> int:
        """How many jobs wait for room."""
        row = self._connection.execute(
            f"SELECT count(*) FROM jobs WHERE {_READY}"  # noqa: S608
        ).fetchone()
        return int(row[0])

    def queue_positions(self) -> dict[str, int]:
        """Place in the queue of every waiting job, 1 = next."""
        rows = self._connection.execute(
            f"SELECT id FROM jobs WHERE {_READY} ORDER BY accepted_revision"  # noqa: S608
        )
        return {job_id: place for place, (job_id,) in enumerate(rows, start=1)}

    def reserved(self) -> Reservation:
        """What is promised to jobs, in all."""
        row = self._connection.execute(
            """SELECT coalesce(sum(reserved_cores), 0), coalesce(sum(reserved_memory_bytes), 0),
            coalesce(sum(reserved_disk_bytes), 0) FROM jobs WHERE state IN (?, ?, ?)""",
            tuple(ACTIVE_STATES),
        ).fetchone()
        return Reservation(cores=row[0], memory_bytes=row[1], disk_bytes=row[2])

    def running(self) -> dict[str, int]:
        """Jobs that hold a reservation, by kind."""
        rows = self._connection.execute(
            "SELECT kind, count(*) FROM jobs WHERE state IN (?, ?, ?) GROUP BY kind",
            tuple(ACTIVE_STATES),
        )
        return dict(rows.fetchall())

    def active_of(self, kinds: Collection[str]) -> Iterator[Job]:
        """Jobs of these kinds that hold a reservation."""
        rows = self._connection.execute(
            f"SELECT body FROM jobs WHERE kind IN ({', '.join('?' * len(kinds))}) "  # noqa: S608
            "AND state IN (?, ?, ?)",
            (*kinds, *ACTIVE_STATES),
        )
        return map(self._codec.decode, _bodies(rows))

    def recent_usage(self, cost_key: str, limit: int) -> tuple[Usage, ...]:
        """What the latest finished jobs of one cost key used."""
        rows = self._connection.execute(
            # All that waits has no end yet: thousands of them are not looked at for this.
            """SELECT body FROM jobs WHERE cost_key = ? AND end_time IS NOT NULL AND state = ?
            ORDER BY end_time DESC LIMIT ?""",
            (cost_key, State.SUCCEEDED, limit),
        )
        return tuple(
            job.usage for job in map(self._codec.decode, _bodies(rows)) if job.usage is not None
        )

    def expired(self, now: datetime, limit: int) -> tuple[Job, ...]:
        """Jobs whose time is up, whose delivery is not pending, and which no other job needs."""
        rows = self._connection.execute(
            "SELECT body FROM jobs WHERE expire_time <= ? AND delivery != ? "  # noqa: S608
            f"AND id NOT IN (SELECT needs FROM ({_NEEDING})) ORDER BY expire_time LIMIT ?",
            (now.timestamp(), DeliveryState.PENDING, limit),
        )
        return tuple(map(self._codec.decode, _bodies(rows)))

    def needed_by(self, job_id: str) -> str:
        """Id of a job that has not ended and needs the files of this one; empty: there is none."""
        row = self._connection.execute(
            f"SELECT id FROM ({_NEEDING}) WHERE needs = ? LIMIT 1",  # noqa: S608
            (job_id,),
        ).fetchone()
        return "" if row is None else str(row[0])

    def unfinished(self) -> Iterator[Job]:
        """Jobs that have not ended."""
        # By the states that they may have: an index knows nothing of those that they may not.
        rows = self._connection.execute(f"SELECT body FROM jobs WHERE state IN ({_UNFINISHED})")  # noqa: S608
        return map(self._codec.decode, _bodies(rows))

    def undelivered(self) -> tuple[Job, ...]:
        """Jobs of which something is to be delivered, oldest first."""
        rows = self._connection.execute(
            # The last term is that of the index, which holds only jobs with a delivery.
            "SELECT body FROM jobs WHERE delivery = ? AND delivery != '' "
            "ORDER BY accepted_revision",
            (DeliveryState.PENDING,),
        )
        return tuple(map(self._codec.decode, _bodies(rows)))

    def gateway_client(self, client_id: str) -> GatewayClient | None:
        """A client of the HTTP gateway."""
        row = self._connection.execute(
            "SELECT * FROM gateway_clients WHERE client_id = ?", (client_id,)
        ).fetchone()
        if row is None:
            return None
        name, salt, key_hash, transcribes = row
        return GatewayClient(
            client_id=name, salt=salt, key_hash=key_hash, transcribes=bool(transcribes)
        )

    def gateway_client_count(self) -> int:
        """How many clients of the HTTP gateway are known."""
        (count,) = self._connection.execute("SELECT count(*) FROM gateway_clients").fetchone()
        return int(count)

    def ids(self, *, after: str = "", limit: int = -1) -> set[str]:
        """Ids of all jobs, or of the next so many `after` one."""
        rows = self._connection.execute(
            "SELECT id FROM jobs WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
        )
        return {job_id for (job_id,) in rows}

    def page(
        self,
        *,
        wanted: JobFilter,
        before: int | None,
        limit: int,
        max_bytes: int = PAGE_BYTES,
    ) -> Page:
        """Jobs that are wanted, newest first, accepted before revision `before`."""
        found = self._matching(wanted, before=before, limit=limit + 1)
        bodies = list[bytes]()
        # Bodies are read one by one, and none that does not go into the page.
        for accepted_revision in found[:limit]:
            (body,) = self._connection.execute(
                "SELECT body FROM jobs WHERE accepted_revision = ?", (accepted_revision,)
            ).fetchone()
            max_bytes -= len(body)
            if bodies and max_bytes < 0:
                break
            bodies.append(body)
        more = len(found) > len(bodies)
        return Page(
            jobs=tuple(map(self._codec.decode, bodies)),
            next_before=found[len(bodies) - 1] if more else None,
            revision=self.revision,
        )

    def _matching(self, wanted: JobFilter, *, before: int | None, limit: int) -> list[int]:
        """When the jobs of a page were accepted."""
        # Only placeholders and names of ours are put together here.
        source, accepted = "jobs", "jobs.accepted_revision"
        where, values = ["1"], list[object]()
        rest = list(wanted.labels.items())
        if rest and not wanted.ids:
            rest.sort(key=self._count)
            # Jobs are looked up by the label that the fewest have: a CROSS JOIN keeps its order.
            accepted = "rarest.accepted_revision"
            source = f"labels AS rarest CROSS JOIN jobs ON jobs.accepted_revision = {accepted}"
            where.append("rarest.key = ? AND rarest.value = ?")
            values.extend(rest.pop(0))
        for label in rest:
            where.append(
                "EXISTS (SELECT 1 FROM labels AS other WHERE other.key = ? AND other.value = ? "  # noqa: S608
                f"AND other.accepted_revision = {accepted})"
            )
            values.extend(label)
        columns = (
            ("state", wanted.states),
            ("kind", wanted.kinds),
            ("id", wanted.ids),
        )
        for column, allowed in columns:
            if allowed:
                where.append(f"jobs.{column} IN ({', '.join('?' * len(allowed))})")
                values.extend(allowed)
        if wanted.deliveries:
            # Few jobs have one: they are looked up first.
            where.append(
                f"{accepted} IN (SELECT accepted_revision FROM jobs WHERE delivery != '' "  # noqa: S608
                f"AND delivery IN ({', '.join('?' * len(wanted.deliveries))}))"
            )
            values.extend(wanted.deliveries)
        if before is not None:
            where.append(f"{accepted} < ?")
            values.append(before)
        rows = self._connection.execute(
            f"SELECT {accepted} FROM {source} WHERE {' AND '.join(where)} "  # noqa: S608
            f"ORDER BY {accepted} DESC LIMIT ?",
            (*values, limit),
        )
        return [accepted_revision for (accepted_revision,) in rows]

    def _count(self, label: tuple[str, str]) -> int:
        """How many jobs have a label, as far as it matters."""
        (count,) = self._connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM labels WHERE key = ? AND value = ? LIMIT ?)",
            (*label, COUNTED_LABELS),
        ).fetchone()
        return int(count)

    def oldest_resumable(self) -> int:
        """The smallest revision after which every change is still known."""
        (oldest,) = self._connection.execute("SELECT min(revision) FROM changes").fetchone()
        return self.revision if oldest is None else int(oldest) - 1

    def changes_after(
        self, revision: int, limit: int, *, max_bytes: int = PAGE_BYTES
    ) -> tuple[Change, ...]:
        """Changes after `revision`, in order: one, and as many more as `max_bytes` has room for."""
        rows = self._connection.execute(
            "SELECT revision, job_id, body FROM changes WHERE revision > ? "
            "ORDER BY revision LIMIT ?",
            (revision, limit),
        )
        changes = list[Change]()
        for number, job_id, body in rows:
            max_bytes -= len(body or b"")
            if changes and max_bytes < 0:
                break
            job = None if body is None else self._codec.decode(body)
            changes.append(Change(revision=number, job_id=job_id, job=job))
        return tuple(changes)


def _bodies(rows: Iterable[tuple[bytes]]) -> Iterator[bytes]:
    return (body for (body,) in rows)
