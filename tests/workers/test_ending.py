# SPDX-License-Identifier: Apache-2.0
"""What the end of an attempt means for its job."""

from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest

from callsd_daemon.domain.errors import Reason
from callsd_daemon.domain.jobs import (
    Artifact,
    Failure,
    Job,
    Outcome,
    Progress,
    State,
)
from callsd_daemon.domain.recording import (
    RECORDING,
    RecordingResult,
)
from callsd_daemon.metrics import MEDIA_SECONDS
from callsd_daemon.workers import ending, leftovers
from callsd_daemon.workers.ending import CRASH_SIGNALS, EndRules, death, is_retried, settle
from callsd_daemon.workers.launchers.launcher import End, Launcher
from callsd_daemon.workers.launchers.local import Directories
from callsd_ipc.names import ARTIFACTS, OUTCOME
from callsd_ipc.v1 import worker_pb2
from tests.helpers.jobs import NOW, WORKER, make_job
from tests.helpers.kinds import KINDS


NOT_OF_THE_JOB = {
    "WORKER_KILLED",
    "WORKER_START_TIMEOUT",
    "WORKER_UNRESPONSIVE",
    "HOST_REBOOT",
}
"""Ends after which another worker may well get the job done."""

RULES = EndRules(max_attempts=3, retention=timedelta(days=1))
KILLED = ending.killed("the worker was killed by SIGKILL", signal="SIGKILL")
RECORDED = Outcome(results={RECORDING: RecordingResult(duration_seconds=9.5, is_cut_short=True)})

LOADING, RECOGNISING = Progress(phase="loading"), Progress(phase="recognising")


def recording(state: State = State.RUNNING, *, attempt: int = 1) -> Job:
    """A recording that a worker is at."""
    return make_job(
        kind=RECORDING,
        state=state,
        attempt=attempt,
        worker=WORKER,
        start_time=NOW,
    )


class TestDeath:
    """What a worker died of says what its job failed of."""

    @pytest.mark.parametrize("progress", [None, LOADING, RECOGNISING])
    @pytest.mark.parametrize(
        ("end", "facts"),
        [
            (End(signal="SIGKILL"), {"signal": "SIGKILL"}),
            (End(signal="SIGTERM"), {"signal": "SIGTERM"}),
            (End(exit_code=1), {"exit_code": "1"}),
            (End(exit_code=0), {}),
            (End(), {}),
        ],
    )
    def test_told_how(self, end: End, progress: Progress | None, facts: dict[str, str]) -> None:
        """The failure has the signal or the exit code; one that ended well has no result either."""
        failure = death(end, progress)

        assert (failure.reason, failure.metadata) == (Reason.WORKER_KILLED, facts)
        assert all(fact in failure.message for fact in facts.values())

    @pytest.mark.parametrize("signal", sorted(CRASH_SIGNALS))
    def test_while_loading(self, signal: str) -> None:
        """An engine that crashes while it reads the model blames the model, and only then."""
        end = End(signal=signal)

        assert death(end, LOADING).reason is Reason.MODEL_INVALID
        assert death(end, LOADING).metadata == {"signal": signal}
        assert death(end, RECOGNISING).reason is death(end, None).reason is Reason.WORKER_KILLED

    @pytest.mark.parametrize("progress", [None, LOADING])
    def test_out_of_memory(self, progress: Progress | None) -> None:
        """Who was killed for the memory it took has run out of it, whatever it was doing."""
        end = End(signal="SIGKILL", is_out_of_memory=True)

        assert death(end, progress).reason is Reason.OUT_OF_MEMORY


