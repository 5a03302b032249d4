# SPDX-License-Identifier: Apache-2.0
"""Workers that die, hang, lie or leave children behind."""

import os
import signal
import time

import pytest

from callsd.v1.job_pb2 import (
    JOB_STATE_CANCELLED,
    JOB_STATE_RUNNING,
    JOB_STATE_STARTING,
    JOB_STATE_STOPPING,
    JOB_STATE_SUCCEEDED,
    Job,
    ReadLogRequest,
    StopJobRequest,
)
from tests.conftest import StartDaemon
from tests.helpers.api import Api
from tests.helpers.daemon import Daemon
from tests.helpers.history import Recorder
from tests.helpers.invariants import assert_invariants
from tests.helpers.reasons import failure
from tests.helpers.waiting import eventually


KIB = 1024

ONCE = {"jobs": {"max_attempts": 1}}


def run(one: Daemon, script: str, **options: float) -> Job:
    """Do a job to its end."""
    api = one.api()
    return one.wait(api, one.create(api, script, **options).job.name)


def log_of(api: Api, name: str) -> bytes:
    """A job's log."""
    return b"".join(m.data for m in api.stream(api.jobs.ReadLog, ReadLogRequest(name=name)))


class TestDeath:
    """Workers that die."""

    def test_another_worker_begins_anew(self, daemon: StartDaemon) -> None:
        """A worker killed from outside is replaced, and a notice says so."""
        one = daemon()
        api = one.api()
        with Recorder(one) as recorder:
            job = one.create(api, "1: sleep").job
            one.wait(api, job.name, JOB_STATE_RUNNING)
            killed_at = time.monotonic()
            os.kill(one.worker(job.name), signal.SIGKILL)
            ended = one.wait(api, job.name)

            assert time.monotonic() - killed_at < 5
            assert (ended.state, ended.attempt) == (JOB_STATE_SUCCEEDED, 2)
            assert [notice.code for notice in ended.notices] == ["WORKER_RESTARTED"]
            assert "SIGKILL" in ended.notices[0].message
            assert_invariants(one, recorder)
            way = ["QUEUED", "STARTING", "RUNNING", "SUCCEEDED"]
            assert recorder.states(job.name) == [*way[1:3], *way]

    @pytest.mark.reason("CRASH_LOOP")
    def test_crash_loop(self, daemon: StartDaemon) -> None:
        """Workers that die again and again are given up, with what happened to the last one."""
        one = daemon()
        ended = run(one, "crash SIGKILL")

        assert failure(ended) == "CRASH_LOOP"
        assert ended.attempt == 3
        assert ended.failure.metadata["last_reason"] == "WORKER_KILLED"
        assert ended.failure.metadata["signal"] == "SIGKILL"
        assert_invariants(one)

    @pytest.mark.reason("WORKER_KILLED")
    @pytest.mark.parametrize(
        ("script", "fact"),
        [
            ("crash SIGKILL", ("signal", "SIGKILL")),
            ("exit 1", ("exit_code", "1")),
            ("say recognising; crash SIGSEGV", ("signal", "SIGSEGV")),
        ],
    )
    def test_told_how(self, daemon: StartDaemon, script: str, fact: tuple[str, str]) -> None:
        """With one attempt only, the failure says what the worker died of."""
        one = daemon(config=ONCE)
        ended = run(one, script)

        assert failure(ended) == "WORKER_KILLED"
        assert dict([fact]) == dict(ended.failure.metadata)
        assert_invariants(one)

    @pytest.mark.reason("WORKER_KILLED")
    def test_before_hello(self, daemon: StartDaemon) -> None:
        """A death before the first word is seen at once, not after the start timeout."""
        one = daemon(config=ONCE)
        (one.root / "tmp" / "before-hello").write_text("exit 7")
        began = time.monotonic()
        ended = run(one, "succeed")

        assert failure(ended) == "WORKER_KILLED"
        assert ended.failure.metadata["exit_code"] == "7"
        assert time.monotonic() - began < 10
        assert_invariants(one)

    @pytest.mark.reason("WORKER_KILLED")
    def test_exit_without_result(self, daemon: StartDaemon) -> None:
        """A worker that ends well but leaves no outcome has not done its work."""
        one = daemon(config=ONCE)

        assert failure(run(one, "exit 0")) == "WORKER_KILLED"
        assert_invariants(one)

    @pytest.mark.reason("MODEL_INVALID")
    def test_crash_while_loading(self, daemon: StartDaemon) -> None:
        """An engine that dies while it reads the model blames the model, and is not tried again."""
        one = daemon()
        ended = run(one, "say loading; crash SIGSEGV")

        assert failure(ended) == "MODEL_INVALID"
        assert ended.attempt == 1
        assert_invariants(one)

    @pytest.mark.reason("OUT_OF_MEMORY")
    def test_out_of_memory(self, daemon: StartDaemon) -> None:
        """A worker that ran out of memory says so, and is not tried again."""
        one = daemon()
        ended = run(one, "fail OUT_OF_MEMORY")

        assert failure(ended) == "OUT_OF_MEMORY"
        assert ended.attempt == 1
        assert_invariants(one)

    @pytest.mark.reason("INTERNAL")
    def test_unknown_reason(self, daemon: StartDaemon) -> None:
        """A reason that is not in the list is a bug of ours, and reported as one."""
        one = daemon()
        one.expects_bugs = True
        ended = run(one, "fail NO_SUCH_REASON")

        assert failure(ended) == "INTERNAL"
        assert ended.failure.message == "as the script says"
        assert_invariants(one)

    def test_grandchildren(self, daemon: StartDaemon) -> None:
        """Processes that a worker leaves behind, in sessions of their own, are swept."""
        one = daemon(config=ONCE)
        api = one.api()
        job = one.create(api, "fork-grandchild; touch forked; until go; exit 1").job
        eventually((one.root / "tmp" / "forked").exists, "there is a grandchild")
        assert len(one.worker_pids(job.name)) == 2
        (one.root / "tmp" / "go").touch()

        assert failure(one.wait(api, job.name)) == "WORKER_KILLED"
        assert one.worker_pids(job.name) == []
        assert_invariants(one)

    def test_grandchildren_of_a_worker_that_died_unseen(self, daemon: StartDaemon) -> None:
        """What is left of a worker that died while no daemon ran is swept at the start."""
        one = daemon(config=ONCE)
        api = one.api()
        job = one.create(api, "fork-grandchild; touch forked; sleep").job
        eventually((one.root / "tmp" / "forked").exists, "there is a grandchild")
        worker = one.worker(job.name)
        (grandchild,) = set(one.worker_pids(job.name)) - {worker}

        one.kill()
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: worker not in one.worker_pids(job.name), "the worker is dead")
        assert one.worker_pids(job.name) == [grandchild]
        api = one.start().api()

        assert failure(one.wait(api, job.name)) == "WORKER_KILLED"
        assert_invariants(one)


