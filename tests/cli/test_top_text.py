# SPDX-License-Identifier: Apache-2.0
"""What `callsd top` knows and shows: without a daemon."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from callsd import Bookmark, JobChanged, JobDeleted, WatchPosition, duration
from callsd.v1.capacity_pb2 import Capacity, Reservation, ResourceCapacity
from callsd.v1.caption_pb2 import CaptionsSpec, WatchCaptionsResponse
from callsd.v1.error_pb2 import (
    ERROR_REASON_CPU_EXHAUSTED,
    ERROR_REASON_DRAINING,
    ERROR_REASON_INPUT_INVALID,
)
from callsd.v1.job_pb2 import (
    JOB_STATE_FAILED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    Failure,
    Job,
    Notice,
    Progress,
)
from callsd.v1.kind_pb2 import JOB_KIND_CAPTIONS, JOB_KIND_RECORDING, JOB_KIND_TRANSCRIPTION
from callsd.v1.recording_pb2 import (
    PICTURE_STATE_BLANK,
    PICTURE_STATE_MOVING,
    PICTURE_STATE_STILL,
    RecordingHealth,
    RecordingSpec,
)
from callsd.v1.transcription_pb2 import TranscriptionSpec
from callsd_daemon.cli.top.state import TopState
from callsd_daemon.cli.top.view import COLUMNS, cells, frame


NOW = 1_800_000_000
GIB = float(1 << 30)

RESERVED = Reservation(cores=0.5, memory_bytes=500_000_000, disk_bytes=0)
GOOD = RecordingHealth(
    picture=PICTURE_STATE_MOVING,
    changed_frame_rate=19.6,
    audio_level_db=-23.4,
    drift_ms=3.2,
    segment=1,
)


def account(total: float, reserved: float, external: float, headroom: float) -> ResourceCapacity:
    """A resource with what is left of it."""
    return ResourceCapacity(
        total=total,
        reserved=reserved,
        external=external,
        headroom=headroom,
        available=total - reserved - external - headroom,
    )


CAPACITY = Capacity(
    cores=account(8.0, 2.0, 4.0, 0.0),
    memory_bytes=account(16 * GIB, 2 * GIB, 4 * GIB, GIB),
    disk_bytes=account(100 * GIB, 0.0, 40 * GIB, GIB),
    running_jobs=2,
    queued_jobs=1,
    cpu_pressure=0.71,
    observe_time=Timestamp(seconds=NOW),
)


def known(*jobs: Job, capacity: Capacity = CAPACITY) -> TopState:
    """What is known after these jobs were seen."""
    state = TopState(address="unix:/run/callsd/callsd.sock", version="0.1.0")
    state.measure(capacity)
    for job in jobs:
        state.observe(JobChanged(job=job, revision=1))
    state.observe(Bookmark(position=WatchPosition(database_id="d", revision=1)))
    return state


def transcription(name: str = "jobs/" + "a" * 20, *, age_seconds: int = 60, **more: object) -> Job:
    """A transcription that runs, but for `more`."""
    return Job(
        **{  # type: ignore[arg-type]
            "name": name,
            "kind": JOB_KIND_TRANSCRIPTION,
            "state": JOB_STATE_RUNNING,
            "transcription": TranscriptionSpec(),
            "create_time": Timestamp(seconds=NOW - age_seconds - 5),
            "start_time": Timestamp(seconds=NOW - age_seconds),
            "reservation": RESERVED,
            "progress": Progress(phase="recognising", fraction=0.42, real_time_factor=12.34),
            **more,
        }
    )


def waiting(name: str, *, age_seconds: int) -> Job:
    """A transcription that waits for cores."""
    job = transcription(name, age_seconds=age_seconds, state=JOB_STATE_QUEUED)
    job.waiting_for = ERROR_REASON_CPU_EXHAUSTED
    job.ClearField("progress")
    job.ClearField("start_time")
    return job


def recording(health: RecordingHealth = GOOD) -> Job:
    """A recording that runs."""
    return Job(
        name="jobs/" + "b" * 20,
        kind=JOB_KIND_RECORDING,
        state=JOB_STATE_RUNNING,
        recording=RecordingSpec(url="https://calls.example/r"),
        create_time=Timestamp(seconds=NOW - 100),
        start_time=Timestamp(seconds=NOW - 90),
        reservation=RESERVED,
        progress=Progress(phase="recording", recording=health),
    )


def call(*, phase: str = "listening") -> Job:
    """A call that is captioned."""
    return Job(
        name="jobs/" + "c" * 20,
        kind=JOB_KIND_CAPTIONS,
        state=JOB_STATE_RUNNING,
        captions=CaptionsSpec(),
        create_time=Timestamp(seconds=NOW - 100),
        start_time=Timestamp(seconds=NOW - 99),
        reservation=RESERVED,
        progress=Progress(phase=phase, real_time_factor=9.0),
    )


def message(*, lag_seconds: float, age_seconds: float = 0.0) -> WatchCaptionsResponse:
    """What a viewer of captions is told."""
    stamp = Timestamp()
    stamp.FromNanoseconds(int((NOW - age_seconds) * 1e9))
    return WatchCaptionsResponse(lag=duration(lag_seconds), publish_time=stamp)


def row(state: TopState) -> dict[str, str]:
    """The one job's cells, by their headings."""
    (line,) = state.lines()
    return dict(zip(COLUMNS, cells(line), strict=True))


def text(state: TopState, *, width: int = 160, height: int = 40) -> str:
    """A picture without colours."""
    return "\n".join(line.plain for line in frame(state, width=width, height=height))


