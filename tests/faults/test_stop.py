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
    @pytest.mark.scenario(5, "meanwhile others are decided about as fast as ever: p99 < 250 ms")
    def test_unwilling(self, hasty: Daemon, record_figure: RecordFigure) -> None:
        """Workers that do not want to end are killed within the time that the ladder takes.

        Meanwhile requests are answered at once.
        """
        api = hasty.api()
        scripts = ("ignore-term; sleep", "hang", "stopped")
        jobs = {hasty.create(api, script).job.name: script for script in scripts}
        for name in jobs:
            hasty.wait(api, name, JOB_STATE_RUNNING)
        took, waits = dict[str, float](), list[float]()
        with Pulse(hasty) as pulse:
            asked_at = time.monotonic()
            for name in jobs:
                api(api.jobs.StopJob, StopJobRequest(name=name))
            while len(took) < len(jobs):
                for name in jobs.keys() - took.keys():
                    if hasty.job(api, name).state != JOB_STATE_STOPPING:
                        took[name] = time.monotonic() - asked_at
                began = time.monotonic()
                hasty.create(api, validate_only=True)
                waits.append(time.monotonic() - began)

        assert {hasty.job(api, name).state for name in jobs} == {JOB_STATE_CANCELLED}
        assert len(waits) > 20
        decided, healthy = sorted(waits)[int(len(waits) * 0.99)], pulse.assert_regular()
        record_figure(
            ", ".join(f"{jobs[name]}: {seconds:.2f}" for name, seconds in took.items())
            + f" of {LADDER_SECONDS} s; {len(waits)} decisions, p99 {decided * 1000:.0f} ms; "
            f"health p99 {healthy * 1000:.0f} ms"
        )
        assert max(took.values()) < LADDER_SECONDS + 1.0
        assert decided < 0.25
        assert_invariants(hasty)

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
