# SPDX-License-Identifier: Apache-2.0
"""Somebody is killed while a result is put in its place."""

import os
import signal

import pytest

from callsd.v1.job_pb2 import JOB_STATE_FAILED, JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED
from tests.conftest import StartDaemon
from tests.faults.conftest import RecordFigure
from tests.helpers.api import log_of
from tests.helpers.daemon import Daemon
from tests.helpers.invariants import assert_invariants
from tests.helpers.reasons import failure
from tests.helpers.waiting import eventually


STEPS = (
    "die-before fsync 1",  # the artifact is written, and may be lost
    "die-before replace 1",  # it is on the disk under its draft's name
    "die-before fsync 2",  # it has its name, of which the disk may not know
    "die-before fsync 3",  # likewise
    "die-before fsync 4",  # the outcome is written, and may be lost
    "die-before replace 2",
    "die-before fsync 5",
)
"""Of write_whole, for the artifact and then for the outcome: write, fsync, rename, fsync. Between
the two the names of all artifacts are synced."""

TRANSCRIPT = b"WEBVTT\n"
"""What the scripted worker writes."""

LAST = "die-before fsync 5"
"""The outcome has its name already: the work is done."""


def names(one: Daemon, name: str) -> set[str]:
    """The files among a job's artifacts."""
    directory = one.job_directory(name) / "artifacts"
    return {path.name for path in directory.iterdir()}


def content(one: Daemon, name: str) -> bytes:
    """A job's transcript as a client is given it."""
    target = one.root / "transcript.vtt"
    one.client().fetch_artifact(name, "transcript.vtt", target)
    return target.read_bytes()


@pytest.mark.reason("CRASH_LOOP")
@pytest.mark.scenario(38, "worker killed at each write, fsync, rename: no result without file")
def test_worker_killed_at_each_step(daemon: StartDaemon, record_figure: RecordFigure) -> None:
    """A job succeeds with its whole file or not at all, and never has a part under its name."""
    one = daemon(config={"jobs": {"max_attempts": 2}})
    api = one.api()
    always = {one.create(api, step).job.name: step for step in STEPS}
    once = {one.create(api, f"1: {step}").job.name: step for step in STEPS}
    ended = {name: one.wait(api, name, seconds=60) for name in (*always, *once)}

    for name, step in always.items():
        job = ended[name]
        if step == LAST:
            assert job.state == JOB_STATE_SUCCEEDED
        else:
            assert failure(job) == "CRASH_LOOP"
            assert not job.artifacts
    for name, step in once.items():
        job = ended[name]
        assert (job.state, job.attempt) == (JOB_STATE_SUCCEEDED, 1 if step == LAST else 2)
    for name, job in ended.items():
        directory = one.job_directory(name) / "artifacts"
        finished = directory / "transcript.vtt"
        assert not finished.exists() or finished.read_bytes() == TRANSCRIPT
        if job.state == JOB_STATE_SUCCEEDED:
            assert names(one, name) == {"transcript.vtt"}
    assert_invariants(one)
    record_figure(
        f"{len(ended)} kills: {sum(j.state == JOB_STATE_FAILED for j in ended.values())}"
        " jobs failed, none with a file that is not whole"
    )


@pytest.mark.scenario(38, "daemon killed around the commit of the result: it is believed once")
@pytest.mark.parametrize(
    "failpoint", ["store.before_commit=3", "store.after_commit=3", "job.concluded"]
)
def test_daemon_killed_at_the_last_commit(daemon: StartDaemon, failpoint: str) -> None:
    """What was taken over is what the next daemon goes by; it tidies up what this one did not."""
    one = daemon(env={"CALLSD_FAILPOINTS": failpoint})
    api = one.api()
    name = one.create(api, "note done").job.name
    one.wait_dead()
    del one.env["CALLSD_FAILPOINTS"]
    api = one.start().api()
    ended = one.wait(api, name)

    assert (ended.state, ended.attempt) == (JOB_STATE_SUCCEEDED, 1)
    assert (one.root / "tmp" / "done").read_text().split() == [name.removeprefix("jobs/")]
    assert_invariants(one)


