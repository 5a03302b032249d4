# SPDX-License-Identifier: Apache-2.0
"""WatchJobs: ordered, unique, reliable, resumable, bookmarkable."""

import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import grpc
import pytest

from callsd.v1.job_pb2 import (
    JOB_STATE_QUEUED,
    JOB_STATE_SUCCEEDED,
    DeleteJobRequest,
    JobEvent,
    JobFilter,
    StopJobRequest,
    WatchJobsRequest,
    WatchJobsResponse,
)
from tests.conftest import StartDaemon
from tests.helpers.api import Api
from tests.helpers.daemon import Daemon
from tests.helpers.history import Recorder
from tests.helpers.invariants import all_jobs, assert_history, assert_invariants
from tests.helpers.reasons import refused
from tests.helpers.waiting import eventually


if TYPE_CHECKING:
    from grpc import _CallIterator  # there is no such name at run time

WINDOW_BYTES = 64 * 1024


def messages(api: Api, **request: object) -> "_CallIterator[WatchJobsResponse]":
    """Begin a watch."""
    return api.stream(api.jobs.WatchJobs, WatchJobsRequest(**request))  # type: ignore[arg-type]


def initial(watch: Iterator[WatchJobsResponse]) -> tuple[list[JobEvent], WatchJobsResponse]:
    """The events of the initial state, and the message that ended it."""
    events = list[JobEvent]()
    for message in watch:
        events += message.events
        if message.initial_state_sent:
            return events, message
    raise AssertionError("the watch has ended")


def following(watch: Iterator[WatchJobsResponse], revision: int) -> list[JobEvent]:
    """The events up to a revision."""
    events = list[JobEvent]()
    for message in watch:
        events += message.events
        if message.revision >= revision:
            return events
    raise AssertionError("the watch has ended")


class TestInitialState:
    """The beginning of a watch."""

    def test_all_jobs_as_they_are(self, api: Api, server: Daemon) -> None:
        """A fresh watch begins with every job, and says when that is done and whose they are."""
        names = {server.create(api).job.name for _ in range(3)}
        for name in names:
            server.wait(api, name)
        events, last = initial(messages(api))
        jobs = {job.name: job for job in all_jobs(api)}

        assert {event.job_changed.name: event.job_changed for event in events} == jobs
        assert names <= set(jobs)
        assert last.revision == max(job.revision for job in jobs.values())
        assert last.database_id

    def test_filter(self, api: Api, server: Daemon) -> None:
        """With a filter it begins with the jobs that match, and no others."""
        label = {"call": str(uuid.uuid4())}
        names = [server.create(api, labels=labels).job.name for labels in (label, None)]
        for name in names:
            server.wait(api, name)
        for wanted in (JobFilter(labels=label), JobFilter(names=names[:1])):
            events, _ = initial(messages(api, filter=wanted))
            assert [event.job_changed.name for event in events] == names[:1]


class TestChanges:
    """What follows."""

    def test_fifty_jobs(self, daemon: StartDaemon) -> None:
        """Every change of fifty jobs is told once, in order, to each of several watchers."""
        one = daemon()
        api = one.api()
        with Recorder(one) as first, Recorder(one) as second:
            names = [one.create(api).job.name for _ in range(50)]
            for name in names[5:]:
                api(api.jobs.StopJob, StopJobRequest(name=name))
            for name in names:
                one.wait(api, name, seconds=60)
            assert_invariants(one, first)
            assert_history(one, second)

            assert [event.revision for event in first.events] == list(
                range(1, len(first.events) + 1)
            )
            for name in names:
                last = [event for event in first.events if event.job_changed.name == name][-1]
                assert last.job_changed == one.job(api, name)

    def test_deleted(self, api: Api, server: Daemon) -> None:
        """A removal is an event too."""
        name = server.create(api).job.name
        server.wait(api, name)
        watch = messages(api)
        _, start = initial(watch)
        api(api.jobs.DeleteJob, DeleteJobRequest(name=name))
        server.acknowledged.discard(name)

        assert [event.job_deleted for event in following(watch, start.revision + 1)] == [name]

    @pytest.mark.reason("FIELD_INVALID")
    def test_filter_by_state(self, api: Api) -> None:
        """A watch by state would have to invent events, and is refused."""
        with refused("FIELD_INVALID"):
            next(messages(api, filter=JobFilter(states=[JOB_STATE_QUEUED])))


