# SPDX-License-Identifier: Apache-2.0
"""Workers that die, hang, lie or leave children behind."""

import os
import signal
import time

import pytest

from callsd.v1.job_pb2 import (
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    Job,
)
from tests.conftest import StartDaemon
from tests.faults.conftest import RecordFigure
from tests.helpers.daemon import Daemon
from tests.helpers.history import Recorder
from tests.helpers.invariants import assert_invariants
from tests.helpers.reasons import failure
from tests.helpers.waiting import eventually


START_TIMEOUT_SECONDS = 20.0
"""Of `once`: more than a worker takes to start, less than a test waits for the end of its job."""


@pytest.fixture(scope="module")
def patient(shared_daemon: StartDaemon) -> Daemon:
    """A daemon that tries a job as often as it does by default."""
    return shared_daemon()


@pytest.fixture(scope="module")
def once(shared_daemon: StartDaemon) -> Daemon:
    """A daemon that tries each job once."""
    return shared_daemon(
        config={"jobs": {"max_attempts": 1, "start_timeout_seconds": START_TIMEOUT_SECONDS}}
    )


def run(one: Daemon, script: str, **options: float) -> Job:
    """Do a job to its end."""
    api = one.api()
    return one.wait(api, one.create(api, script, **options).job.name)


class TestDeath:
    """Workers that die."""

    @pytest.mark.alone
    @pytest.mark.scenario(3, "kill -9 of a worker: seen ≤ 1 s, another one goes on")
    def test_another_worker_begins_anew(self, patient: Daemon, record_figure: RecordFigure) -> None:
        """A worker killed from outside is replaced, and a notice says so."""
        api = patient.api()
        with Recorder(patient) as recorder:
            job = patient.create(api, "1: sleep").job
            patient.wait(api, job.name, JOB_STATE_RUNNING)
            os.kill(patient.worker(job.name), signal.SIGKILL)
            killed_at = time.monotonic()
            eventually(lambda: patient.job(api, job.name).notices, "its death is seen")
            seen_after = time.monotonic() - killed_at
            ended = patient.wait(api, job.name)

            assert (ended.state, ended.attempt) == (JOB_STATE_SUCCEEDED, 2)
            assert [notice.code for notice in ended.notices] == ["WORKER_RESTARTED"]
            assert "SIGKILL" in ended.notices[0].message
            assert_invariants(patient, recorder)
            way = ["QUEUED", "STARTING", "RUNNING", "SUCCEEDED"]
            assert recorder.states(job.name) == [*way[1:3], *way]
            record_figure(f"seen after {seen_after * 1000:.0f} ms")
            assert seen_after < 1.0

    @pytest.mark.scenario(6, "given up after max_attempts, with the last reason")
    @pytest.mark.reason("CRASH_LOOP")
    def test_crash_loop(self, patient: Daemon) -> None:
        """Workers that die again and again are given up, with what happened to the last one."""
        ended = run(patient, "crash SIGKILL")

        assert failure(ended) == "CRASH_LOOP"
        assert ended.attempt == 3
        assert ended.failure.metadata["last_reason"] == "WORKER_KILLED"
        assert ended.failure.metadata["signal"] == "SIGKILL"
        assert_invariants(patient)

    @pytest.mark.scenario(3, "WORKER_KILLED, with the signal or the exit code")
    @pytest.mark.reason("WORKER_KILLED")
    def test_told_how(self, once: Daemon) -> None:
        """With one attempt only, the failure says what the worker died of."""
        ended = run(once, "say recognising; crash SIGSEGV")

        assert failure(ended) == "WORKER_KILLED"
        assert ended.failure.metadata == {"signal": "SIGSEGV"}
        assert_invariants(once)

    @pytest.mark.scenario(3, "a death before the first word is seen at once")
    @pytest.mark.reason("WORKER_KILLED")
    def test_before_hello(self, once: Daemon) -> None:
        """A death before the first word is seen at once, not after the start timeout."""
        began = time.monotonic()
        with once.before_hello("exit 7"):
            ended = run(once, "succeed")

        assert failure(ended) == "WORKER_KILLED"
        assert ended.failure.metadata["exit_code"] == "7"
        assert time.monotonic() - began < START_TIMEOUT_SECONDS
        assert_invariants(once)

    @pytest.mark.scenario(28, "an engine that dies of a model: MODEL_INVALID, not WORKER_KILLED")
    @pytest.mark.reason("MODEL_INVALID")
    def test_crash_while_loading(self, patient: Daemon) -> None:
        """An engine that dies while it reads the model blames the model, and is not tried again."""
        ended = run(patient, "say loading; crash SIGSEGV")

        assert failure(ended) == "MODEL_INVALID"
        assert ended.attempt == 1
        assert_invariants(patient)

    @pytest.mark.scenario(13, "a worker that says so: OUT_OF_MEMORY, not tried again")
    @pytest.mark.reason("OUT_OF_MEMORY")
    def test_out_of_memory(self, patient: Daemon) -> None:
        """A worker that ran out of memory says so, and is not tried again."""
        ended = run(patient, "fail OUT_OF_MEMORY")

        assert failure(ended) == "OUT_OF_MEMORY"
        assert ended.attempt == 1
        assert_invariants(patient)

    @pytest.mark.reason("INTERNAL")
    def test_unknown_reason(self, daemon: StartDaemon) -> None:
        """A reason that is not in the list is a bug of ours, and reported as one."""
        one = daemon()
        one.expects_bugs = True
        ended = run(one, "fail NO_SUCH_REASON")

        assert failure(ended) == "INTERNAL"
        assert ended.failure.message == "as the script says"
        assert_invariants(one)

    @pytest.mark.scenario(4, "double fork, setsid: no process is left ≤ 10 s after the death")
    def test_grandchildren(self, once: Daemon, record_figure: RecordFigure) -> None:
        """Processes that a worker leaves behind, in sessions of their own, are swept."""
        api = once.api()
        forked, go = once.new_flag(), once.new_flag()
        script = f"fork-grandchild; touch {forked.name}; until {go.name}; exit 1"
        job = once.create(api, script).job
        eventually(forked.exists, "there is a grandchild")
        assert len(once.worker_pids(job.name)) == 2
        go.touch()
        died_at = time.monotonic()

        assert failure(once.wait(api, job.name)) == "WORKER_KILLED"
        assert once.worker_pids(job.name) == []
        record_figure(f"none is left after {time.monotonic() - died_at:.2f} s")
        assert_invariants(once)

    @pytest.mark.scenario(4, "the same while no daemon runs: swept by the next one")
    def test_grandchildren_of_a_worker_that_died_unseen(self, once: Daemon) -> None:
        """What is left of a worker that died while no daemon ran is swept at the start."""
        api = once.api()
        forked = once.new_flag()
        job = once.create(api, f"fork-grandchild; touch {forked.name}; sleep").job
        eventually(forked.exists, "there is a grandchild")
        worker = once.worker(job.name)
        (grandchild,) = set(once.worker_pids(job.name)) - {worker}

        once.kill()
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: worker not in once.worker_pids(job.name), "the worker is dead")
        assert once.worker_pids(job.name) == [grandchild]
        api = once.start().api()

        assert failure(once.wait(api, job.name)) == "WORKER_KILLED"
        assert_invariants(once)