@pytest.mark.scenario(38, "worker killed with its work done: brought by another, nothing is redone")
@pytest.mark.parametrize("daemon_is", ["stopped", "away"])
def test_worker_killed_with_its_work_done(daemon: StartDaemon, daemon_is: str) -> None:
    """What a worker has left that the daemon did not hear of any more is the result, with its log.

    The daemon cannot hear of it: it is held by SIGSTOP, or killed.
    """
    one = daemon()
    api = one.api()
    name = one.create(api, "print begun; until go; print done; note done").job.name
    one.wait(api, name, JOB_STATE_RUNNING)
    own_log = one.worker_directory(name) / "log.txt"
    # It is RUNNING as soon as it has reported: its work may be on its way to it.
    eventually(lambda: b"begun" in own_log.read_bytes(), "it has begun")
    worker = one.worker(name)
    if daemon_is == "stopped":
        one.signal(signal.SIGSTOP)
    else:
        one.kill()
    (one.root / "tmp" / "go").touch()
    eventually((one.worker_directory(name) / "outcome.binpb").exists, "the work is done")
    os.kill(worker, signal.SIGKILL)
    if daemon_is == "stopped":
        one.signal(signal.SIGCONT)
    else:
        api = one.start().api()
    ended = one.wait(api, name)

    assert (ended.state, ended.attempt) == (JOB_STATE_SUCCEEDED, 1)
    assert (one.root / "tmp" / "done").read_text().split() == [name.removeprefix("jobs/")]
    assert content(one, name) == TRANSCRIPT
    assert log_of(api, name) == b"begun\ndone\n"
    if daemon_is == "away":
        assert len(one.events("salvage")) == 1
    assert_invariants(one)


@pytest.mark.scenario(38, "daemon killed at each step of taking a result over: it is there, whole")
@pytest.mark.parametrize("worker_is", ["alive", "killed"])
@pytest.mark.parametrize(
    "failpoint",
    [
        "takeover.before_file",
        "takeover.after_take",
        "takeover.before_outcome",
        "takeover.after_outcome",
    ],
)
def test_daemon_killed_while_it_takes_over(
    daemon: StartDaemon, failpoint: str, worker_is: str
) -> None:
    """The next daemon goes on with what lies on either side, whether the worker lives or not."""
    one = daemon(env={"CALLSD_FAILPOINTS": failpoint})
    api = one.api()
    name = one.create(api, "print begun; note done").job.name
    assert one.wait_dead() == -signal.SIGKILL
    (worker,) = one.leaders(name)
    if worker_is == "killed":
        os.kill(worker, signal.SIGKILL)
    del one.env["CALLSD_FAILPOINTS"]
    api = one.start().api()
    ended = one.wait(api, name)

    assert (ended.state, ended.attempt) == (JOB_STATE_SUCCEEDED, 1)
    assert (one.root / "tmp" / "done").read_text().split() == [name.removeprefix("jobs/")]
    assert content(one, name) == TRANSCRIPT
    assert log_of(api, name) == b"begun\n"
    assert_invariants(one)


@pytest.mark.scenario(38, "whoever brings what a dead worker has left is killed: it is brought")
def test_killed_while_it_is_saved(daemon: StartDaemon) -> None:
    """A result is brought by another worker when the one that was to bring it is killed, too."""
    one = daemon(env={"CALLSD_FAILPOINTS": "takeover.before_file"})
    name = one.create(one.api(), "print begun; note done").job.name
    assert one.wait_dead() == -signal.SIGKILL
    (worker,) = one.leaders(name)
    os.kill(worker, signal.SIGKILL)
    del one.env["CALLSD_FAILPOINTS"]
    (one.root / "tmp" / "deaths-at-salvage").write_text("2")
    api = one.start().api()
    ended = one.wait(api, name)

    assert (ended.state, ended.attempt) == (JOB_STATE_SUCCEEDED, 1)
    assert (one.root / "tmp" / "done").read_text().split() == [name.removeprefix("jobs/")]
    assert content(one, name) == TRANSCRIPT
    assert_invariants(one)


@pytest.mark.scenario(38, "what a killed worker leaves goes with its job")
def test_remains_go_with_the_job(daemon: StartDaemon) -> None:
    """Drafts of a worker go at its job's end, and what is kept of the job when its time is up."""
    one = daemon(
        config={"jobs": {"max_attempts": 1, "retention_seconds": 1.0}},
        constants={"callsd_daemon.workers.housekeeping.SWEEP_SECONDS": 0.5},
    )
    api = one.api()
    name = one.create(api, "die-before replace 1").job.name
    directory, workers = one.job_directory(name), one.worker_directory(name)

    assert failure(one.wait(api, name)) == "WORKER_KILLED"
    eventually(lambda: not workers.exists(), "what the worker has left is gone")
    one.acknowledged.discard(name)
    eventually(lambda: not directory.exists(), "the job's directory is gone", seconds=15)
    assert_invariants(one)
