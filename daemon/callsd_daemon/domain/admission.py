# SPDX-License-Identifier: Apache-2.0
"""Admission: may this job start now, wait, or must it be refused?

`decide` is a pure function of what the machine is doing, what was promised, and policy. The same
function answers a new request and decides when a waiting job may start.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import Reservation


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What this machine has, and what processes that are not ours use of it.

    Sizes in bytes; `cores_external` in cores, smoothed; `cpu_pressure` is the kernel's share of
    time in which some task waited for a processor (0 to 1), None where it does not say.
    """

    cores_total: float
    cores_external: float
    memory_total_bytes: int
    memory_external_bytes: int
    disk_total_bytes: int
    disk_free_bytes: int
    cpu_pressure: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Limits set by the administrator; 0 running jobs means no ceiling, 0 queued means no queue."""

    headroom_cores: float
    headroom_memory_bytes: int
    headroom_disk_bytes: int
    max_concurrent_jobs: int = 0
    max_per_kind: Mapping[str, int] = field(default_factory=dict)
    max_queued_jobs: int = 1000
    patience_seconds: float = 30.0
    """How long the processor load of others may hold a waiting job back."""
    is_enforced: bool = True
    """False: only the ceilings hold, whatever the machine can carry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything a decision depends on, besides the candidate and the policy."""

    host: Host
    reserved: Reservation
    running: Mapping[str, int]
    queued_ahead: int
    """Jobs that are before this one in the queue."""
    queue_waiting_for: Reason | None = None
    """What the first of them waits for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """The job that wants to start."""

    kind: str
    reservation: Reservation
    is_batch: bool
    """Whether it can wait in the queue; live work starts at once or is refused."""
    may_queue: bool
    waited_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Admit:
    """The job may start now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """The job is accepted and waits."""

    position: int
    reason: Reason | None
    """What it waits for; None: for another job to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """The job is not accepted. `required` and `available` are in `unit`."""

    reason: Reason
    message: str
    required: float = 0.0
    available: float = 0.0
    unit: str = ""
    retry_after_seconds: float | None = None

    def error(self) -> CallsdError:
        """The refusal as an exception, with its figures as metadata."""
        metadata = {
            "required": f"{self.required:g}",
            "available": f"{self.available:g}",
            "unit": self.unit,
        }
        return CallsdError(
            self.reason,
            self.message,
            metadata=metadata if self.unit else None,
            retry_after_seconds=self.retry_after_seconds,
        )


Decision = Admit | Queue | Refuse

RETRY_AFTER_SECONDS = 10.0
"""When a refused client should try again: jobs end on the scale of seconds to minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One resource: total - headroom - reserved - external = available (may be negative)."""

    reason: Reason
    unit: str
    total: float
    headroom: float
    reserved: float
    external: float
    budget: float
    """What all jobs together may hold on an otherwise idle machine."""

    @property
    def available(self) -> float:
        """What is left for new jobs."""
        return self.total - self.headroom - self.reserved - self.external


def accounts(snapshot: Snapshot, policy: Policy) -> dict[str, Account]:
    """The accounts of all resources, by their names in a reservation; disk comes first."""
    host, reserved = snapshot.host, snapshot.reserved
    return {
        "disk_bytes": Account(
            reason=Reason.DISK_EXHAUSTED,
            unit="bytes of disk",
            total=host.disk_total_bytes,
            headroom=policy.headroom_disk_bytes,
            reserved=reserved.disk_bytes,
            external=host.disk_total_bytes - host.disk_free_bytes,
            budget=host.disk_total_bytes - policy.headroom_disk_bytes,
        ),
        "cores": Account(
            reason=Reason.CPU_EXHAUSTED,
            unit="cores",
            total=host.cores_total,
            # Cores are kept free for other processes: what these use of them is not kept twice.
            headroom=max(0.0, policy.headroom_cores - host.cores_external),
            reserved=reserved.cores,
            external=host.cores_external,
            budget=host.cores_total - policy.headroom_cores,
        ),
        "memory_bytes": Account(
            reason=Reason.MEMORY_EXHAUSTED,
            unit="bytes of memory",
            total=host.memory_total_bytes,
            headroom=policy.headroom_memory_bytes,
            reserved=reserved.memory_bytes,
            external=host.memory_external_bytes,
            budget=host.memory_total_bytes - policy.headroom_memory_bytes,
        ),
    }


