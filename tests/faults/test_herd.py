# SPDX-License-Identifier: Apache-2.0
"""Many jobs at once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from callsd.v1.capacity_pb2 import ADMISSION_DECISION_ADMIT
from callsd.v1.job_pb2 import (
    JOB_STATE_CANCELLED,
    JOB_STATE_QUEUED,
    JOB_STATE_STARTING,
    JOB_STATE_SUCCEEDED,
    JobFilter,
    ListJobsRequest,
    StopJobRequest,
)
from callsd.v1.server_pb2 import GetCapacityRequest
from tests.conftest import StartDaemon
from tests.helpers.daemon import CALM
from tests.helpers.history import Recorder
from tests.helpers.invariants import ACTIVE_STATES, assert_invariants
from tests.helpers.reasons import waiting_for
from tests.helpers.waiting import eventually


HERD = 200
SLOTS = 3
"""One-thread jobs that fit on the calm machine: 4 cores, of which a tenth is kept free."""

FINISHED = 20
"""How many of them are let run to their end: each takes a process."""


@pytest.mark.scenario(15, "200 at once: never more than fit, in the order they came")
def test_thundering_herd(daemon: StartDaemon) -> None:
    """Never more run than fit, all others wait, and they start in the order they came."""
    one = daemon()
    api = one.api()
    with Recorder(one) as recorder:
        barrier = threading.Barrier(20)

        def create(number: int) -> bool:
            if number < barrier.parties:
                barrier.wait(30)
            answer = one.create(api, "until go")
            return bool(answer.admission.decision == ADMISSION_DECISION_ADMIT)

        with ThreadPoolExecutor(20) as threads:
            admitted = list(threads.map(create, range(HERD)))
        capacity = api(api.server.GetCapacity, GetCapacityRequest()).capacity
        (one.root / "tmp" / "go").touch()
        eventually(
            lambda: len(recorder.order(JOB_STATE_SUCCEEDED)) >= FINISHED,
            "some are done",
            seconds=60,
        )
        queued = JobFilter(states=[JOB_STATE_QUEUED])
        for job in api(api.jobs.ListJobs, ListJobsRequest(filter=queued, page_size=HERD)).jobs:
            api(api.jobs.StopJob, StopJobRequest(name=job.name))
        last = [one.wait(api, name) for name in one.acknowledged]

        assert sum(admitted) == SLOTS
        assert (capacity.running_jobs, capacity.queued_jobs) == (SLOTS, HERD - SLOTS)
        assert len(one.acknowledged) == HERD
        assert {job.state for job in last} == {JOB_STATE_SUCCEEDED, JOB_STATE_CANCELLED}
        assert most_active(recorder) == SLOTS
        accepted = list(dict.fromkeys(event.job_changed.name for event in recorder.events))
        started = recorder.order(JOB_STATE_STARTING)
        assert started == [name for name in accepted if name in started]
        assert started == accepted[: len(started)]
        assert_invariants(one, recorder)


def most_active(recorder: Recorder) -> int:
    """The most jobs that held a reservation after any one change."""
    active, most = set[str](), 0
    for event in recorder.events:
        job = event.job_changed
        (active.add if job.state in ACTIVE_STATES else active.discard)(job.name)
        most = max(most, len(active))
    return most


@pytest.mark.scenario(14, "a described load: CPU_EXHAUSTED, then the queue moves by itself")
def test_external_load(daemon: StartDaemon) -> None:
    """While others use the machine jobs wait, and say what for; then the queue moves by itself."""
    one = daemon(machine=replace(CALM, cores_external=3.5))
    api = one.api()
    with Recorder(one) as recorder:
        jobs = [one.create(api).job for _ in range(3)]
        assert [waiting_for(job) for job in jobs] == ["CPU_EXHAUSTED"] * 3
        assert [job.queue_position for job in jobs] == [1, 2, 3]

        one.set_machine(CALM)
        for job in jobs:
            assert one.wait(api, job.name, seconds=10).state == JOB_STATE_SUCCEEDED
        assert recorder.order(JOB_STATE_STARTING) == [job.name for job in jobs]
        assert_invariants(one, recorder)


@pytest.mark.scenario(14, "no load holds a job back for longer than its patience")
def test_patience(daemon: StartDaemon) -> None:
    """A job that others have held back for long enough starts all the same: it gives way."""
    one = daemon(
        machine=replace(CALM, cores_external=4.0), config={"jobs": {"queue_patience_seconds": 1.0}}
    )
    api = one.api()
    job = one.create(api).job
    ended = one.wait(api, job.name)

    assert waiting_for(job) == "CPU_EXHAUSTED"
    assert ended.state == JOB_STATE_SUCCEEDED
    waited = ended.start_time.ToNanoseconds() - ended.create_time.ToNanoseconds()
    assert waited / 1e9 >= 1.0
    assert_invariants(one)
