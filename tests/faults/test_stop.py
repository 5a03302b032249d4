# SPDX-License-Identifier: Apache-2.0
"""A stop, at any moment, of workers willing or not."""

import time

import pytest

from callsd.v1.job_pb2 import (
    JOB_STATE_CANCELLED,
    JOB_STATE_RUNNING,
    JOB_STATE_STARTING,
    JOB_STATE_STOPPING,
    JOB_STATE_SUCCEEDED,
    StopJobRequest,
)
from tests.conftest import StartDaemon
from tests.faults.conftest import RecordFigure
from tests.helpers.daemon import Daemon
from tests.helpers.history import Pulse
from tests.helpers.invariants import assert_invariants


LADDER_SECONDS = 3.0
"""What `hasty` takes: grace 0.5 s, then 2 s after SIGTERM, 0.5 s for the stacks."""


@pytest.fixture(scope="module")
def hasty(shared_daemon: StartDaemon) -> Daemon:
    """A daemon that does not wait long for workers to end."""
    return shared_daemon(config={"jobs": {"stop_grace_seconds": 0.5}})


@pytest.fixture(scope="module")
def narrow(shared_daemon: StartDaemon) -> Daemon:
    """A daemon that does one job at a time, and waits long for its worker to end."""
    return shared_daemon(config={"jobs": {"max_concurrent_jobs": 1, "stop_grace_seconds": 10.0}})


class TestStop:
    """A stop, at any moment."""

    def test_queued(self, narrow: Daemon) -> None:
        """A waiting job is cancelled at once, and never has a worker."""
        api = narrow.api()
        first = narrow.create(api, "sleep").job
        job = narrow.create(api, "succeed").job
        stopped = api(api.jobs.StopJob, StopJobRequest(name=job.name)).job

        assert (stopped.state, stopped.attempt) == (JOB_STATE_CANCELLED, 0)
        api(api.jobs.StopJob, StopJobRequest(name=first.name))
        assert narrow.wait(api, first.name).state == JOB_STATE_CANCELLED
        assert_invariants(narrow)

    def test_starting(self, hasty: Daemon) -> None:
        """A job whose worker has not reported yet is stopped with it."""
        api = hasty.api()
        with hasty.before_hello("never-hello"):
            job = hasty.create(api, "succeed").job
            assert job.state == JOB_STATE_STARTING
            stopping = api(api.jobs.StopJob, StopJobRequest(name=job.name)).job

            assert stopping.state == JOB_STATE_STOPPING
            assert hasty.wait(api, job.name).state == JOB_STATE_CANCELLED
        assert_invariants(hasty)

    def test_running_twice_and_afterwards(self, hasty: Daemon) -> None:
        """Asking twice, and again after the end, changes nothing more."""
        api = hasty.api()
        job = hasty.create(api, "sleep").job
        hasty.wait(api, job.name, JOB_STATE_RUNNING)
        for _ in range(2):
            stopping = api(api.jobs.StopJob, StopJobRequest(name=job.name)).job
            assert stopping.state in (JOB_STATE_STOPPING, JOB_STATE_CANCELLED)
        ended = hasty.wait(api, job.name)
        again = api(api.jobs.StopJob, StopJobRequest(name=job.name)).job

        assert ended.state == JOB_STATE_CANCELLED
        assert again == ended
        assert_invariants(hasty)

    @pytest.mark.alone
    @pytest.mark.scenario(5, "ask, TERM, stacks, KILL: total ≤ configured + 1 s")
    @pytest.mark.parametrize("script", ["ignore-term; sleep", "hang", "stopped"])
    def test_unwilling(self, hasty: Daemon, script: str, record_figure: RecordFigure) -> None:
        """A worker that does not want to end is killed within the time that the ladder takes."""
        api = hasty.api()
        job = hasty.create(api, script).job
        hasty.wait(api, job.name, JOB_STATE_RUNNING)
        asked_at = time.monotonic()
        api(api.jobs.StopJob, StopJobRequest(name=job.name))

        assert hasty.wait(api, job.name).state == JOB_STATE_CANCELLED
        took = time.monotonic() - asked_at
        record_figure(f"{script}: {took:.2f} of {LADDER_SECONDS} s")
        assert took < LADDER_SECONDS + 1.0
        assert_invariants(hasty)

    @pytest.mark.alone
    @pytest.mark.scenario(5, "meanwhile others are decided about as fast as ever: p99 < 250 ms")
    def test_others_do_not_wait(self, hasty: Daemon, record_figure: RecordFigure) -> None:
        """While workers that do not want to end are being ended, requests are answered at once."""
        api = hasty.api()
        unwilling = [hasty.create(api, script).job for script in ("stopped", "hang")]
        for job in unwilling:
            hasty.wait(api, job.name, JOB_STATE_RUNNING)
        for job in unwilling:
            api(api.jobs.StopJob, StopJobRequest(name=job.name))
        with Pulse(hasty) as pulse:
            waits = list[float]()
            while any(hasty.job(api, job.name).state == JOB_STATE_STOPPING for job in unwilling):
                began = time.monotonic()
                hasty.create(api, validate_only=True)
                waits.append(time.monotonic() - began)

        assert len(waits) > 20
        decided, healthy = sorted(waits)[int(len(waits) * 0.99)], pulse.assert_regular()
        record_figure(
            f"{len(waits)} decisions, p99 {decided * 1000:.0f} ms; health p99 "
            f"{healthy * 1000:.0f} ms"
        )
        assert decided < 0.25
        assert {hasty.job(api, job.name).state for job in unwilling} == {JOB_STATE_CANCELLED}

    def test_work_done_meanwhile_counts(self, narrow: Daemon) -> None:
        """A worker that gets its work done while it is being stopped has succeeded."""
        api = narrow.api()
        go = narrow.new_flag()
        job = narrow.create(api, f"ignore-term; until {go.name}").job
        narrow.wait(api, job.name, JOB_STATE_RUNNING)
        api(api.jobs.StopJob, StopJobRequest(name=job.name))
        go.touch()

        assert narrow.wait(api, job.name).state == JOB_STATE_SUCCEEDED
        assert_invariants(narrow)