class TestJobs:
    """A line for each job."""

    def test_transcription(self) -> None:
        """How far, how fast, how long by the daemon's clock, at what price."""
        found = row(known(transcription()))

        assert found == {
            "JOB": "a" * 20,
            "KIND": "transcription",
            "STATE": "running",
            "FOR": "1:00",
            "USED/RESERVED": "0.50 cores, 500 MB",
            "NOW": "recognising 42%, 12.3 ×",
            "PROBLEM": "",
        }

    def test_waiting(self) -> None:
        """Who waits stands behind who runs, in the order of the queue, with what is waited for."""
        state = known(
            waiting("jobs/late", age_seconds=10),
            waiting("jobs/early", age_seconds=30),
            transcription("jobs/runs", age_seconds=1),
        )
        found = [(line.name, line.queue_position, line.problem) for line in state.lines()]

        assert found == [
            ("jobs/runs", 0, ""),
            ("jobs/early", 1, "waits for cores"),
            ("jobs/late", 2, "waits for cores"),
        ]

    def test_waiting_for_something_new(self) -> None:
        """A reason that has no words here is shown by its name."""
        job = waiting("jobs/a", age_seconds=1)
        job.waiting_for = ERROR_REASON_DRAINING

        assert row(known(job))["PROBLEM"] == "waits for DRAINING"

    def test_good_recording(self) -> None:
        """Picture, changed pictures, loudness and drift; nothing to complain of."""
        found = row(known(recording()))

        assert found["NOW"] == "moving 20/s, -23 dB, drift 3 ms"
        assert found["PROBLEM"] == ""

    @pytest.mark.parametrize(
        ("changed", "now", "problem"),
        [
            (
                RecordingHealth(picture=PICTURE_STATE_BLANK, still_duration=duration(75)),
                "blank 0/s, -23 dB, drift 3 ms",
                "nothing is to be seen, for 1:15",
            ),
            (
                RecordingHealth(picture=PICTURE_STATE_STILL, audio_level_db=-120.0),
                "still 20/s, silence, drift 3 ms",
                "",
            ),
            (
                RecordingHealth(drift_ms=-120.0),
                "moving 20/s, -23 dB, drift -120 ms",
                "sound off by -120 ms",
            ),
            (
                RecordingHealth(segment=3),
                "moving 20/s, -23 dB, drift 3 ms",
                "was started again, this is piece 3",
            ),
        ],
        ids=["blank", "still", "drift", "pieces"],
    )
    def test_bad_recording(self, changed: RecordingHealth, now: str, problem: str) -> None:
        """What is wrong with a recording is said in words."""
        health = RecordingHealth()
        health.CopyFrom(GOOD)
        health.MergeFrom(changed)
        if changed.picture == PICTURE_STATE_BLANK:
            health.changed_frame_rate = 0.0
        found = row(known(recording(health)))

        assert (found["NOW"], found["PROBLEM"]) == (now, problem)

    def test_sound_alone(self) -> None:
        """A recording without a picture tells of none."""
        found = row(known(recording(RecordingHealth(audio_level_db=-30.0))))

        assert found["NOW"] == "-30 dB, drift 0 ms"

    def test_notice(self) -> None:
        """What the server noticed is shown, without what would steer a terminal."""
        job = transcription(notices=[Notice(code="WORKER_RESTARTED", message="lost\x1b[2J again")])

        assert row(known(job))["PROBLEM"] == "lost [2J again"


class TestCalls:
    """The lag of calls."""

    def test_lag(self) -> None:
        """It is shown; from 4 s on it is a problem."""
        state = known(call())
        before = row(state)["NOW"]
        state.hear("jobs/" + "c" * 20, message(lag_seconds=0.84))
        good = row(state)
        state.hear("jobs/" + "c" * 20, message(lag_seconds=6.2))
        bad = row(state)

        assert before == "listening, 9 ×"
        assert (good["NOW"], good["PROBLEM"]) == ("lag 0.8 s, 9 ×", "")
        assert (bad["NOW"], bad["PROBLEM"]) == ("lag 6.2 s, 9 ×", "captions come 6.2 s late")

    def test_old_captions_tell_no_lag(self) -> None:
        """The last captions, which a viewer is sent first, tell how it was when they were made."""
        state = known(call())

        assert not state.hear("jobs/" + "c" * 20, message(lag_seconds=3.0, age_seconds=30))
        assert state.lines()[0].lag_seconds is None
        assert state.hear("jobs/" + "c" * 20, message(lag_seconds=3.0, age_seconds=5))

    def test_degraded(self) -> None:
        """Captions that are less than asked for are a problem."""
        assert row(known(call(phase="degraded")))["PROBLEM"].startswith("captions are slower")

    def test_ended_call(self) -> None:
        """A message that comes after the end of its call changes nothing."""
        state = known(call())
        state.observe(JobDeleted(name="jobs/" + "c" * 20, revision=2))

        assert not state.hear("jobs/" + "c" * 20, message(lag_seconds=1.0))
        assert state.lines() == []
        assert state.lags == {}


class TestEnds:
    """Jobs that are over."""

    def test_history_is_not_news(self) -> None:
        """What had ended before we looked is not shown; what ends now is, with its reason."""
        failed = Job(
            name="jobs/x",
            state=JOB_STATE_FAILED,
            failure=Failure(reason=ERROR_REASON_INPUT_INVALID, message="no sound"),
        )
        state = known(failed)
        before = text(state)
        state.observe(JobChanged(job=failed, revision=2))

        assert "last ended" not in before
        assert "last ended: x failed: INPUT_INVALID, no sound" in text(state)