@pytest.fixture(scope="module")
def strict(shared_daemon: StartDaemon) -> Daemon:
    """A daemon that soon ends a worker that says nothing."""
    return shared_daemon(config={"jobs": {"max_attempts": 1, "silence_timeout_seconds": 2.0}})


class TestSilence:
    """Workers that live, but not for us."""

    @pytest.mark.reason("WORKER_START_TIMEOUT")
    def test_never_hello(self, daemon: StartDaemon) -> None:
        """A worker that does not report for duty is ended."""
        one = daemon(config={"jobs": {"max_attempts": 1, "start_timeout_seconds": 1.0}})
        with one.before_hello("never-hello"):
            assert failure(run(one, "succeed")) == "WORKER_START_TIMEOUT"
        assert_invariants(one)

    @pytest.mark.scenario(5, "one that says nothing, or is stopped, is killed")
    @pytest.mark.reason("WORKER_UNRESPONSIVE")
    @pytest.mark.parametrize("script", ["hang", "stopped"])
    def test_silence(self, strict: Daemon, script: str) -> None:
        """A worker that says nothing any more, or is frozen, is killed."""
        assert failure(run(strict, script)) == "WORKER_UNRESPONSIVE"
        assert_invariants(strict)

    @pytest.mark.reason("MAX_DURATION_EXCEEDED")
    def test_max_duration(self, patient: Daemon) -> None:
        """A job that runs too long fails, even though its worker ends in good order."""
        ended = run(patient, "sleep", max_seconds=1.0)

        assert failure(ended) == "MAX_DURATION_EXCEEDED"
        assert ended.attempt == 1
        assert_invariants(patient)

    def test_max_duration_counts_across_restarts(self, patient: Daemon) -> None:
        """A restart of the daemon does not give a job its time anew."""
        api = patient.api()
        job = patient.create(api, "sleep", max_seconds=6.0).job
        running = patient.wait(api, job.name, JOB_STATE_RUNNING)
        most = running.start_time.ToNanoseconds() / 1e9 + 5.0
        eventually(lambda: time.time() > most, "most of the time is over")
        patient.kill()
        api = patient.start().api()
        back_at = time.monotonic()
        ended = patient.wait(api, job.name)

        # It would be six seconds with all of it anew.
        assert time.monotonic() - back_at < 5.0
        assert failure(ended) == "MAX_DURATION_EXCEEDED"
        ran = ended.end_time.ToNanoseconds() - running.start_time.ToNanoseconds()
        assert ran / 1e9 >= 6.0
        assert_invariants(patient)


class TestStrangers:
    """Processes that are not, or no longer, the worker of the job."""

    @pytest.mark.reason("WORKER_KILLED")
    @pytest.mark.parametrize("who", ["wrong-token", "old-generation"])
    def test_refused(self, once: Daemon, who: str) -> None:
        """Who cannot prove to be this attempt's worker gets no work, and its result is no result.

        It leaves an outcome nevertheless, which says that it was cancelled or is of another
        attempt: the job must not take it for its own.
        """
        with once.before_hello(who):
            ended = run(once, "succeed")

        assert failure(ended) == "WORKER_KILLED"
        job_id = ended.name.removeprefix("jobs/")
        assert [event["job_id"] for event in once.events("worker_refused")].count(job_id) == 1
        assert_invariants(once)
