# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import (
    ACTIVE_STATES,
    FINAL_STATES,
    TRANSITIONS,
    Artifact,
    Failure,
    Job,
    Notice,
    Outcome,
    Progress,
    Reservation,
    State,
    Usage,
)
from callsd_daemon.domain.recording import RECORDING, Picture, RecordingHealth, RecordingResult
from callsd_daemon.domain.transcription import TRANSCRIPTION, TranscriptionResult
from callsd_daemon.domain.work import Result
from tests.helpers.jobs import NOW, WORKER, make_job


LATER = NOW + timedelta(minutes=5)
WEEK = timedelta(days=7)
LOST = Notice(code="WORKER_RESTARTED", message="attempt 1 was lost")
KILLED = Failure(reason=Reason.WORKER_KILLED, message="killed by SIGKILL")

CHANGES: dict[State, Callable[[Job], Job]] = {
    State.QUEUED: lambda job: job.requeued(LOST, LATER),
    State.STARTING: lambda job: job.starting(WORKER, LATER),
    State.RUNNING: lambda job: job.running(LATER),
    State.STOPPING: lambda job: job.stopping(LATER),
    State.SUCCEEDED: lambda job: job.finished(Outcome(), LATER, retention=WEEK),
    State.FAILED: lambda job: job.failed(KILLED, LATER, retention=WEEK),
    State.CANCELLED: lambda job: job.cancelled(LATER, retention=WEEK),
}
"""What brings a job into each state."""

DIAGRAM = """
queued -> starting cancelled failed
starting -> running stopping queued succeeded failed
running -> stopping queued succeeded failed
stopping -> cancelled succeeded failed
succeeded ->
failed ->
cancelled ->
"""
"""The life of a job, drawn a second time: a change of the machine has to be meant."""


class TestMachine:
    """Which state may follow which."""

    @pytest.mark.parametrize("before", list(State))
    @pytest.mark.parametrize("after", list(State))
    def test_every_pair(self, before: State, after: State) -> None:
        """A job goes where the table says, and anything else is refused and says why."""
        job = make_job(state=before)

        if after in TRANSITIONS[before]:
            assert CHANGES[after](job).state is after
            return
        with pytest.raises(CallsdError) as refused:
            CHANGES[after](job)

        assert refused.value.reason is Reason.JOB_STATE_CONFLICT
        assert refused.value.metadata == {"state": before, "wanted": after}
        assert refused.value.message == f"job job is {before}: it cannot become {after}"

    def test_diagram(self) -> None:
        """The table is the diagram that people know."""
        drawn = {
            State(state): frozenset(map(State, following.split()))
            for state, _, following in (
                line.partition(" ->") for line in DIAGRAM.strip().splitlines()
            )
        }

        assert drawn == TRANSITIONS

    def test_every_state_has_one_nature(self) -> None:
        """A job waits, holds its reservation, or has ended; nothing follows an end."""
        assert {State.QUEUED} | ACTIVE_STATES | FINAL_STATES == set(State)
        assert ACTIVE_STATES.isdisjoint(FINAL_STATES)
        assert {state for state, following in TRANSITIONS.items() if not following} == FINAL_STATES

    @pytest.mark.parametrize("state", [state for state in State if state not in FINAL_STATES])
    def test_every_job_can_end(self, state: State) -> None:
        """From every state that is no end there is a direct way to FAILED."""
        assert State.FAILED in TRANSITIONS[state]

    @pytest.mark.parametrize("state", list(State))
    def test_nature_of_a_job(self, state: State) -> None:
        """A job knows whether it holds its reservation, and whether it has ended."""
        job = make_job(state=state)

        assert (job.is_active, job.is_final) == (state in ACTIVE_STATES, state in FINAL_STATES)


