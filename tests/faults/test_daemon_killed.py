# SPDX-License-Identifier: Apache-2.0
"""The daemon dies as by a power cut, at every step of a job's way."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid

import grpc
import pytest

from callsd.v1.job_pb2 import (
    JOB_STATE_CANCELLED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    JOB_STATE_STARTING,
    JOB_STATE_STOPPING,
    JOB_STATE_SUCCEEDED,
    StopJobRequest,
)
from tests.conftest import StartDaemon
from tests.faults.conftest import RecordFigure
from tests.helpers.api import log_of
from tests.helpers.daemon import Daemon
from tests.helpers.history import Recorder
from tests.helpers.invariants import all_jobs, assert_invariants
from tests.helpers.reasons import failure, status
from tests.helpers.waiting import eventually


KILLED = -9
LOST = grpc.StatusCode.UNAVAILABLE


def ask(daemon: Daemon, request_id: str) -> grpc.StatusCode:
    """Ask for a job of a daemon that is about to die; how the request ends."""
    api = daemon.api()
    return status(lambda: daemon.create(api, "sleep 0.3", request_id=request_id))


class TestCreate:
    """At each failpoint between CreateJob and a running worker."""

    @pytest.mark.scenario(1, "at each failpoint: one job, one worker, after a retry")
    @pytest.mark.parametrize(
        ("failpoint", "attempts"),
        [
            ("store.before_commit", 1),
            ("store.after_commit", 2),
            ("create.before_reply", 2),
            ("worker.before_spawn", 2),
            ("worker.after_spawn", 1),
            ("store.before_commit=2", 1),
            ("store.after_commit=2", 1),
            ("worker.running", 1),
        ],
    )
    def test_job_is_made_once(self, daemon: StartDaemon, failpoint: str, attempts: int) -> None:
        """The repeated request yields one job, one worker, and success, wherever the cut was."""
        one = daemon(env={"CALLSD_FAILPOINTS": failpoint})
        request_id = str(uuid.uuid4())

        with Recorder(one) as recorder:
            assert ask(one, request_id) in (grpc.StatusCode.OK, LOST)
            assert one.wait_dead() == KILLED
            del one.env["CALLSD_FAILPOINTS"]
            one.start()
            api = one.api()
            again = one.create(api, "sleep 0.3", request_id=request_id).job
            ended = one.wait(api, again.name)

            assert ended.state == JOB_STATE_SUCCEEDED
            assert ended.attempt == attempts
            assert [job.name for job in all_jobs(api)] == [again.name]
            assert_invariants(one, recorder)

    @pytest.mark.scenario(1, "what was committed is done, what was not is unknown")
    def test_unanswered_job_is_known_after_restart(self, daemon: StartDaemon) -> None:
        """What was committed is done, even if nobody ever asks again."""
        one = daemon(env={"CALLSD_FAILPOINTS": "create.before_reply"})

        assert ask(one, str(uuid.uuid4())) is LOST
        one.wait_dead()
        del one.env["CALLSD_FAILPOINTS"]
        api = one.start().api()
        (job,) = all_jobs(api)

        assert one.wait(api, job.name).state == JOB_STATE_SUCCEEDED
        assert_invariants(one)

    @pytest.mark.scenario(1, "what was committed is done, what was not is unknown")
    def test_uncommitted_job_is_unknown_after_restart(self, daemon: StartDaemon) -> None:
        """What was not committed was not acknowledged, and leaves nothing behind."""
        one = daemon(env={"CALLSD_FAILPOINTS": "store.before_commit"})

        assert ask(one, str(uuid.uuid4())) is LOST
        one.wait_dead()
        del one.env["CALLSD_FAILPOINTS"]
        api = one.start().api()

        assert all_jobs(api) == []
        assert list((one.state / "jobs").iterdir()) == []
        assert one.worker_pids() == []


class TestEveryState:
    """With jobs in every state at once."""

    @pytest.mark.scenario(2, "queued, running, stopping, ended: each comes to its right end")
    def test_all_go_on(self, daemon: StartDaemon, record_figure: RecordFigure) -> None:
        """Queued, running, stopping and ended jobs all come to their right end; workers stay."""
        one = daemon(config={"jobs": {"max_concurrent_jobs": 2, "stop_grace_seconds": 10.0}})
        api = one.api()
        with Recorder(one) as recorder:
            ended = one.create(api, "succeed").job
            one.wait(api, ended.name)
            running = one.create(api, "until go").job
            stopping = one.create(api, "ignore-term; until go").job
            queued = [one.create(api, "succeed").job for _ in range(3)]
            for name in (running.name, stopping.name):
                one.wait(api, name, JOB_STATE_RUNNING)
            api(api.jobs.StopJob, StopJobRequest(name=stopping.name))
            workers = {name: one.worker(name) for name in (running.name, stopping.name)}
            assert [one.job(api, job.name).state for job in queued] == [JOB_STATE_QUEUED] * 3

            one.kill()
            began = time.monotonic()
            api = one.start().api()
            record_figure(f"well again {time.monotonic() - began:.2f} s after the start")
            after = {name: one.worker(name) for name in workers}
            states = {name: one.job(api, name).state for name in workers}
            (one.root / "tmp" / "go").touch()
            last = {job.name: one.wait(api, job.name) for job in [running, stopping, *queued]}

            assert after == workers
            assert states == {
                running.name: JOB_STATE_RUNNING,
                stopping.name: JOB_STATE_STOPPING,
            }
            assert one.job(api, ended.name).state == JOB_STATE_SUCCEEDED
            assert {job.state for job in last.values()} == {JOB_STATE_SUCCEEDED}
            assert {job.attempt for job in last.values()} == {1}
            assert_invariants(one, recorder)
            started = recorder.order(JOB_STATE_STARTING)
            assert started[-3:] == [job.name for job in queued]

    @pytest.mark.scenario(2, "queued, running, stopping, ended: each comes to its right end")
    def test_starting(self, daemon: StartDaemon) -> None:
        """A worker that had not yet reported is taken over too."""
        one = daemon()
        api = one.api()
        (one.root / "tmp" / "before-hello").write_text("until hello")
        job = one.create(api, "succeed").job
        worker = one.worker(job.name)

        one.kill()
        api = one.start().api()
        assert one.job(api, job.name).state == JOB_STATE_STARTING
        assert one.worker(job.name) == worker
        (one.root / "tmp" / "hello").touch()

        assert one.wait(api, job.name).state == JOB_STATE_SUCCEEDED
        assert one.job(api, job.name).attempt == 1
        assert_invariants(one)

    @pytest.mark.scenario(2, "queued, running, stopping, ended: each comes to its right end")
    def test_stopping_completes(self, daemon: StartDaemon) -> None:
        """A stop that was asked for before the cut is carried out after it."""
        one = daemon(config={"jobs": {"stop_grace_seconds": 3.0}})
        api = one.api()
        job = one.create(api, "ignore-term; sleep").job
        one.wait(api, job.name, JOB_STATE_RUNNING)
        api(api.jobs.StopJob, StopJobRequest(name=job.name))

        one.kill()
        api = one.start().api()

        assert one.wait(api, job.name).state == JOB_STATE_CANCELLED
        assert_invariants(one)

    @pytest.mark.scenario(2, "queued, running, stopping, ended: each comes to its right end")
    def test_finished_meanwhile(self, daemon: StartDaemon) -> None:
        """A worker whose work ends while no daemon runs waits, and tells the next one."""
        one = daemon()
        api = one.api()
        job = one.create(api, "print begun; until go; print done; note done").job
        one.wait(api, job.name, JOB_STATE_RUNNING)
        own_log = one.worker_directory(job.name) / "log.txt"
        # It is RUNNING as soon as it has reported: its work may be on its way to it.
        eventually(lambda: b"begun" in own_log.read_bytes(), "it has begun")
        worker = one.worker(job.name)

        one.kill()
        (one.root / "tmp" / "go").touch()
        outcome = one.worker_directory(job.name) / "outcome.binpb"
        eventually(outcome.exists, "the work is done")
        assert one.leaders(job.name) == [worker]
        api = one.start().api()

        ended = one.wait(api, job.name)
        assert (ended.state, ended.attempt) == (JOB_STATE_SUCCEEDED, 1)
        assert (one.root / "tmp" / "done").read_text().split() == [job.name.removeprefix("jobs/")]
        assert log_of(api, job.name) == b"begun\ndone\n"
        assert_invariants(one)

    def test_killed_again_and_again(self, daemon: StartDaemon) -> None:
        """Five cuts in a row cost nobody a job, and the worker that lived is still the same."""
        one = daemon(config={"jobs": {"max_concurrent_jobs": 1}})
        with Recorder(one) as recorder:
            api = one.api()
            first = one.create(api, "until go").job
            worker = one.worker(first.name)
            for _ in range(5):
                one.create(api, "succeed")
                one.kill()
                api = one.start().api()
            assert one.worker(first.name) == worker
            (one.root / "tmp" / "go").touch()

            for name in one.acknowledged:
                assert one.wait(api, name).state == JOB_STATE_SUCCEEDED
            assert_invariants(one, recorder)


class TestReboot:
    """The machine itself went down."""

    @pytest.mark.scenario(7, "what ran begins anew, or fails with HOST_REBOOT")
    @pytest.mark.parametrize(
        "max_attempts", [pytest.param(1, marks=pytest.mark.reason("HOST_REBOOT")), 2]
    )
    def test_reboot(self, daemon: StartDaemon, max_attempts: int) -> None:
        """What ran then is begun anew if that is allowed, and else fails saying why."""
        one = daemon(config={"jobs": {"max_attempts": max_attempts}})
        api = one.api()
        job = one.create(api, "1: sleep").job
        one.wait(api, job.name, JOB_STATE_RUNNING)
        worker = one.worker(job.name)
        one.kill()
        os.kill(worker, signal.SIGKILL)
        pretend_reboot(one)
        api = one.start().api()
        ended = one.wait(api, job.name)

        assert ended.attempt == max_attempts
        if max_attempts == 1:
            assert failure(ended) == "HOST_REBOOT"
        else:
            assert ended.state == JOB_STATE_SUCCEEDED
            assert "restarted" in ended.notices[0].message
        assert_invariants(one)

    @pytest.mark.scenario(7, "no process that is not the job's own is touched")
    def test_bystanders(self, daemon: StartDaemon) -> None:
        """Who has a worker's pid, or a job's name, is not taken for its worker."""
        one = daemon()
        api = one.api()
        job = one.create(api, "1: sleep").job
        one.wait(api, job.name, JOB_STATE_RUNNING)
        worker = one.worker(job.name)
        job_id = job.name.removeprefix("jobs/")
        # Of an attempt that there never was, and one that only speaks of the job.
        marks = (f"{job_id}:7:0123456789abcdef", job_id)
        others = [
            subprocess.Popen(
                [sys.executable, "-c", "import time; time.sleep(600)", mark],
                env={"CALLSD_JOB": mark},
                start_new_session=True,
            )
            for mark in marks
        ]
        try:
            one.kill()
            os.kill(worker, signal.SIGKILL)
            pretend_reboot(one)
            api = one.start().api()
            ended = one.wait(api, job.name)

            assert (ended.state, ended.attempt) == (JOB_STATE_SUCCEEDED, 2)
            assert [other.poll() for other in others] == [None, None]
            assert_invariants(one)
        finally:
            for other in others:
                other.kill()
                other.wait()


def pretend_reboot(one: Daemon) -> None:
    """Have the database remember another boot of the machine."""
    database = sqlite3.connect(one.state / "callsd.db")
    with database:
        for job_id, text in database.execute("SELECT id, body FROM jobs").fetchall():
            body = json.loads(text)
            body["worker"]["epoch"] = "another"
            changed = json.dumps(body).encode()
            database.execute("UPDATE jobs SET body = ? WHERE id = ?", (changed, job_id))
    database.close()