class TestResume:
    """resume_revision."""

    def test_from_each_revision(self, api: Api, server: Daemon) -> None:
        """From wherever a watch is resumed, it tells exactly what came after."""
        with Recorder(server) as recorder:
            *_, last = [server.wait(api, server.create(api).job.name) for _ in range(3)]
            recorder.catch_up(last.revision)
        told = [event for event in recorder.events if event.revision <= last.revision]
        for number, revision in enumerate(range(recorder.first, last.revision)):
            watch = messages(api, resume_revision=revision)
            assert following(watch, last.revision) == told[number:]

    def test_after_a_restart(self, server: Daemon) -> None:
        """Revisions outlive the daemon."""
        api = server.api()
        first = server.wait(api, server.create(api).job.name)
        database_id = initial(messages(api))[1].database_id
        server.kill()
        api = server.start().api()
        second = server.wait(api, server.create(api).job.name)
        watch = messages(api, resume_revision=first.revision, database_id=database_id)

        told = following(watch, second.revision)
        assert {event.job_changed.name for event in told} == {second.name}
        assert [event.revision for event in told] == list(
            range(first.revision + 1, second.revision + 1)
        )
        assert told[-1].job_changed.state == JOB_STATE_SUCCEEDED

    @pytest.mark.reason("REVISION_COMPACTED")
    def test_compacted(self, api: Api, server: Daemon) -> None:
        """What is no longer known is said, with what still is."""
        first, last = [server.wait(api, server.create(api).job.name) for _ in range(2)]
        oldest = first.revision
        with closing(sqlite3.connect(server.state / "callsd.db")) as database, database:
            database.execute("DELETE FROM changes WHERE revision <= ?", (oldest,))
        for revision in (0, oldest - 1):
            with refused("REVISION_COMPACTED", grpc.StatusCode.OUT_OF_RANGE) as refusal:
                next(messages(api, resume_revision=revision))
            assert refusal.error.metadata["oldest"] == str(oldest)

        told = following(messages(api, resume_revision=oldest), last.revision)
        assert [event.revision for event in told] == list(range(oldest + 1, last.revision + 1))

    @pytest.mark.reason("REVISION_UNKNOWN")
    def test_future_and_past(self, api: Api, server: Daemon) -> None:
        """A revision that never was belongs to another history."""
        server.create(api)
        for revision in (10_000, 2**63 - 1, -1):
            with refused("REVISION_UNKNOWN", grpc.StatusCode.OUT_OF_RANGE):
                next(messages(api, resume_revision=revision))

    @pytest.mark.reason("REVISION_UNKNOWN")
    def test_other_database(self, api: Api) -> None:
        """Revisions of another database are not taken for ours."""
        with refused("REVISION_UNKNOWN", grpc.StatusCode.OUT_OF_RANGE) as refusal:
            next(messages(api, resume_revision=0, database_id="another"))

        assert refusal.error.metadata["database_id"] == initial(messages(api))[1].database_id


class TestLimits:
    """Watchers that are slow, or many."""

    @pytest.mark.alone
    @pytest.mark.reason("SLOW_CONSUMER")
    def test_slow_consumer(self, daemon: StartDaemon) -> None:
        """Who does not read is dropped and told so; others hear everything without delay."""
        one = daemon(
            config={"jobs": {"max_concurrent_jobs": 1}},
            constants={"callsd_daemon.rpc.interceptor.MAX_LAG_SECONDS": 1.0},
        )
        api = one.api()
        one.create(api, "sleep")
        labels = {f"padding{number}": "x" * 256 for number in range(32)}
        narrow = (
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
            ("grpc.http2.bdp_probe", 0),
        )
        with grpc.insecure_channel(one.address, narrow) as channel, Recorder(one) as recorder:
            slow = messages(Api(channel, one.token))
            initial(slow)
            delays = list[float]()
            for _ in range(100):
                began = time.monotonic()
                job = one.create(api, labels=labels).job
                recorder.catch_up(job.revision)
                delays.append(time.monotonic() - began)
            eventually(
                lambda: _codes(one, "WatchJobs") == ["ABORTED"], "the slow watcher is dropped"
            )
            with refused("SLOW_CONSUMER", grpc.StatusCode.ABORTED):
                for _ in slow:
                    pass
            assert sorted(delays)[len(delays) // 2] < 0.2
            assert_invariants(one, recorder)

    @pytest.mark.reason("STREAMS_EXHAUSTED")
    def test_too_many(self, daemon: StartDaemon) -> None:
        """Streams beyond the limit are refused with a delay, and a freed place is given again."""
        one = daemon(config={"server": {"max_watches": 2}})
        api = one.api()
        watches = [messages(api) for _ in range(2)]
        for watch in watches:
            initial(watch)
        with refused("STREAMS_EXHAUSTED", grpc.StatusCode.RESOURCE_EXHAUSTED) as refusal:
            next(messages(api))
        assert refusal.error.retry_after_seconds == 10.0
        watches[0].cancel()

        def is_free() -> bool:
            try:
                initial(messages(api))
            except grpc.RpcError:
                return False
            return True

        eventually(is_free, "the place is free again")


def _codes(one: Daemon, method: str) -> list[str]:
    return [entry["code"] for entry in one.events("rpc") if entry["method"].endswith(method)]