class TestBeginning:
    """From the queue to the work."""

    def test_starting(self) -> None:
        """A start counts as an attempt, names the worker, and ends the waiting."""
        waiting = make_job(waiting_for=Reason.CPU_EXHAUSTED)

        job = waiting.starting(WORKER, LATER)

        assert job == make_job(
            state=State.STARTING,
            worker=WORKER,
            attempt=1,
            progress=Progress(phase="starting"),
            update_time=LATER,
        )

    def test_start_time_is_the_first(self) -> None:
        """A job that begins anew keeps the time at which it first ran."""
        first = make_job().starting(WORKER, NOW).running(NOW)

        again = first.requeued(LOST, LATER).starting(WORKER, LATER).running(LATER)

        assert again.start_time == NOW
        assert again.attempt == 2

    def test_requeued(self) -> None:
        """A lost attempt leaves a notice and nothing of its worker or progress."""
        running = make_job(state=State.RUNNING, worker=WORKER, attempt=1).with_progress(
            Progress(phase="recognising", fraction=0.7), NOW
        )

        job = running.requeued(LOST, LATER)

        assert job == make_job(attempt=1, notices=(LOST,), update_time=LATER)


class TestProgress:
    """How far a job is."""

    def test_never_goes_back(self) -> None:
        """A fraction that is smaller than the last one is not shown; everything else is."""
        job = make_job(state=State.RUNNING).with_progress(Progress(fraction=0.6), NOW)

        job = job.with_progress(
            Progress(phase="writing", fraction=0.2, processed_seconds=3, total_seconds=9), LATER
        )

        assert job.progress == Progress(
            phase="writing", fraction=0.6, processed_seconds=3, total_seconds=9
        )
        assert job.update_time == LATER

    def test_never_more_than_all(self) -> None:
        """A fraction beyond 1 is 1."""
        job = make_job(state=State.RUNNING).with_progress(Progress(fraction=1.5), NOW)

        assert job.progress.fraction == 1.0

    @pytest.mark.parametrize("figure", [float("nan"), float("inf"), float("-inf"), -1.0])
    def test_nonsense_counts_as_nothing(self, figure: float) -> None:
        """What a broken worker counts never makes a job that cannot be stored."""
        nonsense = Progress(
            fraction=figure,
            processed_seconds=figure,
            total_seconds=figure,
            real_time_factor=figure,
        )

        job = make_job(state=State.RUNNING).with_progress(nonsense, NOW)

        assert job.progress == Progress()

    def test_how_a_recording_is(self) -> None:
        """The latest health of a recording is shown as it was reported, and no older one."""
        health = RecordingHealth(frame_count=40, picture=Picture.MOVING, size_bytes=9)
        running = make_job(state=State.RUNNING).with_progress(
            Progress(phase="recording", recording=health), NOW
        )

        assert running.progress == Progress(phase="recording", recording=health)
        assert running.with_progress(Progress(phase="joining"), LATER).progress.recording is None


