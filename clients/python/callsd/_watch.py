# SPDX-License-Identifier: Apache-2.0
"""Following jobs: one gap-free sequence of events over any number of connections."""

from collections.abc import Iterator
from dataclasses import dataclass

import grpc

from callsd._errors import CallsdError, NotFoundError
from callsd._resume import Backoff, Resumable
from callsd.v1.capacity_pb2 import Capacity
from callsd.v1.job_pb2 import (
    JOB_STATE_CANCELLED,
    JOB_STATE_FAILED,
    JOB_STATE_SUCCEEDED,
    Job,
    JobFilter,
    WatchJobsRequest,
    WatchJobsResponse,
)
from callsd.v1.server_pb2 import WatchCapacityRequest, WatchCapacityResponse


FINAL_STATES = frozenset({JOB_STATE_SUCCEEDED, JOB_STATE_FAILED, JOB_STATE_CANCELLED})
"""States that a job never leaves."""

_POSITION_LOST = frozenset({"REVISION_COMPACTED", "REVISION_UNKNOWN"})


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchPosition:
    """A point in a database's history; pass it to a later watch to go on from there."""

    database_id: str
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobChanged:
    """A job is new, or is not what it was."""

    job: Job
    """The whole job as it is now."""
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDeleted:
    """A job is no longer there."""

    name: str
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bookmark:
    """All changes up to `position` have been yielded.

    The first one ends the initial state; an idle watch yields one every 10 s.
    """

    position: WatchPosition


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """The connection broke. Nothing is lost: the watch goes on by itself."""

    error: CallsdError
    retry_seconds: float
    """When the next try is made."""


WatchEvent = JobChanged | JobDeleted | Bookmark | Interrupted


class JobWatch(Resumable[WatchJobsRequest, WatchJobsResponse, WatchEvent]):
    """Turns the answers of one or more WatchJobs streams into one sequence of events.

    It resumes from the last revision it has seen in full. Where the server no longer has that
    revision (or has another database), it takes a fresh snapshot and yields the difference to
    what was yielded before: only what has changed, and a deletion for each job that has gone.
    A watch that began with `resume` cannot know which jobs have gone, so it fails instead.
    """

    def __init__(
        self, job_filter: JobFilter | None, *, resume: WatchPosition | None, backoff: Backoff
    ) -> None:
        super().__init__(backoff)
        self._filter = job_filter
        self._position = resume
        self._knows_all = resume is None
        self._database_id = resume.database_id if resume else ""
        # Revision of each job as it was yielded last. Grows with the jobs that match the filter.
        self._seen: dict[str, int] = {}
        # Jobs of the snapshot being received; None while changes are received.
        self._snapshot: set[str] | None = None

    def request(self) -> WatchJobsRequest:
        """From the last complete revision on, or all matching jobs as they are now."""
        if self._position is None:
            self._snapshot = set()
            return WatchJobsRequest(filter=self._filter)
        self._snapshot = None
        return WatchJobsRequest(
            filter=self._filter,
            resume_revision=self._position.revision,
            database_id=self._position.database_id,
        )

    def receive(self, response: WatchJobsResponse) -> Iterator[WatchEvent]:
        """The events of one message that were not yielded before, then a bookmark."""
        if response.database_id != self._database_id:
            # Revisions of another database say nothing about what was yielded from this one.
            self._seen = dict.fromkeys(self._seen, -1)
            self._database_id = response.database_id
        for event in response.events:
            match event.WhichOneof("event"):
                case "job_changed":
                    yield from self._changed(event.job_changed, event.revision)
                case "job_deleted":
                    yield from self._deleted(event.job_deleted, event.revision)
                case None:
                    pass  # an event of a kind newer than this client
        if self._snapshot is not None and response.initial_state_sent:
            for name in sorted(self._seen.keys() - self._snapshot):
                yield from self._deleted(name, response.revision)
            self._snapshot = None
        if self._snapshot is None:
            # Not before: half a snapshot is not a point to resume from.
            self._position = WatchPosition(
                database_id=response.database_id, revision=response.revision
            )
            yield Bookmark(position=self._position)

    def failed(self, error: CallsdError) -> tuple[float, tuple[WatchEvent, ...]]:
        """As the base class; a lost position is given up and all jobs are read again."""
        if error.reason in _POSITION_LOST and self._knows_all and self._position is not None:
            self._position = None
            return 0.0, ()
        delay = self.backoff.failed(error)
        return delay, (Interrupted(error=error, retry_seconds=delay),)

    def _changed(self, job: Job, revision: int) -> Iterator[WatchEvent]:
        if self._snapshot is not None:
            self._snapshot.add(job.name)
        if self._seen.get(job.name, -1) < job.revision:
            self._seen[job.name] = job.revision
            yield JobChanged(job=job, revision=revision)

    def _deleted(self, name: str, revision: int) -> Iterator[WatchEvent]:
        was_seen = self._seen.pop(name, None) is not None
        if self._snapshot is not None:
            self._snapshot.discard(name)
        # The server cannot tell whether a job that is gone matched the filter; we can.
        if was_seen or not self._knows_all:
            yield JobDeleted(name=name, revision=revision)


class JobEnding:
    """Waits, by the events of a watch on one job alone, for that job's end."""

    def __init__(self, job: Job) -> None:
        self._name = job.name
        self.job: Job | None = job if job.state in FINAL_STATES else None
        """The job in its final state; None until then."""
        self._seen = False

    def observe(self, event: WatchEvent) -> None:
        """Learn from the next event.

        Raises:
            NotFoundError: The job has been deleted.
        """
        match event:
            case JobChanged(job=job):
                self._seen = True
                self.job = job if job.state in FINAL_STATES else None
            case JobDeleted():
                raise self._gone()
            case Bookmark() if not self._seen:
                raise self._gone()
            case _:
                pass

    def _gone(self) -> NotFoundError:
        return NotFoundError(
            f"{self._name} was deleted while it was waited for",
            code=grpc.StatusCode.NOT_FOUND,
            reason="JOB_NOT_FOUND",
            metadata={"name": self._name},
        )


class CapacityWatch(Resumable[WatchCapacityRequest, WatchCapacityResponse, Capacity]):
    """The newest capacity; each request begins with it, so that there is nothing to resume."""

    def request(self) -> WatchCapacityRequest:
        """Always the same."""
        return WatchCapacityRequest()

    def receive(self, response: WatchCapacityResponse) -> Iterator[Capacity]:
        """What the message carries."""
        yield response.capacity
