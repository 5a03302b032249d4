# SPDX-License-Identifier: Apache-2.0
"""Admission at work: the latest look at the machine, the tx, and the decision."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog

from callsd_daemon.domain.admission import (
    Account,
    Admit,
    Decision,
    Host,
    Policy,
    Request,
    Snapshot,
    accounts,
    decide,
)
from callsd_daemon.domain.costs import captioner_cost
from callsd_daemon.domain.jobs import Job, Reservation
from callsd_daemon.host.probe import Probe, Spent, Use
from callsd_daemon.metrics import DECISIONS
from callsd_daemon.store.read_transaction import ReadTransaction


log = structlog.get_logger(__name__)


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
        spent: Callable[[], Mapping[str, Spent]],
        awaited_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        """`spent` tells what our workers have taken, by name; it blocks for milliseconds.

        `awaited_bytes` tells of how much disk space is taken by what is on its way already.
        """
        self.policy = policy
        self._probe = probe
        self._spent = spent
        self._awaited_bytes = awaited_bytes
        self.host: Host = probe.sample({})
        self.host_time = datetime.now(UTC)
        self.uses: dict[str, Use] = {}
        """What workers take, by name, as of the latest look. A worker that serves one job bears
        the job's."""

    async def look(self) -> None:
        """Sample the machine."""
        self.host = await asyncio.to_thread(lambda: self._probe.sample(self._spent()))
        self.host_time = datetime.now(UTC)
        self.uses = self._probe.uses

    def decide(self, tx: ReadTransaction, job: Job, *, may_queue: bool) -> Verdict:
        """Decide about a new job."""
        first = tx.first_queued()
        snapshot = replace(
            self._snapshot(tx),
            queued_ahead=tx.queue_length(),
            queue_waiting_for=None if first is None else first.waiting_for,
        )
        request = Request(kind=job.kind, reservation=_need(tx, job), may_queue=may_queue)
        return Verdict(decision=decide(snapshot, request, self.policy), snapshot=snapshot)

    def decide_next(self, tx: ReadTransaction, job: Job, *, waited_seconds: float) -> Verdict:
        """Decide whether the first job of the queue may start."""
        snapshot = self._snapshot(tx)
        request = Request(
            kind=job.kind,
            reservation=_need(tx, job),
            may_queue=True,
            waited_seconds=waited_seconds,
        )
        return Verdict(decision=decide(snapshot, request, self.policy), snapshot=snapshot)

    def accounts(self, tx: ReadTransaction) -> tuple[Account, Account, Account]:
        """The accounts of disk, cores and memory, as they stand."""
        return accounts(self._snapshot(tx), self.policy)

    def withheld_disk_bytes(self, tx: ReadTransaction) -> int:
        """Disk space that is kept free or promised to jobs: nothing else may be put there."""
        if not self.policy.is_enforced:
            return 0
        disk, _, _ = self.accounts(tx)
        return int(disk.headroom + disk.reserved)

    def _snapshot(self, tx: ReadTransaction) -> Snapshot:
        # A captioner is charged once, however many calls it serves.
        reserved = sum(map(captioner_cost, tx.caption_models()), tx.reserved())
        free = max(self.host.disk_free_bytes - self._awaited_bytes(), 0)
        return Snapshot(
            host=replace(self.host, disk_free_bytes=free),
            reserved=reserved,
            running=tx.running(),
            queued_ahead=0,
        )


def tell(job: Job, verdict: Verdict) -> None:
    """Tell log and metrics of a decision, once it holds."""
    decision, snapshot = verdict.decision, verdict.snapshot
    name = type(decision).__name__.lower()
    reason = "" if isinstance(decision, Admit) else decision.reason.value
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


def _need(tx: ReadTransaction, job: Job) -> Reservation:
    """What the job takes, with the captioner that it is the first one to need."""
    if job.captions is None or job.captions.model in tx.caption_models():
        return job.reservation
    return job.reservation + captioner_cost(job.captions.model)
