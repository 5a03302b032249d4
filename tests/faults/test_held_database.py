# SPDX-License-Identifier: Apache-2.0
"""Another program has the database for longer than the store is willing to wait for it."""

import os
import signal

import pytest

from callsd.v1.job_pb2 import (
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    CreateJobRequest,
    Job,
    StopJobRequest,
)
from callsd.v1.recording_pb2 import RecordingSpec
from callsd.v1.server_pb2 import GetCapacityRequest
from tests.conftest import StartDaemon
from tests.helpers.daemon import Daemon
from tests.helpers.holding import held
from tests.helpers.invariants import assert_invariants
from tests.helpers.reasons import refused
from tests.helpers.waiting import eventually


IMPATIENT = {"callsd_daemon.store.database.BUSY_TIMEOUT_SECONDS": 0.1}


def await_blocked(one: Daemon) -> None:
    """Wait until something about a job could not be written."""
    before = len(one.events("store_blocked"))
    eventually(lambda: len(one.events("store_blocked")) > before, "a job's news wait for the store")


def begin_recording(one: Daemon) -> str:
    """A recording that reports when there is a file `go`, and goes on; its name."""
    api = one.api()
    script = "piece; say recording; until go; say more; sleep"
    spec = RecordingSpec(url="http://127.0.0.1:9/", ready_expression=script)
    name = api(api.jobs.CreateJob, CreateJobRequest(job=Job(recording=spec))).job.name
    one.wait(api, name, JOB_STATE_RUNNING)
    return str(name)


def assert_nothing_is_left(one: Daemon, name: str) -> None:
    """No process of the job, nothing promised to it, and no error that nobody has looked at."""
    api = one.api()
    eventually(lambda: not one.worker_pids(name), "no process is left")
    capacity = api(api.server.GetCapacity, GetCapacityRequest()).capacity
    assert (capacity.running_jobs, capacity.cores.reserved) == (0, 0.0)
    assert len(eventually(lambda: one.events("job_ended"), "its end is told")) == 1
    assert "never retrieved" not in one.log
    assert "Traceback" not in one.log
    assert_invariants(one)


@pytest.mark.scenario(43, "running work goes on, and is looked at meanwhile")
def test_running_work(daemon: StartDaemon) -> None:
    """A job that runs is not touched by it; what it reported meanwhile is written afterwards."""
    one = daemon(constants=IMPATIENT)
    api = one.api()
    job = one.create(api, "say a; until go; say b 0.5; until end").job
    eventually(lambda: one.job(api, job.name).progress.phase == "a", "its report is written")
    worker = one.worker(job.name)
    with held(one.state / "callsd.db"):
        (one.root / "tmp" / "go").touch()
        await_blocked(one)

        seen = one.job(api, job.name)
        assert (seen.state, seen.progress.phase) == (JOB_STATE_RUNNING, "a")

    eventually(lambda: one.job(api, job.name).progress.phase == "b", "its report is written")
    assert one.worker(job.name) == worker
    (one.root / "tmp" / "end").touch()
    assert one.wait(api, job.name).state == JOB_STATE_SUCCEEDED
    assert_nothing_is_left(one, job.name)


@pytest.mark.scenario(43, "what ends meanwhile is concluded as soon as it is let go of")
def test_dead_recorder(daemon: StartDaemon) -> None:
    """A recording whose worker dies meanwhile is saved at once, and concluded afterwards.

    Also when a report of it waits for the database.
    """
    one = daemon(constants=IMPATIENT, config={"jobs": {"max_attempts": 1}})
    api = one.api()
    name = begin_recording(one)
    with held(one.state / "callsd.db"):
        (one.root / "tmp" / "go").touch()
        await_blocked(one)
        os.kill(one.worker(name), signal.SIGKILL)

        eventually(lambda: one.events("salvage"), "it is saved")
        await_blocked(one)
        assert one.job(api, name).state == JOB_STATE_RUNNING

    assert one.wait(api, name).state == JOB_STATE_SUCCEEDED
    assert len(one.events("salvage")) == 1
    assert_nothing_is_left(one, name)


@pytest.mark.scenario(43, "what ends meanwhile is concluded as soon as it is let go of")
def test_lost_worker_is_counted_once(daemon: StartDaemon) -> None:
    """However often its end is tried to be written, a worker that died is told of once."""
    one = daemon(constants=IMPATIENT)
    api = one.api()
    job = one.create(api, "say a; 1: sleep").job
    one.wait(api, job.name, JOB_STATE_RUNNING)
    with held(one.state / "callsd.db"):
        os.kill(one.worker(job.name), signal.SIGKILL)
        await_blocked(one)
        assert one.events("worker_lost") == []

    ended = one.wait(api, job.name)
    assert (ended.state, ended.attempt) == (JOB_STATE_SUCCEEDED, 2)
    assert len(one.events("worker_lost")) == 1
    assert_nothing_is_left(one, job.name)


@pytest.mark.scenario(43, "requests that write are told to try again, and when")
@pytest.mark.reason("QUEUE_FULL")
def test_clients(daemon: StartDaemon) -> None:
    """Whoever wants something written is told so at once; the housekeeper says why, in a line."""
    one = daemon(constants=IMPATIENT)
    api = one.api()
    job = one.create(api, "until end").job
    one.wait(api, job.name, JOB_STATE_RUNNING)
    with held(one.state / "callsd.db"):
        with refused("QUEUE_FULL"):
            one.create(api)
        with refused("QUEUE_FULL"):
            api(api.jobs.StopJob, StopJobRequest(name=job.name))
        delayed = eventually(lambda: one.events("tick_delayed"), "the housekeeper says so")
        assert delayed[0]["reason"] == "QUEUE_FULL"
        assert "another program holds the job database" in delayed[0]["problem"]

    (one.root / "tmp" / "end").touch()
    assert one.wait(api, job.name).state == JOB_STATE_SUCCEEDED
    assert_nothing_is_left(one, job.name)