class TestRetries:
    """Which ends another worker goes on from."""

    @pytest.mark.parametrize("reason", list(Reason))
    def test_reasons(self, reason: Reason) -> None:
        """Ends that say nothing about the job are tried again; no other end is."""
        failure = Failure(reason=reason, message="so it is")

        assert is_retried(recording(), failure, RULES, is_at_end=False) is (
            reason in NOT_OF_THE_JOB
        )

    @pytest.mark.parametrize(("attempt", "expected"), [(1, True), (2, True), (3, False)])
    def test_attempts(self, attempt: int, *, expected: bool) -> None:
        """There are as many attempts as the administrator allows."""
        assert is_retried(recording(attempt=attempt), KILLED, RULES, is_at_end=False) is expected

    def test_stopped(self) -> None:
        """What was asked to end is not begun again."""
        assert not is_retried(recording(State.STOPPING), KILLED, RULES, is_at_end=False)

    @pytest.mark.parametrize("state", [State.STARTING, State.RUNNING, State.STOPPING])
    @pytest.mark.parametrize("reason", [Reason.HOST_REBOOT, Reason.PAGE_UNAVAILABLE])
    @pytest.mark.parametrize("attempt", [1, 3])
    @pytest.mark.parametrize("is_at_end", [False, True])
    def test_as_it_is_settled(
        self, state: State, reason: Reason, attempt: int, *, is_at_end: bool
    ) -> None:
        """Salvage and retries never meet: what will be retried is what goes back to the queue."""
        job, failure = recording(state, attempt=attempt), Failure(reason=reason, message="lost")

        settled = settle(job, None, failure, NOW, RULES, is_at_end=is_at_end)

        is_again = is_retried(job, failure, RULES, is_at_end=is_at_end)
        assert (settled.state is State.QUEUED) is is_again
        if settled.state is State.QUEUED:
            assert [notice.code for notice in settled.notices] == ["WORKER_RESTARTED"]

    @pytest.mark.parametrize("attempt", [2, 3])
    def test_crash_loop(self, attempt: int) -> None:
        """Workers that die again and again are given up, with what the last one died of."""
        rules = EndRules(max_attempts=attempt, retention=None)
        settled = settle(recording(attempt=attempt), None, KILLED, NOW, rules, is_at_end=False)

        assert settled.state is State.FAILED
        assert settled.failure is not None
        assert settled.failure.reason is Reason.CRASH_LOOP
        assert settled.failure.metadata == {"last_reason": "WORKER_KILLED", "signal": "SIGKILL"}
        assert KILLED.message in settled.failure.message

    def test_only_attempt(self) -> None:
        """Where there is one attempt only, the job failed of what its worker died of."""
        rules = EndRules(max_attempts=1, retention=None)
        settled = settle(recording(), None, KILLED, NOW, rules, is_at_end=False)

        assert (settled.state, settled.failure) == (State.FAILED, KILLED)

    @pytest.mark.parametrize("attempt", [1, 2])
    def test_at_its_end(self, attempt: int) -> None:
        """A job that another worker cannot go on with fails at once, by how its worker ended."""
        settled = settle(recording(attempt=attempt), None, KILLED, NOW, RULES, is_at_end=True)

        assert (settled.state, settled.failure) == (State.FAILED, KILLED)
        assert settled.attempt == attempt


class TestSalvaged:
    """What was saved of a recording counts."""

    @pytest.mark.parametrize("state", [State.RUNNING, State.STOPPING])
    def test_saved(self, state: State) -> None:
        """A recording whose worker died has succeeded when what it recorded was saved."""
        settled = settle(recording(state), RECORDED, KILLED, NOW, RULES, is_at_end=True)

        assert settled.state is State.SUCCEEDED
        assert settled.results == RECORDED.results
        assert settled.failure is None

    def test_missing_file(self, tmp_path: Path) -> None:
        """A result whose file is not there at its full length is none."""
        artifact = Artifact(
            file_name="recording.mp4", media_type="video/mp4", size_bytes=3, sha256="a" * 64
        )
        outcome = Outcome(artifacts=(artifact,), results=RECORDED.results)
        (tmp_path / ARTIFACTS).mkdir()
        assert not leftovers.is_whole(outcome, tmp_path)

        (tmp_path / ARTIFACTS / "recording.mp4").write_bytes(b"mp4")
        assert leftovers.is_whole(outcome, tmp_path)

    def test_seconds_are_counted(self) -> None:
        """The metrics tell how much was recorded."""
        counter = MEDIA_SECONDS.labels(kind=RECORDING)
        before = counter._value.get()

        ending.count(settle(recording(), RECORDED, KILLED, NOW, RULES, is_at_end=True))

        assert counter._value.get() - before == 9.5


class TestDiscarded:
    """What is left of an attempt goes, unless it is all there is of a recording."""

    @pytest.fixture
    def job_directory(self, tmp_path: Path) -> Path:
        """A recording was finished; its file is half taken over, its outcome is not."""
        folder = tmp_path / "jobs" / "job" / ARTIFACTS
        spool = tmp_path / "workers" / "job"
        for path in (folder, spool, tmp_path / "trash"):
            path.mkdir(parents=True)
        (folder / ".recording.mp4.part").write_bytes(b"mp4")
        (spool / OUTCOME).write_bytes(b"outcome")
        return folder.parent

    def left(self, job: Job, job_directory: Path) -> tuple[bool, bool]:
        """Whether draft and spool are there when the job's end is done with."""
        top = job_directory.parents[1]
        directories = Directories(top / "workers", top / "trash", mode=0o700)
        leftovers.discard(job, KINDS[RECORDING], job_directory, cast(Launcher, directories))
        draft = job_directory / ARTIFACTS / ".recording.mp4.part"
        return draft.exists(), (top / "workers" / "job").exists()

    def test_not_taken_over(self, job_directory: Path) -> None:
        """A finished recording that could not be taken over stays for a person."""
        assert self.left(recording(State.FAILED), job_directory) == (True, True)

    def test_taken_over(self, job_directory: Path) -> None:
        """Of an outcome that was taken over nothing else is needed, though it tells of failure."""
        message = worker_pb2.Outcome(generation=1, failure_reason="PAGE_UNAVAILABLE")
        (job_directory / OUTCOME).write_bytes(message.SerializeToString())

        assert self.left(recording(State.FAILED), job_directory) == (False, False)

    def test_succeeded(self, job_directory: Path) -> None:
        """A job that has its result leaves nothing else."""
        assert self.left(recording(State.SUCCEEDED), job_directory) == (False, False)