def decide(snapshot: Snapshot, candidate: Candidate, policy: Policy) -> Decision:
    """Whether the job may start now, waits, or is refused.

    Batch jobs wait for processor, memory and slots, in the order they came; live jobs pass them.
    They run at low priority and so give way to other processes: when these have held the first of
    them back for longer than the policy's patience, it starts all the same, or it might never.
    Nothing waits for disk: what fills it is not expected to go away by itself.
    """
    current = accounts(snapshot, policy)
    for resource, account in current.items():
        need = getattr(candidate.reservation, resource)
        if need > account.budget and policy.is_enforced:
            return Refuse(
                reason=Reason.CANNOT_FIT,
                message=(
                    f"the job needs {need:g} {account.unit}, but this machine has "
                    f"{account.budget:g} for all jobs: ask for less: "
                    "threads, model, size or rate of the picture"
                ),
                required=need,
                available=account.budget,
                unit=account.unit,
            )
    shortage = _shortage(snapshot, candidate, policy, current)
    ahead = snapshot.queued_ahead if candidate.is_batch else 0
    if shortage is None and ahead == 0:
        return Admit()
    if shortage is None:
        shortage = Refuse(
            reason=snapshot.queue_waiting_for or Reason.SLOTS_EXHAUSTED,
            message=f"{ahead} jobs are waiting already",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )
    if not (candidate.is_batch and candidate.may_queue) or shortage.reason is Reason.DISK_EXHAUSTED:
        return shortage
    if ahead >= policy.max_queued_jobs:
        return Refuse(
            reason=Reason.QUEUE_FULL,
            message=(
                f"{ahead} jobs are waiting already, and the queue holds "
                f"{policy.max_queued_jobs}: try again later, or raise jobs.max_queued_jobs"
            ),
            required=1,
            available=0,
            unit="places in the queue",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )
    return Queue(position=ahead + 1, reason=shortage.reason)


def _shortage(
    snapshot: Snapshot, candidate: Candidate, policy: Policy, current: Mapping[str, Account]
) -> Refuse | None:
    """The first thing that the job lacks now: slots, disk, cores, memory."""
    ceilings = (
        ("jobs.max_concurrent_jobs", policy.max_concurrent_jobs, sum(snapshot.running.values())),
        (
            f"jobs.max_{candidate.kind}_jobs",
            policy.max_per_kind.get(candidate.kind, 0),
            snapshot.running.get(candidate.kind, 0),
        ),
    )
    for setting, ceiling, running in ceilings:
        if ceiling and running >= ceiling:
            return Refuse(
                reason=Reason.SLOTS_EXHAUSTED,
                message=f"{running} jobs are running, and {setting} allows {ceiling}",
                required=1,
                available=max(0, ceiling - running),
                unit="jobs",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
    if not policy.is_enforced:
        return None
    is_patient = not candidate.is_batch or candidate.waited_seconds < policy.patience_seconds
    for resource, account in current.items():
        need = getattr(candidate.reservation, resource)
        available = account.available
        if account.reason is Reason.CPU_EXHAUSTED and not is_patient:
            available = account.budget - account.reserved
        if need > available:
            return _refusal(account, need)
    return None


def _refusal(account: Account, need: float) -> Refuse:
    return Refuse(
        reason=account.reason,
        message=(
            f"the job needs {need:g} {account.unit}, and {account.available:g} are free: of "
            f"{account.total:g}, {account.headroom:g} are kept free, {account.reserved:g} are "
            f"promised to jobs and {account.external:g} are used by others"
        ),
        required=need,
        available=account.available,
        unit=account.unit,
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )
