# SPDX-License-Identifier: Apache-2.0
"""Watching jobs: no gap and no repetition, whatever happens to the connection."""

from collections.abc import Iterator

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callsd import (
    Bookmark,
    CallsdError,
    CapacityError,
    ConflictError,
    Interrupted,
    JobChanged,
    JobDeleted,
    NotFoundError,
    OutOfRangeError,
    UnavailableError,
    WatchEvent,
    WatchPosition,
)
from callsd._resume import Backoff
from callsd._watch import JobEnding, JobWatch
from callsd.v1.job_pb2 import (
    JOB_STATE_FAILED,
    JOB_STATE_RUNNING,
    Job,
    JobEvent,
    WatchJobsRequest,
    WatchJobsResponse,
)


CUT = UnavailableError("cut", code=grpc.StatusCode.UNAVAILABLE)
COMPACTED = OutOfRangeError(
    "compacted", code=grpc.StatusCode.OUT_OF_RANGE, reason="REVISION_COMPACTED"
)


class Server:
    """The server's side of the promise: a history, of which some is forgotten."""

    def __init__(self) -> None:
        self.database_id = "db"
        self.revision = 0
        self.oldest = 0
        self.jobs: dict[str, int] = {}
        self.history: list[tuple[int, str, bool]] = []

    def change(self, name: str, *, deleted: bool) -> None:
        """One more revision."""
        if deleted and name not in self.jobs:
            return
        self.revision += 1
        self.history.append((self.revision, name, deleted))
        if deleted:
            del self.jobs[name]
        else:
            self.jobs[name] = self.revision

    def answer(self, request: WatchJobsRequest, batch: int) -> Iterator[WatchJobsResponse]:
        """What a call would send until now, `batch` events a message."""
        if request.HasField("resume_revision"):
            if request.database_id != self.database_id or request.resume_revision < self.oldest:
                raise COMPACTED
            new = [item for item in self.history if item[0] > request.resume_revision]
            for start in range(0, len(new), batch):
                events = [
                    _event(revision, name, deleted=deleted)
                    for revision, name, deleted in new[start : start + batch]
                ]
                yield self._response(events, events[-1].revision, initial=True)
            return
        snapshot = sorted((revision, name, False) for name, revision in self.jobs.items())
        for start in range(0, len(snapshot), batch):
            events = [
                _event(revision, name, deleted=deleted)
                for revision, name, deleted in snapshot[start : start + batch]
            ]
            yield self._response(events, 0, initial=False)
        yield self._response([], self.revision, initial=True)

    def _response(
        self, events: list[JobEvent], revision: int, *, initial: bool
    ) -> WatchJobsResponse:
        return WatchJobsResponse(
            events=events,
            revision=revision,
            initial_state_sent=initial,
            database_id=self.database_id,
        )


def _event(revision: int, name: str, *, deleted: bool) -> JobEvent:
    if deleted:
        return JobEvent(revision=revision, job_deleted=name)
    return JobEvent(revision=revision, job_changed=Job(name=name, revision=revision))


def _watch(resume: WatchPosition | None = None) -> JobWatch:
    backoff = Backoff(clock=lambda: 0.0, jitter=lambda: 0.0)
    backoff.answered()
    return JobWatch(None, resume=resume, backoff=backoff)


def _run(
    server: Server, watch: JobWatch, *, batch: int = 10, cut_after: int = 99
) -> list[WatchEvent]:
    """One call, cut after some messages; a lost position leads to a second call."""
    events: list[WatchEvent] = []
    try:
        for index, response in enumerate(server.answer(watch.request(), batch)):
            if index == cut_after:
                break
            events += watch.receive(response)
    except OutOfRangeError as error:
        _, more = watch.failed(error)
        return [*events, *more, *_run(server, watch, batch=batch)]
    return events


CHANGES = st.tuples(st.sampled_from("abcd"), st.booleans())
CALLS = st.lists(
    st.tuples(st.lists(CHANGES, max_size=6), st.booleans(), st.integers(1, 3), st.integers(0, 4)),
    max_size=8,
)


class TestJobWatch:
    """The sequence of events over any number of calls."""

    @given(calls=CALLS)
    def test_no_gap_and_no_repetition(
        self, calls: list[tuple[list[tuple[str, bool]], bool, int, int]]
    ) -> None:
        """Through cuts and lost history the view ends as the server is; no news comes twice."""
        server, watch = Server(), _watch()
        view: dict[str, int] = {}
        for changes, forget, batch, cut_after in [*calls, ([], False, 1, 99)]:
            for name, deleted in changes:
                server.change(name, deleted=deleted)
            if forget:
                server.oldest = server.revision
                server.history.clear()
            for event in _run(server, watch, batch=batch, cut_after=cut_after):
                match event:
                    case JobChanged(job=job, revision=revision):
                        assert revision > view.get(job.name, 0)
                        view[job.name] = revision
                    case JobDeleted(name=name):
                        del view[name]
                    case _:
                        pass

        assert view == server.jobs

    def test_another_database_is_told_anew(self) -> None:
        """After a restore revisions begin again: every job is told, whatever its revision was."""
        server, watch = Server(), _watch()
        for name in "ab":
            server.change(name, deleted=False)
        _run(server, watch)
        restored = Server()
        restored.database_id = "other"
        restored.change("b", deleted=False)

        events = _run(restored, watch)

        assert [event for event in events if not isinstance(event, Bookmark)] == [
            JobChanged(job=Job(name="b", revision=1), revision=1),
            JobDeleted(name="a", revision=1),
        ]

    def test_half_a_snapshot_is_no_position(self) -> None:
        """A cut within the initial state leads to a whole one, not to a resume in its middle."""
        server, watch = Server(), _watch()
        for name in "abc":
            server.change(name, deleted=False)

        assert len(_run(server, watch, batch=1, cut_after=2)) == 2
        assert not watch.request().HasField("resume_revision")

    def test_resumed_watch_does_not_hide_a_loss(self) -> None:
        """A watch begun from a position cannot tell what has gone, so it ends with the error."""
        server = Server()
        server.change("a", deleted=False)
        server.oldest = 1
        watch = _watch(WatchPosition(database_id="db", revision=0))

        with pytest.raises(OutOfRangeError):
            _run(server, watch)

    def test_resumed_watch_tells_of_deletions_of_jobs_it_never_saw(self) -> None:
        """The caller who passes a position may know them."""
        server = Server()
        server.change("a", deleted=False)
        server.change("a", deleted=True)
        watch = _watch(WatchPosition(database_id="db", revision=1))

        assert JobDeleted(name="a", revision=2) in _run(server, watch)

    def test_foreign_deletions_are_left_out(self) -> None:
        """A deletion of a job that never matched the filter is no news."""
        server, watch = Server(), _watch()
        _run(server, watch)

        events = list(
            watch.receive(server._response([_event(1, "x", deleted=True)], 1, initial=True))
        )

        assert events == [Bookmark(position=WatchPosition(database_id="db", revision=1))]

    def test_a_cut_is_told(self) -> None:
        """The reader learns of a lost connection and of the next try."""
        delay, events = _watch().failed(CUT)

        assert list(events) == [Interrupted(error=CUT, retry_seconds=delay)]


class TestBackoff:
    """When to come back."""

    def test_what_never_worked_fails_at_once(self) -> None:
        """A wrong address does not cost minutes."""
        with pytest.raises(UnavailableError):
            Backoff().failed(CUT)

    def test_a_server_that_has_answered_other_calls_is_waited_for(self) -> None:
        """Its address is right: it restarts. What it refuses is no cut, and told at once."""
        backoff = Backoff(is_known=True)
        full = CapacityError(
            "full", code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="STREAMS_EXHAUSTED"
        )

        assert backoff.failed(CUT) > 0
        with pytest.raises(CapacityError):
            backoff.failed(full)
        backoff.answered()
        assert backoff.failed(full) > 0

    def test_delays_grow_to_a_limit_and_start_again(self) -> None:
        """Tries come quickly at first, then every few seconds; an answer begins anew."""
        backoff = Backoff(clock=lambda: 0.0, jitter=lambda: 1.0)
        backoff.answered()

        assert [backoff.failed(CUT) for _ in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
        backoff.answered()
        assert backoff.failed(CUT) == 0.1

    def test_jitter_takes_at_most_half(self) -> None:
        """Clients cut off together do not come back together."""
        backoff = Backoff(clock=lambda: 0.0, jitter=lambda: 0.0)
        backoff.answered()

        assert backoff.failed(CUT) == 0.05

    def test_the_server_s_wish_counts(self) -> None:
        """RetryInfo is the least delay."""
        backoff = Backoff(clock=lambda: 0.0)
        backoff.answered()
        wish = UnavailableError("x", code=CUT.code, reason="DRAINING", retry_after_seconds=7.5)

        assert backoff.failed(wish) == 7.5

    def test_patience_ends(self) -> None:
        """A server that stays away is given up."""
        now = [0.0]
        backoff = Backoff(patience_seconds=60, clock=lambda: now[0])
        backoff.answered()
        now[0] = 59.0
        backoff.failed(CUT)
        now[0] = 61.0

        with pytest.raises(UnavailableError):
            backoff.failed(CUT)

    def test_slow_consumer_comes_back(self) -> None:
        """Being dropped for slowness is no end; a refusal is."""
        backoff = Backoff()
        backoff.answered()
        slow = ConflictError("slow", code=grpc.StatusCode.ABORTED, reason="SLOW_CONSUMER")
        etag = ConflictError("etag", code=grpc.StatusCode.ABORTED, reason="ETAG_MISMATCH")

        assert backoff.failed(slow) > 0
        with pytest.raises(ConflictError):
            backoff.failed(etag)

    @pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN])
    def test_a_status_of_grpc_s_own(self, code: grpc.StatusCode) -> None:
        """One that is not the daemon's hides what it was: it is asked again."""
        backoff = Backoff()
        backoff.answered()
        masked = CallsdError("Stream removed", code=code)
        bug = CallsdError("a bug", code=grpc.StatusCode.INTERNAL, reason="INTERNAL")

        assert backoff.failed(masked) > 0
        with pytest.raises(CallsdError, match="a bug"):
            backoff.failed(bug)


class TestJobEnding:
    """Waiting for one job's end."""

    def test_final_state_ends(self) -> None:
        """The job is returned as it ended."""
        ending = JobEnding(Job(name="jobs/a", state=JOB_STATE_RUNNING))
        failed = Job(name="jobs/a", state=JOB_STATE_FAILED)

        assert ending.job is None
        ending.observe(JobChanged(job=failed, revision=2))
        assert ending.job == failed

    def test_ended_before(self) -> None:
        """A job that has ended already is not waited for."""
        assert JobEnding(Job(name="jobs/a", state=JOB_STATE_FAILED)).job is not None

    @pytest.mark.parametrize(
        "event",
        [
            JobDeleted(name="jobs/a", revision=2),
            Bookmark(position=WatchPosition(database_id="db", revision=2)),
        ],
    )
    def test_deleted_meanwhile(self, event: WatchEvent) -> None:
        """A job that is deleted, also before the watch began, is not waited for in vain."""
        ending = JobEnding(Job(name="jobs/a", state=JOB_STATE_RUNNING))

        with pytest.raises(NotFoundError, match="jobs/a"):
            ending.observe(event)
