# SPDX-License-Identifier: Apache-2.0
"""Admission at work: the latest look at the machine, the jobs, and the decision."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog

from callsd_daemon.domain.admission import (
    Account,
    Admit,
    Candidate,
    Decision,
    Host,
    Policy,
    Queue,
    Refuse,
    Snapshot,
    accounts,
    decide,
)
from callsd_daemon.domain.jobs import Job, Reservation
from callsd_daemon.domain.work import Spec
from callsd_daemon.host.probe import Probe, Spent, Use
from callsd_daemon.kinds import Kinds
from callsd_daemon.metrics import DECISIONS
from callsd_daemon.store.read_transaction import ReadTransaction


log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Companion:
    """A job that will be asked for in a moment, and must not be refused then."""

    kind: str
    spec: Spec
    reservation: Reservation


HOLD_SECONDS = 90.0
"""For so long room is held for a companion that does not come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A decision, and what it was made by."""

    decision: Decision
    snapshot: Snapshot


class AdmissionController:
    """Keeps the latest sample of the host, and decides within a transaction of the store."""

    def __init__(
        self,
        probe: Probe,
        policy: Policy,
        kinds: Kinds,
        spent: Callable[[], Mapping[str, Spent]],
        awaited_bytes: Callable[[], int] = lambda: 0,
        *,
        now_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        """`spent` tells what our workers have taken, by name; it blocks for milliseconds.

        `awaited_bytes` tells of how much disk space is taken by what is on its way already.
        `now_seconds` is a monotonic clock.
        """
        self.policy = policy
        self._kinds = kinds
        self._sharing = [name for name, kind in kinds.items() if kind.may_share]
        self._probe = probe
        self._spent = spent
        self._awaited_bytes = awaited_bytes
        self.host: Host = probe.sample({})
        self.host_time = datetime.now(UTC)
        self.uses: dict[str, Use] = {}
        """What workers take, by name, as of the latest sample. A worker that serves one job bears
        the job's."""
        self._now_seconds = now_seconds
        self._held: dict[str, tuple[Reservation, float]] = {}
        """Room for the companions of jobs, by the ids of these, and until when. Only `decide` about
        a new job changes it: accounts are read on another thread of the store."""

    async def sample(self) -> None:
        """Sample the machine."""
        self.host = await asyncio.to_thread(lambda: self._probe.sample(self._spent()))
        self.host_time = datetime.now(UTC)
        self.uses = self._probe.uses

    def decide(
        self,
        tx: ReadTransaction,
        job: Job,
        *,
        may_queue: bool,
        companion: Companion | None = None,
        is_owed: bool = False,
        companion_of: str = "",
    ) -> Verdict:
        """Decide about a new job; if it may start, room for its companion is held from then on.

        That companion takes the room. A job that is owed is admitted even without room.
        """
        # What was held for this job itself, too: the transaction of an earlier try may have been
        # undone, and this one decides anew.
        for key in (companion_of, job.id):
            self._held.pop(key, None)
        if _begins_later(tx, job):
            # Decided when it is its turn.
            return Verdict(decision=Queue(position=0, reason=None), snapshot=self._snapshot(tx))
        first = tx.first_queued()
        snapshot = replace(
            self._snapshot(tx),
            queued_ahead=tx.queue_length(),
            queue_waiting_for=None if first is None else first.waiting_for,
        )
        candidate = self._candidate(tx, job, may_queue=may_queue)
        room = Reservation()
        if companion is not None:
            room = self._need(tx, companion.kind, companion.spec, companion.reservation)
        candidate = replace(candidate, reservation=candidate.reservation + room)
        decision = decide(snapshot, candidate, self.policy)
        if companion is not None and isinstance(decision, Admit):
            self._hold(job.id, room)
        if is_owed and isinstance(decision, Refuse):
            log.warning("admitted_beyond_room", job_id=job.id, reason=decision.reason)
            decision = Admit()
        return Verdict(decision=decision, snapshot=snapshot)

    def decide_next(self, tx: ReadTransaction, job: Job, *, waited_seconds: float) -> Verdict:
        """Decide whether the first job of the queue may start."""
        snapshot = self._snapshot(tx)
        candidate = self._candidate(tx, job, may_queue=True, waited_seconds=waited_seconds)
        return Verdict(decision=decide(snapshot, candidate, self.policy), snapshot=snapshot)

    def accounts(self, tx: ReadTransaction) -> dict[str, Account]:
        """The accounts of all resources, by name, as they stand."""
        return accounts(self._snapshot(tx), self.policy)

    def withheld_disk_bytes(self, tx: ReadTransaction) -> int:
        """Disk space that is kept free or promised to jobs: nothing else may be put there."""
        if not self.policy.is_enforced:
            return 0
        disk = self.accounts(tx)["disk_bytes"]
        return int(disk.headroom + disk.reserved)

    def _hold(self, job_id: str, room: Reservation) -> None:
        now = self._now_seconds()
        for key in [key for key, (_room, until) in self._held.items() if until <= now]:
            del self._held[key]
        self._held[job_id] = (room, now + HOLD_SECONDS)

    def _snapshot(self, tx: ReadTransaction) -> Snapshot:
        now, held = self._now_seconds(), tuple(self._held.values())
        reserved = sum(self._shared_workers(tx).values(), tx.reserved())
        reserved = sum((room for room, until in held if until > now), reserved)
        free = max(self.host.disk_free_bytes - self._awaited_bytes(), 0)
        return Snapshot(
            host=replace(self.host, disk_free_bytes=free),
            reserved=reserved,
            running=tx.running(),
            queued_ahead=0,
        )

    def _candidate(
        self, tx: ReadTransaction, job: Job, *, may_queue: bool, waited_seconds: float = 0.0
    ) -> Candidate:
        """What the job needs, with the shared worker that it is the first one to need."""
        return Candidate(
            kind=job.kind,
            reservation=self._need(tx, job.kind, job.spec, job.reservation),
            is_batch=self._kinds[job.kind].is_batch,
            may_queue=may_queue,
            waited_seconds=waited_seconds,
        )

    def _need(
        self, tx: ReadTransaction, kind: str, spec: Spec, reservation: Reservation
    ) -> Reservation:
        worker = self._kinds[kind].shared_worker(spec)
        if worker is None or worker.name in self._shared_workers(tx):
            return reservation
        return reservation + worker.reservation

    def _shared_workers(self, tx: ReadTransaction) -> dict[str, Reservation]:
        """What workers hold that serve many jobs: each is charged once."""
        found = dict[str, Reservation]()
        for job in tx.active_of(self._sharing):
            worker = self._kinds[job.kind].shared_worker(job.spec)
            if worker is not None:
                found[worker.name] = worker.reservation
        return found


def _begins_later(tx: ReadTransaction, job: Job) -> bool:
    """Whether another job has to end before this one."""
    return any(
        (first := tx.get(job_id)) is not None and not first.is_final for job_id in job.after_jobs
    )


def record_decision(job: Job, verdict: Verdict) -> None:
    """Write a decision to log and metrics, once it holds."""
    decision, snapshot = verdict.decision, verdict.snapshot
    name = type(decision).__name__.lower()
    reason = "" if isinstance(decision, Admit) or decision.reason is None else decision.reason
    DECISIONS.labels(decision=name, reason=reason).inc()
    log.info(
        "admission",
        job_id=job.id,
        decision=name,
        reason=reason,
        cores=job.reservation.cores,
        memory_bytes=job.reservation.memory_bytes,
        cores_reserved=snapshot.reserved.cores,
        cores_external=round(snapshot.host.cores_external, 2),
    )
