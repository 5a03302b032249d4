# SPDX-License-Identifier: Apache-2.0
"""What a kind of job is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from callsd_daemon.domain.delivery import Delivery
from callsd_daemon.domain.jobs import Job, Notice, Reservation, Usage
from callsd_daemon.domain.work import Result, Secrets, Spec


S = TypeVar("S", bound=Spec)

Opener = Callable[[], int]
"""Opens a file for reading, and returns its descriptor. Blocks; raises OSError or CallsdError."""


class Role(StrEnum):
    """Programs that workers run."""

    TRANSCRIBER = "transcriber"
    RECORDER = "recorder"
    CAPTIONER = "captioner"
    CAPTURER = "capturer"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A file of a model and what it must be; `path` is relative to the model's directory."""

    path: str
    size_bytes: int
    sha256: str
    open: Opener = field(compare=False)


class Assignment(Protocol):
    """All that a worker must know to do a job; it looks nothing up."""

    @property
    def files(self) -> Mapping[str, Opener]:
        """What the worker may read, by the names it asks with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How long an attempt and its parts may take, and how long its log may get."""

    start_timeout_seconds: float
    silence_timeout_seconds: float
    stop_grace_seconds: float
    max_log_bytes: int
    """Of each log: the worker's own, and what is kept of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedWorker:
    """A worker that serves all jobs that name it, and is charged once for all of them."""

    name: str
    reservation: Reservation


class JobKind(ABC, Generic[S]):
    """All that differs between kinds of jobs, but for their messages.

    Those are translated where they arrive: in `rpc/kinds` for clients, in `workers/session` for
    workers. An object holds the administrator's settings for its kind, and never changes.
    """

    name: ClassVar[str]
    is_batch: ClassVar[bool]
    """Batch jobs wait in the queue, run at low priority, and fail at their `max_duration`. Live
    jobs start at once or are refused, and at their `max_duration` they stop, and succeed."""
    spec_type: ClassVar[type[Spec]]
    result_type: ClassVar[type[Result]]
    secrets_type: ClassVar[type[Secrets]] = Secrets
    role: ClassVar[Role | None]
    """The program that does one such job; None: a shared worker alone serves it."""
    may_share: ClassVar[bool] = False
    """Whether a shared worker serves its jobs, alone or beside their own."""
    leaves_pieces: ClassVar[bool] = False
    """Whether a lost worker leaves pieces of which something can be made."""

    bounds: Bounds
    max_duration_seconds: float
    """Of a job that does not say."""

    @abstractmethod
    def check(self, spec: S, creator: str) -> tuple[Notice, ...]:
        """See that the job can be done here; what its creator should know. Blocks on files.

        Raises CallsdError.
        """

    @abstractmethod
    def cost_key(self, spec: S) -> str:
        """Jobs with the same key are expected to cost the same."""

    @abstractmethod
    def cost(self, spec: S, max_duration_seconds: float, observed: Sequence[Usage]) -> Reservation:
        """What one such job is charged. `observed` is what the latest with its cost key used."""

    def shared_worker(self, spec: S) -> SharedWorker | None:
        """The worker that serves this job and others."""
        return None

    def assignment(
        self, job: Job, spec: S, secrets: Secrets, after: Mapping[str, Job]
    ) -> Assignment:
        """All that the worker must know; checks again that all is still there. Blocks.

        `after` has the jobs that this one begins after, by id, as they have ended.
        Raises CallsdError.
        """
        raise NotImplementedError(f"{self.name} jobs have no worker of their own")

    def uploads(self, spec: S) -> frozenset[str]:
        """Ids of the uploads that the job needs until it has ended."""
        return frozenset()

    def begins_after(self, spec: S) -> tuple[str, ...]:
        """Ids of jobs that have to end first."""
        return ()

    def delivery(self, spec: S) -> Delivery | None:
        """Where the job's results go, besides being kept here."""
        return None

    def longest_seconds(self, job: Job, spec: S) -> float:
        """How long a worker may take in all."""
        return job.max_duration_seconds

    def is_at_end(self, job: Job, ran_seconds: float) -> bool:
        """Whether a lost worker has left nothing to go on with for another one."""
        return False

    @property
    def salvage_seconds(self) -> float:
        """How long it may take to bring what a lost worker has left."""
        return self.bounds.start_timeout_seconds + self.bounds.stop_grace_seconds


Kinds = Mapping[str, JobKind[Any]]
"""All kinds that are served, by name."""
