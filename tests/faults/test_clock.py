# SPDX-License-Identifier: Apache-2.0
"""Somebody sets the clock, by an hour or by a year, forward or back."""

import sys
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from callsd.v1.job_pb2 import JOB_STATE_QUEUED, JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED, Job
from callsd.v1.server_pb2 import GetCapacityRequest
from tests.conftest import StartDaemon
from tests.helpers.api import Api
from tests.helpers.daemon import CALM, ROOT, Daemon
from tests.helpers.history import Recorder
from tests.helpers.invariants import assert_invariants
from tests.helpers.waiting import eventually


PROGRAM = Path(__file__).with_name("odd_serve.py")
HOUR = 3600.0
YEAR = 365 * 24 * HOUR
AHEAD, BACK = "an hour ahead", "an hour back"
FAR_AHEAD, FAR_BACK = "a year ahead", "a year back"
JUMPS = {AHEAD: HOUR, BACK: -HOUR, FAR_AHEAD: YEAR, FAR_BACK: -YEAR}


def jumps(*, quick: Collection[str] = ()) -> pytest.MarkDecorator:
    """Does a test with each jump; those that are not `quick` are left to `make faults`."""
    return pytest.mark.parametrize(
        "jump",
        [
            pytest.param(JUMPS[name], id=name, marks=[] if name in quick else [pytest.mark.slow])
            for name in JUMPS
        ],
    )


StartWithClock = Callable[..., Daemon]


@pytest.fixture
def with_clock(daemon: StartDaemon, monkeypatch: pytest.MonkeyPatch) -> StartWithClock:
    """Starts daemons whose clock `jump` sets."""

    def start(**options: object) -> Daemon:
        one = daemon(is_started=False, env={"PYTHONPATH": str(ROOT)}, **options)
        one.env["CALLSD_TEST_CLOCK"] = str(one.root / "clock")
        monkeypatch.setattr(one, "command", lambda *words: [sys.executable, str(PROGRAM), *words])
        set_clock(one, 0.0)
        return one.start()

    return cast("StartWithClock", start)


def set_clock(one: Daemon, seconds: float) -> None:
    """Have the daemon's wall clock off by so much from now on."""
    draft = one.root / "clock.new"
    draft.write_text(str(seconds))
    draft.replace(one.root / "clock")


def wait_rounds(one: Daemon, count: int) -> None:
    """Wait for rounds of housekeeping: in each the machine is looked at, and the queue."""
    api = one.api()
    for _ in range(count):
        before = looked_at(api)
        eventually(lambda before=before: looked_at(api) != before, "a round")  # type: ignore[misc]


def looked_at(api: Api) -> int:
    """When the daemon has last looked at the machine, by the true clock."""
    capacity = api(api.server.GetCapacity, GetCapacityRequest()).capacity
    return capacity.observe_time.ToNanoseconds()


def stamps(job: Job) -> list[int]:
    """The stamps of a job that has ended, in the order in which they were given."""
    given = (job.create_time, job.start_time, job.end_time)
    return [stamp.ToNanoseconds() for stamp in given]


@jumps(quick={AHEAD, BACK})
@pytest.mark.scenario(35, "no timer fires early or hangs, stamps never go backwards")
def test_clock_jumps(with_clock: StartWithClock, jump: float) -> None:
    """Who runs goes on, who waits is started in its turn, and no job ends before it began."""
    one = with_clock(config={"jobs": {"max_concurrent_jobs": 1}})
    api = one.api()
    with Recorder(one) as recorder:
        running = one.create(api, "until go", max_seconds=1800.0).job
        one.wait(api, running.name, JOB_STATE_RUNNING)
        worker = one.worker(running.name)
        waiting = [one.create(api).job for _ in range(2)]
        set_clock(one, jump)
        late = one.create(api).job
        looked = one.job(api, late.name)
        assert looked.state == JOB_STATE_QUEUED
        wait_rounds(one, 2)
        assert one.job(api, running.name).state == JOB_STATE_RUNNING
        assert one.leaders(running.name) == [worker]
        (one.root / "tmp" / "go").touch()
        ended = [one.wait(api, job.name) for job in (running, *waiting, late)]

        assert {job.state for job in ended} == {JOB_STATE_SUCCEEDED}
        assert {job.attempt for job in ended} == {1}
        assert all(stamps(job) == sorted(stamps(job)) for job in ended)
        assert recorder.order(JOB_STATE_RUNNING) == [j.name for j in (running, *waiting, late)]
        updates = [
            [
                e.job_changed.update_time.ToNanoseconds()
                for e in recorder.events
                if e.job_changed.name == job.name
            ]
            for job in ended
        ]
        assert all(times == sorted(times) for times in updates)
        assert_invariants(one, recorder)


@jumps()
@pytest.mark.scenario(35, "time that a job has left survives a restart after a jump")
def test_restart_after_a_jump(with_clock: StartWithClock, jump: float) -> None:
    """A daemon that is started after the clock was set does not end a job before its time."""
    one = with_clock()
    api = one.api()
    running = one.create(api, "until go", max_seconds=1800.0).job
    one.wait(api, running.name, JOB_STATE_RUNNING)
    worker = one.worker(running.name)
    one.kill()
    set_clock(one, jump)
    api = one.start().api()
    wait_rounds(one, 2)

    assert one.job(api, running.name).state == JOB_STATE_RUNNING
    assert one.leaders(running.name) == [worker]
    (one.root / "tmp" / "go").touch()
    ended = one.wait(api, running.name)
    assert (ended.state, ended.attempt) == (JOB_STATE_SUCCEEDED, 1)
    assert stamps(ended) == sorted(stamps(ended))
    assert_invariants(one)


@jumps(quick={BACK})
@pytest.mark.scenario(35, "patience in the queue is no matter of the wall clock")
def test_patience_after_a_jump(with_clock: StartWithClock, jump: float) -> None:
    """A job that others hold back starts when its patience is over, whatever the clock says."""
    busy = replace(CALM, cores_external=4.0)
    one = with_clock(machine=busy, config={"jobs": {"queue_patience_seconds": 3.0}})
    api = one.api()
    job = one.create(api).job
    set_clock(one, jump)
    wait_rounds(one, 1)
    assert one.job(api, job.name).state == JOB_STATE_QUEUED

    assert one.wait(api, job.name, seconds=8).state == JOB_STATE_SUCCEEDED
    assert_invariants(one)