class TestSilence:
    """Workers that live, but not for us."""

    @pytest.mark.reason("WORKER_START_TIMEOUT")
    def test_never_hello(self, daemon: StartDaemon) -> None:
        """A worker that does not report for duty is ended."""
        one = daemon(config={"jobs": {"max_attempts": 1, "start_timeout_seconds": 1.0}})
        (one.root / "tmp" / "before-hello").write_text("never-hello")

        assert failure(run(one, "succeed")) == "WORKER_START_TIMEOUT"
        assert_invariants(one)

    @pytest.mark.reason("WORKER_UNRESPONSIVE")
    @pytest.mark.parametrize("script", ["hang", "stopped"])
    def test_silence(self, daemon: StartDaemon, script: str) -> None:
        """A worker that says nothing any more, or is frozen, is killed."""
        one = daemon(config={"jobs": {"max_attempts": 1, "silence_timeout_seconds": 2.0}})

        assert failure(run(one, script)) == "WORKER_UNRESPONSIVE"
        assert_invariants(one)

    @pytest.mark.reason("MAX_DURATION_EXCEEDED")
    def test_max_duration(self, daemon: StartDaemon) -> None:
        """A job that runs too long fails, even though its worker ends in good order."""
        one = daemon()
        began = time.monotonic()
        ended = run(one, "sleep", max_seconds=1.0)

        assert failure(ended) == "MAX_DURATION_EXCEEDED"
        assert ended.attempt == 1
        assert time.monotonic() - began < 8
        assert_invariants(one)

    def test_max_duration_counts_across_restarts(self, daemon: StartDaemon) -> None:
        """A restart of the daemon does not give a job its time anew."""
        one = daemon()
        api = one.api()
        job = one.create(api, "sleep", max_seconds=3.0).job
        running = one.wait(api, job.name, JOB_STATE_RUNNING)
        half = running.start_time.ToNanoseconds() / 1e9 + 1.5
        eventually(lambda: time.time() > half, "half of the time is over")
        one.kill()
        api = one.start().api()
        ended = one.wait(api, job.name)

        assert failure(ended) == "MAX_DURATION_EXCEEDED"
        ran = ended.end_time.ToNanoseconds() - running.start_time.ToNanoseconds()
        assert 3.0 <= ran / 1e9 < 6.0
        assert_invariants(one)


class TestStrangers:
    """Processes that are not, or no longer, the worker of the job."""

    @pytest.mark.reason("WORKER_KILLED")
    @pytest.mark.parametrize("who", ["wrong-token", "old-generation"])
    def test_refused(self, daemon: StartDaemon, who: str) -> None:
        """Who cannot prove to be this attempt's worker gets no work, and its result is no result.

        It leaves an outcome nevertheless, which says that it was cancelled or is of another
        attempt: the job must not take it for its own.
        """
        one = daemon(config=ONCE)
        (one.root / "tmp" / "before-hello").write_text(who)

        assert failure(run(one, "succeed")) == "WORKER_KILLED"
        assert len(one.events("worker_refused")) == 1
        assert_invariants(one)


