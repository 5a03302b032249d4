# SPDX-License-Identifier: Apache-2.0
"""The system gives the daemon no more descriptors."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import pytest

from callsd.v1.job_pb2 import (
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    JOB_STATE_STARTING,
    JOB_STATE_SUCCEEDED,
)
from tests.conftest import StartDaemon
from tests.faults.conftest import RecordFigure
from tests.helpers.daemon import Daemon
from tests.helpers.invariants import assert_invariants
from tests.helpers.reasons import status
from tests.helpers.waiting import eventually


ASKED = 10
SCARCE_SECONDS = 3.0


def descriptors(one: Daemon) -> list[int]:
    """The daemon's open descriptors."""
    return sorted(int(name.name) for name in Path(f"/proc/{pid_of(one)}/fd").iterdir())


def pid_of(one: Daemon) -> int:
    """The daemon's process."""
    assert one.process is not None
    return one.process.pid


@contextmanager
def no_more_descriptors(one: Daemon) -> Iterator[None]:
    """The daemon keeps what it has, and gets none beyond."""
    pid, used = pid_of(one), descriptors(one)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    # The limit is one beyond the highest number that may be given out.
    lowest_free = next(number for number in range(used[-1] + 2) if number not in used)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@pytest.mark.scenario(16, "no descriptors: the daemon lives, nothing leaks, it recovers")
def test_no_descriptors(daemon: StartDaemon, record_figure: RecordFigure) -> None:
    """Calls on open connections are answered, and afterwards all is as it was before."""
    one = daemon()
    # What must open a file in these moments fails as by a bug: see `test_told`.
    one.expects_bugs = True
    api, process = one.api(), psutil.Process(pid_of(one))
    running = one.create(api, "until go").job
    one.wait(api, running.name, JOB_STATE_RUNNING)
    assert one.wait(api, one.create(api).job.name).state == JOB_STATE_SUCCEEDED
    before, children = len(descriptors(one)), process.children(recursive=True)
    with no_more_descriptors(one):
        asked = [status(lambda: one.create(api)) for _ in range(ASKED)]
        assert one.job(api, running.name).state == JOB_STATE_RUNNING
        eventually(lambda: process.children(recursive=True) == children, "no worker is half there")
    (one.root / "tmp" / "go").touch()

    assert grpc.StatusCode.INTERNAL not in asked
    assert one.wait(api, running.name).state == JOB_STATE_SUCCEEDED
    new = one.api()
    assert one.wait(new, one.create(new).job.name).state == JOB_STATE_SUCCEEDED
    eventually(lambda: len(descriptors(one)) <= before + 1, "no descriptor is left open")
    assert_invariants(one)
    record_figure(f"{ASKED} CreateJob requests meanwhile, {before} descriptors before and after")


@pytest.mark.scenario(16, "no descriptors: new jobs are told RESOURCE_EXHAUSTED")
def test_told(daemon: StartDaemon) -> None:
    """Who asks for a job is told that it is no fault of the request, the model or the media."""
    one = daemon()
    api = one.api()
    assert one.wait(api, one.create(api).job.name).state == JOB_STATE_SUCCEEDED
    with no_more_descriptors(one):
        told = status(lambda: one.create(api))

    assert told is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.scenario(16, "no descriptors: jobs that wait are done once there are some")
def test_jobs_wait_for_descriptors(daemon: StartDaemon) -> None:
    """What was accepted is finished, even if for a while no file can be opened."""
    one = daemon(config={"jobs": {"max_concurrent_jobs": 1}})
    one.expects_bugs = True
    api = one.api()
    running = one.create(api, "until go").job
    one.wait(api, running.name, JOB_STATE_RUNNING)
    waiting = [one.create(api).job for _ in range(3)]
    with no_more_descriptors(one):
        (one.root / "tmp" / "go").touch()
        spared = time.monotonic() + SCARCE_SECONDS
        while time.monotonic() < spared:
            # Its result is taken over when there is something to do it with.
            assert one.job(api, running.name).state in {JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED}
            states = {one.job(api, job.name).state for job in waiting}
            assert states <= {JOB_STATE_QUEUED, JOB_STATE_STARTING}

    names = [running.name, *(job.name for job in waiting)]
    assert {one.wait(api, name).state for name in names} == {JOB_STATE_SUCCEEDED}
    assert_invariants(one)
