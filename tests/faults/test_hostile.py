# SPDX-License-Identifier: Apache-2.0
"""Workers that somebody has taken over: what they leave, and what they say."""

import time
from dataclasses import replace

import psutil
import pytest

from callsd.v1.job_pb2 import (
    JOB_STATE_CANCELLED,
    JOB_STATE_FAILED,
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    GetJobRequest,
    StopJobRequest,
)
from tests.conftest import StartDaemon
from tests.faults.conftest import RecordFigure
from tests.helpers.api import log_of
from tests.helpers.daemon import CALM, Daemon
from tests.helpers.history import Pulse
from tests.helpers.invariants import all_jobs, assert_invariants
from tests.helpers.reasons import failure
from tests.helpers.waiting import eventually


pytestmark = pytest.mark.alone

AT_ONCE = 7
MIB = 1024 * 1024

KINDS = ("pipe", "link", "directory", "name", "vast")
"""What is left instead of a file: a pipe, a symbolic link to the owner's token, a directory, a
second name of that token, and a file that is longer than the disk."""

FLOOD_SECONDS = 10.0
MOST_GROWTH_BYTES = 64 * MIB
END_SECONDS = 5.0


def kept_files(one: Daemon) -> bytes:
    """All that is in the files that are kept of jobs."""
    found = b""
    for path in sorted((one.state / "jobs").rglob("*")):
        assert not path.is_symlink(), path
        assert path.is_dir() or path.is_file(), path
        found += path.read_bytes() if path.is_file() else b""
    return found


@pytest.mark.scenario(50, "pipes, links, directories, vast files: a clear failure, nobody waits")
@pytest.mark.reason("WORKER_KILLED")
def test_what_is_no_file(daemon: StartDaemon, record_figure: RecordFigure) -> None:
    """Whatever a worker leaves where its files should be, only its own job fails.

    Seven of them at once, by five kinds in three places: in all that the daemon opens by itself;
    in the outcome, which another worker is to bring; and as a finished file that is reported.
    """
    one = daemon(
        machine=replace(CALM, cores_total=16.0),
        config={"jobs": {"max_attempts": 1, "max_concurrent_jobs": AT_ONCE}},
    )
    api, other = one.api(), one.api()
    token = one.token.encode()
    scripts = [
        script
        for kind in KINDS
        for script in (
            f"leave {kind} log.txt exit outcome.binpb; exit 7",
            f"leave {kind} outcome.binpb; exit 7",
            f"offer {kind}",
        )
    ]
    with Pulse(one) as pulse:
        names = {one.create(api, script).job.name: script for script in scripts}
        mine = one.create(other).job.name
        ended = {name: one.wait(api, name, seconds=60) for name in names}
        assert one.wait(other, mine).state == JOB_STATE_SUCCEEDED
    healthy = pulse.assert_regular()

    for name, script in names.items():
        assert failure(ended[name]) == "WORKER_KILLED", script
        assert ended[name].failure.message
        assert not ended[name].artifacts
        assert token not in log_of(api, name), script
        if script.startswith("offer"):
            assert b"the outcome cannot be used: " in log_of(api, name), script
    assert token not in kept_files(one)
    assert one.token.encode() == token
    assert_invariants(one)
    record_figure(f"{len(names)} such workers: health p99 {healthy * 1000:.0f} ms")
    asked_at = time.monotonic()
    assert one.stop() == 0
    assert time.monotonic() - asked_at < END_SECONDS


@pytest.mark.scenario(50, "files that take hours to look at: it ends in time, and so do they")
def test_files_that_take_long(daemon: StartDaemon, record_figure: RecordFigure) -> None:
    """While long files are being looked at, the daemon answers, ends when told, and goes on."""
    one = daemon(
        machine=replace(CALM, cores_total=16.0),
        config={"jobs": {"max_concurrent_jobs": AT_ONCE, "start_timeout_seconds": 5.0}},
    )
    api = one.api()
    names = [one.create(api, "offer sparse").job.name for _ in range(AT_ONCE)]
    drafts = [one.job_directory(name) / "artifacts" / ".transcript.vtt.part" for name in names]
    with Pulse(one) as pulse:
        for draft in drafts:
            eventually(draft.exists, "it was taken", seconds=30)
        asked_at = time.monotonic()
        assert one.stop() == 0
        took = time.monotonic() - asked_at
    assert took < END_SECONDS
    api = one.start().api()
    for name in names:
        one.wait(api, name, JOB_STATE_RUNNING)
    record_figure(f"the end takes {took:.1f} s, with {AT_ONCE} such files")
    for name in names:
        api(api.jobs.StopJob, StopJobRequest(name=name))
    for name in names:
        assert one.wait(api, name).state == JOB_STATE_CANCELLED
    assert len(pulse.seconds) > 1
    assert_invariants(one)


@pytest.mark.scenario(50, "a flood of anything for 10 s: health p99 < 250 ms, memory bounded")
def test_flood(daemon: StartDaemon, record_figure: RecordFigure) -> None:
    """A worker that sends anything it can harms nobody, and what is kept of it can be read."""
    one = daemon(config={"jobs": {"max_attempts": 1, "max_log_bytes": MIB}})
    api, other = one.api(), one.api()
    assert one.wait(api, one.create(api).job.name).state == JOB_STATE_SUCCEEDED
    assert one.process is not None
    process = psutil.Process(one.process.pid)
    before = most = process.memory_info().rss
    done = 0
    flooding = one.create(api, f"flood-session {FLOOD_SECONDS} 1; touch over").job
    one.wait(api, flooding.name, JOB_STATE_RUNNING)
    with Pulse(one) as pulse:
        while not (one.root / "tmp" / "over").exists():
            name = one.create(other, "read media/0").job.name
            assert one.wait(other, name).state == JOB_STATE_SUCCEEDED
            done += 1
            most = max(most, process.memory_info().rss)
            assert one.job(api, flooding.name).name == flooding.name
    healthy = pulse.assert_regular()
    ended = one.wait(api, flooding.name)

    assert ended.state == JOB_STATE_SUCCEEDED
    assert ended.transcription_result.tracks
    assert len(ended.notices) == 64
    assert api(api.jobs.GetJob, GetJobRequest(name=flooding.name)).job == ended
    assert ended in all_jobs(api)
    assert len(log_of(api, flooding.name)) <= MIB + 100
    assert done > 2
    assert most - before < MOST_GROWTH_BYTES
    assert_invariants(one)
    api = one.restart().api()
    assert one.job(api, flooding.name) == ended
    assert ended.state != JOB_STATE_FAILED
    record_figure(
        f"health p99 {healthy * 1000:.0f} ms, {(most - before) / MIB:.0f} MiB more, "
        f"{done} jobs of others meanwhile"
    )
