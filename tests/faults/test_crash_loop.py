# SPDX-License-Identifier: Apache-2.0
"""Workers that die as soon as they begin, a hundred times."""

import statistics
from collections import defaultdict
from pathlib import Path

import pytest

from callsd.v1.job_pb2 import (
    JOB_STATE_FAILED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    Job,
)
from tests.conftest import StartDaemon
from tests.faults.conftest import RecordFigure
from tests.helpers.daemon import Daemon
from tests.helpers.history import Pulse, Recorder
from tests.helpers.invariants import assert_as_before, assert_invariants, footprint
from tests.helpers.reasons import failure


PROGRAM = Path(__file__).with_name("dying_worker.py")
JOBS = 34
ATTEMPTS = 3
SEEN_SECONDS = 0.2
MOST_SECONDS = 5.0
"""For the worst of a hundred, on a machine that is busy otherwise."""


@pytest.mark.alone
@pytest.mark.reason("CRASH_LOOP")
@pytest.mark.scenario(6, "100 deaths before the first word, each seen in 200 ms; CRASH_LOOP")
def test_a_hundred_deaths(daemon: StartDaemon, record_figure: RecordFigure) -> None:
    """Each is seen at once, each job fails with the reason, and who runs is not disturbed."""
    one = daemon(env={"CALLSD_WORKER_PROGRAM": str(PROGRAM)})
    api = one.api()
    assert one.wait(api, one.create(api).job.name).state == JOB_STATE_SUCCEEDED
    with Recorder(one) as recorder, Pulse(one) as pulse:
        healthy = one.create(api, "until go").job
        one.wait(api, healthy.name, JOB_STATE_RUNNING)
        worker = one.worker(healthy.name)
        (one.root / "tmp" / "die").touch()
        ended = die(one, JOBS // 2)
        before = footprint(one)
        ended += die(one, JOBS // 2)
        (one.root / "tmp" / "die").unlink()

        assert {failure(job) for job in ended} == {"CRASH_LOOP"}
        assert {job.attempt for job in ended} == {ATTEMPTS}
        assert {job.failure.metadata["exit_code"] for job in ended} == {"7"}
        assert one.leaders(healthy.name) == [worker]
        # What comes after them is as good as ever.
        assert one.wait(api, one.create(api).job.name).state == JOB_STATE_SUCCEEDED
        (one.root / "tmp" / "go").touch()
        assert one.wait(api, healthy.name).state == JOB_STATE_SUCCEEDED
        delays = delays_of_sight(one, recorder)
        assert_as_before(one, before)
        assert_invariants(one, recorder)
    late = pulse.assert_regular()

    assert len(delays) == JOBS * ATTEMPTS
    typical, worst = statistics.median(delays), max(delays)
    record_figure(
        f"{len(delays)} deaths seen after {typical * 1000:.0f} ms, worst {worst:.2f} s; "
        f"health p99 {late * 1000:.0f} ms"
    )
    assert typical < SEEN_SECONDS
    assert worst < MOST_SECONDS


def die(one: Daemon, count: int) -> list[Job]:
    """Ask for jobs whose workers all die; returns them as they ended."""
    api = one.api()
    names = [one.create(api).job.name for _ in range(count)]
    return [one.wait(api, name, seconds=90) for name in names]


def delays_of_sight(one: Daemon, recorder: Recorder) -> list[float]:
    """How long after each death its job was settled, in seconds."""
    deaths = defaultdict[str, list[float]](list)
    for line in (one.root / "tmp" / "deaths").read_text().splitlines():
        job_id, at = line.split()
        deaths[f"jobs/{job_id}"].append(float(at))
    seen = defaultdict[str, list[float]](list)
    for event in recorder.events:
        job = event.job_changed
        # Back in the queue after an attempt, or given up; not: accepted, and waiting for a reason.
        if job.state == JOB_STATE_FAILED or (job.state == JOB_STATE_QUEUED and job.notices):
            seen[job.name].append(job.update_time.ToNanoseconds() / 1e9)
    return [
        at - died
        for name, times in deaths.items()
        for died, at in zip(times, first_of_each(seen[name], times), strict=True)
    ]


def first_of_each(seen: list[float], deaths: list[float]) -> list[float]:
    """The first time at which the job was changed after each death."""
    return [min(at for at in seen if at >= death) for death in deaths]
