# SPDX-License-Identifier: Apache-2.0
"""A job and its life cycle. Every change is a method that returns the changed job."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from callsd_daemon.domain.delivery import Delivery
from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.recording import RecordingHealth
from callsd_daemon.domain.work import Result, Spec


class State(StrEnum):
    """States of a job."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ACTIVE_STATES = frozenset({State.STARTING, State.RUNNING, State.STOPPING})
"""States that hold a reservation: exactly those in which a process may exist."""

FINAL_STATES = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})

TRANSITIONS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.STARTING, State.CANCELLED, State.FAILED}),
    # A worker may have finished while no daemon was there to see it run.
    State.STARTING: frozenset(
        {State.RUNNING, State.STOPPING, State.QUEUED, State.SUCCEEDED, State.FAILED}
    ),
    State.RUNNING: frozenset({State.STOPPING, State.QUEUED, State.SUCCEEDED, State.FAILED}),
    # A worker that was told to end may still get its work done first, or fail at it.
    State.STOPPING: frozenset({State.CANCELLED, State.SUCCEEDED, State.FAILED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}
"""The state machine, whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What one job is charged for its whole life."""

    cores: float = 0.0
    memory_bytes: int = 0
    disk_bytes: int = 0

    def __add__(self, other: "Reservation") -> "Reservation":
        return Reservation(
            cores=self.cores + other.cores,
            memory_bytes=self.memory_bytes + other.memory_bytes,
            disk_bytes=self.disk_bytes + other.disk_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job is; seconds are seconds of media."""

    phase: str = ""
    fraction: float = 0.0
    processed_seconds: float = 0.0
    total_seconds: float = 0.0
    real_time_factor: float = 0.0
    recording: RecordingHealth | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a job failed."""

    reason: Reason
    message: str
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something a person should know although the job goes on."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file in the job's `artifacts` directory."""

    file_name: str
    media_type: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the job's process used."""

    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    wall_seconds: float = 0.0
    """How long the work took, by the clock; 0 when the worker did not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """The process that does a job's work, so that a later daemon knows it again.

    It proves itself by a token of which only the hash is kept.
    """

    token_sha256: str
    epoch: str = ""
    """What was started under another one is gone; empty: the launcher has to look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a worker's work ended, as it reported itself."""

    cancelled: bool = False
    """It was told to end, and has no result."""
    failure: Failure | None = None
    artifacts: tuple[Artifact, ...] = ()
    notices: tuple[Notice, ...] = ()
    results: Mapping[str, Result] = field(default_factory=dict)
    """What came of it, by kind: one job may yield several."""
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A piece of work and everything known about it."""

    id: str
    kind: str
    """Name of its `JobKind`."""
    state: State
    creator: str
    create_time: datetime
    update_time: datetime
    max_duration_seconds: float
    reservation: Reservation
    cost_key: str
    spec: Spec
    """What is asked for; of the kind's `spec_type`."""
    labels: dict[str, str] = field(default_factory=dict)
    request_id: str = ""
    payload_sha256: str = ""
    revision: int = 0
    attempt: int = 0
    worker: Worker | None = None
    waiting_for: Reason | None = None
    progress: Progress = Progress()
    failure: Failure | None = None
    notices: tuple[Notice, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    results: Mapping[str, Result] = field(default_factory=dict)
    """What came of it, by kind: one job may yield several."""
    usage: Usage | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    expire_time: datetime | None = None
    after_jobs: tuple[str, ...] = ()
    """It begins when these jobs have ended; none: as soon as there is room."""
    delivery: Delivery | None = None
    """Where its results go, besides being kept here."""

    @property
    def name(self) -> str:
        """Its name for clients."""
        return job_name(self.id)

    @property
    def etag(self) -> str:
        """Changes with every revision."""
        return f"r{self.revision}"

    @property
    def is_active(self) -> bool:
        """Whether the job holds its reservation."""
        return self.state in ACTIVE_STATES

    @property
    def is_undelivered(self) -> bool:
        """Whether something of it has to be delivered still."""
        return self.delivery is not None and self.delivery.is_pending

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self.state in FINAL_STATES

    def _to(self, state: State, now: datetime) -> "Job":
        if state not in TRANSITIONS[self.state]:
            raise CallsdError(
                Reason.JOB_STATE_CONFLICT,
                f"job {self.id} is {self.state}: it cannot become {state}",
                metadata={"state": self.state, "wanted": state},
            )
        # A clock that was set back must not make a job's history run backwards.
        return replace(self, state=state, update_time=max(now, self.update_time))

    def starting(self, worker: Worker, now: datetime) -> "Job":
        """Capacity is granted and a worker is about to be launched."""
        job = self._to(State.STARTING, now)
        return replace(
            job,
            worker=worker,
            attempt=self.attempt + 1,
            waiting_for=None,
            progress=Progress(phase="starting"),
        )

    def running(self, now: datetime) -> "Job":
        """The worker has reported for duty."""
        job = self._to(State.RUNNING, now)
        return replace(job, start_time=self.start_time or job.update_time)

    def stopping(self, now: datetime) -> "Job":
        """The worker is asked to end."""
        return self._to(State.STOPPING, now)

    def requeued(self, notice: Notice, now: datetime) -> "Job":
        """The worker was lost; another one shall begin anew."""
        job = self._to(State.QUEUED, now)
        return replace(job, worker=None, progress=Progress(), notices=(*self.notices, notice))

    def with_progress(self, progress: Progress, now: datetime) -> "Job":
        """The worker says how far it is; the fraction never goes back within one attempt."""
        fraction = max(_finite(progress.fraction), self.progress.fraction)
        return replace(
            self,
            progress=Progress(
                phase=progress.phase,
                fraction=min(fraction, 1.0),
                processed_seconds=_finite(progress.processed_seconds),
                total_seconds=_finite(progress.total_seconds),
                real_time_factor=_finite(progress.real_time_factor),
                recording=progress.recording,
            ),
            update_time=max(now, self.update_time),
        )

    def cancelled(self, now: datetime, *, retention: timedelta | None) -> "Job":
        """Ended on request, without a result."""
        return self._end(State.CANCELLED, now, retention)

    def failed(self, failure: Failure, now: datetime, *, retention: timedelta | None) -> "Job":
        """Ended without a result."""
        return replace(self._end(State.FAILED, now, retention), failure=failure)

    def finished(self, outcome: Outcome, now: datetime, *, retention: timedelta | None) -> "Job":
        """Ended as the worker reports."""
        if outcome.failure is not None:
            job = self.failed(outcome.failure, now, retention=retention)
        else:
            job = self._end(State.SUCCEEDED, now, retention)
            job = replace(
                job,
                artifacts=outcome.artifacts,
                progress=replace(job.progress, phase="done", fraction=1.0),
            )
        return replace(
            job,
            notices=(*self.notices, *outcome.notices),
            results=outcome.results,
            usage=outcome.usage,
        )

    def _end(self, state: State, now: datetime, retention: timedelta | None) -> "Job":
        job = self._to(state, now)
        return replace(
            job,
            end_time=job.update_time,
            progress=replace(job.progress, recording=None),
            expire_time=None if retention is None else job.update_time + retention,
            waiting_for=None,
        )


def job_name(job_id: str) -> str:
    """A job's name for clients."""
    return f"jobs/{job_id}"


def _finite(figure: float) -> float:
    """What a worker counted, as a figure that can be stored: a broken count is none."""
    return max(0.0, figure) if math.isfinite(figure) else 0.0
