# SPDX-License-Identifier: Apache-2.0
"""Other programs take every core of this machine, for real."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from callsd.v1.job_pb2 import JOB_STATE_QUEUED, JOB_STATE_SUCCEEDED
from callsd.v1.server_pb2 import GetCapacityRequest
from tests.conftest import StartDaemon
from tests.faults.conftest import RecordFigure
from tests.helpers.api import Api
from tests.helpers.invariants import assert_invariants
from tests.helpers.reasons import refused, waiting_for
from tests.helpers.waiting import eventually


QUIET_CORES = 0.4
QUIET_SECONDS = 60.0

DRAIN_SECONDS = 3.0
SLACK_SECONDS = 1.0
"""The machine is looked at once a second."""

LOOK_SECONDS = 0.2
"""Not oftener: the test itself is one of those others."""


@contextmanager
def hog() -> Iterator[None]:
    """Keeps every core busy."""
    busy = [sys.executable, "-c", "while True: pass"]
    hogs = [subprocess.Popen(busy) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in hogs:
            process.kill()
        for process in hogs:
            process.wait()


def external_cores(api: Api) -> float:
    """What others use, as the daemon sees it."""
    return api(api.server.GetCapacity, GetCapacityRequest()).capacity.cores.external


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.scenario(14, "all cores taken: queued or refused; after the end drained ≤ 3 s")
def test_hog(daemon: StartDaemon, record_figure: RecordFigure) -> None:
    """A real load is seen, told as the reason, and forgotten within seconds of its end."""
    one = daemon(machine=None, config={"jobs": {"queue_patience_seconds": 600.0}})
    api = one.api()
    eventually(
        lambda: external_cores(api) < QUIET_CORES,
        "no other program uses this machine",
        seconds=QUIET_SECONDS,
        every_seconds=LOOK_SECONDS,
    )
    with hog():
        eventually(
            lambda: external_cores(api) > 0.8 * (os.cpu_count() or 1),
            "the load is seen",
            seconds=20,
            every_seconds=LOOK_SECONDS,
        )
        job = one.create(api).job
        assert job.state == JOB_STATE_QUEUED
        assert waiting_for(job) == "CPU_EXHAUSTED"
        with refused("CPU_EXHAUSTED") as refusal:
            one.create(api, no_queue=True)
        assert "used by others" in refusal.error.message
    ended_at = time.monotonic()
    eventually(
        lambda: one.job(api, job.name).state != JOB_STATE_QUEUED,
        "it has started",
        seconds=30,
        every_seconds=LOOK_SECONDS,
    )
    took = time.monotonic() - ended_at

    assert one.wait(api, job.name).state == JOB_STATE_SUCCEEDED
    assert_invariants(one)
    record_figure(f"started {took:.1f} s after the end of the load")
    assert took < DRAIN_SECONDS + SLACK_SECONDS