class TestLies:
    """Workers whose word is not good."""

    @pytest.mark.reason("WORKER_KILLED")
    def test_artifact_that_is_not_there(self, daemon: StartDaemon) -> None:
        """A job never succeeds without its files."""
        one = daemon(config=ONCE)

        assert failure(run(one, "lie-artifact")) == "WORKER_KILLED"
        assert_invariants(one)

    def test_log_flood(self, daemon: StartDaemon) -> None:
        """A worker that floods its log fills no disk, and is otherwise not disturbed."""
        limit = 64 * KIB
        one = daemon(config={"jobs": {"max_log_bytes": limit}})
        api = one.api()
        job = one.create(api, "flood-log 40; until go").job
        log = one.state / "jobs" / job.name.removeprefix("jobs/") / "log.txt"
        eventually(lambda: log.exists() and log.stat().st_size > limit, "the log is too long")
        eventually(lambda: log.stat().st_size <= limit, "the log was cut")
        (one.root / "tmp" / "go").touch()

        assert one.wait(api, job.name).state == JOB_STATE_SUCCEEDED
        assert b"the log was longer than allowed" in log_of(api, job.name)
        assert_invariants(one)


class TestStop:
    """A stop, at any moment."""

    def test_queued(self, daemon: StartDaemon) -> None:
        """A waiting job is cancelled at once, and never has a worker."""
        one = daemon(config={"jobs": {"max_concurrent_jobs": 1}})
        api = one.api()
        first = one.create(api, "sleep").job
        job = one.create(api, "succeed").job
        stopped = api(api.jobs.StopJob, StopJobRequest(name=job.name)).job

        assert (stopped.state, stopped.attempt) == (JOB_STATE_CANCELLED, 0)
        api(api.jobs.StopJob, StopJobRequest(name=first.name))
        assert one.wait(api, first.name).state == JOB_STATE_CANCELLED
        assert_invariants(one)

    def test_starting(self, daemon: StartDaemon) -> None:
        """A job whose worker has not reported yet is stopped with it."""
        one = daemon()
        api = one.api()
        (one.root / "tmp" / "before-hello").write_text("never-hello")
        job = one.create(api, "succeed").job
        assert job.state == JOB_STATE_STARTING
        stopping = api(api.jobs.StopJob, StopJobRequest(name=job.name)).job

        assert stopping.state == JOB_STATE_STOPPING
        assert one.wait(api, job.name).state == JOB_STATE_CANCELLED
        assert_invariants(one)

    def test_running_twice_and_afterwards(self, daemon: StartDaemon) -> None:
        """Asking twice, and again after the end, changes nothing more."""
        one = daemon()
        api = one.api()
        job = one.create(api, "sleep").job
        one.wait(api, job.name, JOB_STATE_RUNNING)
        for _ in range(2):
            stopping = api(api.jobs.StopJob, StopJobRequest(name=job.name)).job
            assert stopping.state in (JOB_STATE_STOPPING, JOB_STATE_CANCELLED)
        ended = one.wait(api, job.name)
        again = api(api.jobs.StopJob, StopJobRequest(name=job.name)).job

        assert ended.state == JOB_STATE_CANCELLED
        assert again == ended
        assert_invariants(one)

    @pytest.mark.parametrize("script", ["ignore-term; sleep", "hang", "stopped"])
    def test_unwilling(self, daemon: StartDaemon, script: str) -> None:
        """A worker that does not want to end is killed within the time that the ladder takes."""
        one = daemon(config={"jobs": {"stop_grace_seconds": 0.5}})
        api = one.api()
        job = one.create(api, script).job
        one.wait(api, job.name, JOB_STATE_RUNNING)
        asked_at = time.monotonic()
        api(api.jobs.StopJob, StopJobRequest(name=job.name))

        assert one.wait(api, job.name).state == JOB_STATE_CANCELLED
        # Grace 0.5 s, then 2 s after SIGTERM, 0.5 s for the stacks, and two for a busy machine.
        assert time.monotonic() - asked_at < 5.0
        assert_invariants(one)

    def test_work_done_meanwhile_counts(self, daemon: StartDaemon) -> None:
        """A worker that gets its work done while it is being stopped has succeeded."""
        one = daemon(config={"jobs": {"stop_grace_seconds": 10.0}})
        api = one.api()
        job = one.create(api, "ignore-term; until go").job
        one.wait(api, job.name, JOB_STATE_RUNNING)
        api(api.jobs.StopJob, StopJobRequest(name=job.name))
        (one.root / "tmp" / "go").touch()

        assert one.wait(api, job.name).state == JOB_STATE_SUCCEEDED
        assert_invariants(one)