class TestEnd:
    """How a job ends, and how long it is kept."""

    @pytest.mark.parametrize("end", [State.SUCCEEDED, State.FAILED])
    def test_kept_for_the_retention(self, end: State) -> None:
        """A job that has ended says when, waits for nothing, and when it will be removed."""
        job = CHANGES[end](make_job(state=State.RUNNING, waiting_for=Reason.CPU_EXHAUSTED))

        assert (job.end_time, job.expire_time) == (LATER, LATER + WEEK)
        assert job.waiting_for is None

    def test_kept_until_deleted(self) -> None:
        """Without a retention a job has no time of removal."""
        job = make_job().cancelled(LATER, retention=None)

        assert (job.state, job.end_time, job.expire_time) == (State.CANCELLED, LATER, None)

    def test_recorded(self) -> None:
        """A recording that has ended tells what was recorded, and no more how it goes."""
        result = RecordingResult(duration_seconds=9.5, width=1280, height=720, segment_count=1)
        running = make_job(state=State.RUNNING).with_progress(
            Progress(phase="recording", processed_seconds=9.0, recording=RecordingHealth()), NOW
        )

        job = running.finished(Outcome(results={RECORDING: result}), LATER, retention=WEEK)

        assert job.results == {RECORDING: result}
        assert job.progress == Progress(phase="done", fraction=1.0, processed_seconds=9.0)

    def test_failed_recording(self) -> None:
        """What was recorded before a failure is told with it."""
        result = RecordingResult(duration_seconds=2.0, is_cut_short=True)

        job = make_job(state=State.RUNNING).finished(
            Outcome(failure=KILLED, results={RECORDING: result}), LATER, retention=WEEK
        )

        assert (job.state, job.failure, job.results) == (
            State.FAILED,
            KILLED,
            {RECORDING: result},
        )

    def test_succeeded(self) -> None:
        """A success brings its artifacts, its findings and what it used, and is complete."""
        artifact = Artifact(
            file_name="call.vtt", media_type="text/vtt", size_bytes=9, sha256="b" * 64
        )
        outcome = Outcome(
            artifacts=(artifact,),
            notices=(LOST,),
            results={TRANSCRIPTION: TranscriptionResult(word_count=3)},
            usage=Usage(cpu_seconds=2.0, peak_memory_bytes=7),
        )
        running = make_job(state=State.RUNNING).with_progress(Progress(fraction=0.4), NOW)

        job = running.finished(outcome, LATER, retention=WEEK)

        assert job.artifacts == (artifact,)
        assert job.notices == (LOST,)
        assert job.results == {TRANSCRIPTION: TranscriptionResult(word_count=3)}
        assert job.usage == Usage(cpu_seconds=2.0, peak_memory_bytes=7)
        assert job.progress == Progress(phase="done", fraction=1.0)
        assert job.failure is None

    def test_worker_reports_a_failure(self) -> None:
        """A failure has no artifacts, keeps the progress, and says what was used and noticed."""
        outcome = Outcome(failure=KILLED, notices=(LOST,), usage=Usage(cpu_seconds=1.0))
        running = make_job(state=State.RUNNING).with_progress(Progress(fraction=0.4), NOW)

        job = running.finished(outcome, LATER, retention=WEEK)

        assert (job.state, job.failure, job.artifacts) == (State.FAILED, KILLED, ())
        assert (job.notices, job.usage) == ((LOST,), Usage(cpu_seconds=1.0))
        assert job.progress.fraction == 0.4


class TestTime:
    """Clocks go wrong; histories do not."""

    @pytest.mark.parametrize("after", list(State))
    def test_clock_set_back(self, after: State) -> None:
        """No change makes a job's history run backwards, whatever the clock does."""
        before = next(state for state in State if after in TRANSITIONS[state])
        ahead = LATER + timedelta(hours=1)

        job = CHANGES[after](make_job(state=before, update_time=ahead))

        assert job.update_time == ahead
        assert job.end_time in (None, ahead)

    def test_progress_after_the_clock_was_set_back(self) -> None:
        """Progress does not turn back the time either."""
        job = make_job(state=State.RUNNING, update_time=LATER).with_progress(Progress(), NOW)

        assert job.update_time == LATER


def test_reservations_add_up() -> None:
    """The sum of two reservations is their sum in each resource."""
    one = Reservation(cores=1.5, memory_bytes=10, disk_bytes=7)

    assert one + one == Reservation(cores=3.0, memory_bytes=20, disk_bytes=14)


def test_names() -> None:
    """A job has one name for clients, and another tag after each change."""
    job = make_job(id="a1b2", revision=7)

    assert (job.name, job.etag) == ("jobs/a1b2", "r7")
    assert replace(job, revision=8).etag != job.etag


@pytest.mark.parametrize(
    ("result", "seconds"),
    [
        (Result(), 0.0),
        (TranscriptionResult(audio_seconds=9.0), 9.0),
        (RecordingResult(duration_seconds=3.5), 3.5),
    ],
)
def test_length_of_media(result: Result, seconds: float) -> None:
    """A result says how much sound or film it is about, for the metrics."""
    assert result.media_seconds == seconds
