# SPDX-License-Identifier: Apache-2.0
"""What people read of recordings: without a daemon."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from callsd import duration
from callsd.v1.error_pb2 import ERROR_REASON_PAGE_UNAVAILABLE
from callsd.v1.job_pb2 import (
    JOB_STATE_FAILED,
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    Artifact,
    Failure,
    Job,
    Notice,
    Progress,
)
from callsd.v1.kind_pb2 import JOB_KIND_RECORDING
from callsd.v1.recording_pb2 import (
    PICTURE_STATE_BLANK,
    PICTURE_STATE_MOVING,
    PICTURE_STATE_STILL,
    RECORDING_PROFILE_HIGH,
    RecordingHealth,
    RecordingResult,
    RecordingSpec,
)
from callsd_daemon.cli.jobs.display import _detail
from callsd_daemon.cli.jobs.text import (
    describe,
    is_live,
    job_row,
    outcome,
    progress,
    recording_health,
)
from tests.cli.conftest import Command


SPEC = RecordingSpec(
    url="https://calls.example/r",
    headers={"X-Token": ""},
    profile=RECORDING_PROFILE_HIGH,
    width=1920,
    height=1080,
    frame_rate=20,
    video_kbps=2500,
    audio_kbps=64,
)
GOOD = RecordingHealth(
    frame_count=500,
    changed_frame_rate=19.6,
    audio_level_db=-23.4,
    picture=PICTURE_STATE_MOVING,
    size_bytes=12_300_000,
    segment=1,
)
RESULT = RecordingResult(
    duration=duration(3723),
    width=1920,
    height=1080,
    frame_rate=20,
    size_bytes=1_200_000_000,
    segment_count=1,
)


def recorded(**fields: object) -> Job:
    """A recording that has begun, and what else is to be said of it."""
    return Job(
        name="jobs/abc",
        kind=JOB_KIND_RECORDING,
        creator="owner",
        **{  # type: ignore[arg-type]
            "recording": SPEC,
            "state": JOB_STATE_RUNNING,
            "start_time": Timestamp(seconds=1000),
            **fields,
        },
    )


def health(**changes: object) -> list[str]:
    """How a good recording is described that differs by `changes`."""
    message = RecordingHealth()
    message.CopyFrom(GOOD)
    message.MergeFrom(RecordingHealth(**changes))  # type: ignore[arg-type]
    return list(recording_health(message))


class TestHealth:
    """How a recording is, in a few words."""

    def test_all_is_well(self) -> None:
        """Nothing is said but what moves, how loud it is, and how much there is."""
        assert health() == ["20 changes/s", "-23 dB", "12.3 MB"]

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            (
                {"picture": PICTURE_STATE_STILL, "still_duration": duration(75)},
                "picture still for 1:15",
            ),
            ({"picture": PICTURE_STATE_BLANK}, "picture blank: nothing is to be seen"),
            ({"audio_level_db": -120.0}, "silence"),
            ({"audio_level_db": -100.5}, "silence"),
            ({"audio_level_db": -99.5}, "-100 dB"),
            ({"segment": 3}, "piece 3"),
            ({"drift_ms": 40.1}, "sound off by 40 ms"),
            ({"drift_ms": -55.0}, "sound off by -55 ms"),
        ],
        ids=[
            "still",
            "blank",
            "silence",
            "nearly silence",
            "nearly inaudible",
            "pieces",
            "ahead",
            "behind",
        ],
    )
    def test_worth_telling(self, changes: dict[str, object], words: str) -> None:
        """What people should look at is told."""
        assert words in health(**changes)
        assert words not in health()

    @pytest.mark.parametrize("drift_ms", [40.0, -40.0, 0.0])
    def test_not_worth_telling(self, drift_ms: float) -> None:
        """What nobody can see or hear is not told."""
        assert health(drift_ms=drift_ms) == health()

    def test_sound_alone(self) -> None:
        """Without a picture nothing is said of one."""
        sound = RecordingHealth(audio_level_db=-30.0, size_bytes=1000, segment=1)

        assert list(recording_health(sound)) == ["-30 dB", "1 kB"]


class TestProgress:
    """How far it is: as long as it has gone on."""

    def test_before_it_begins(self) -> None:
        """What has not started has no progress."""
        assert progress(Job(recording=SPEC)) == ""

    def test_live(self) -> None:
        """While it goes on, the time that was recorded; a part of all would mean nothing."""
        job = recorded(progress=Progress(fraction=0.0, processed=duration(62)))

        assert (progress(job), is_live(job)) == ("1:02", True)

    def test_ended(self) -> None:
        """At the end, the length of the file."""
        job = recorded(progress=Progress(processed=duration(62)), recording_result=RESULT)

        assert progress(job) == "1:02:03"

    def test_in_the_live_display(self) -> None:
        """The line of a job that goes on tells how the recording is."""
        job = recorded(progress=Progress(phase="recording", recording=GOOD))

        assert _detail(job).endswith("20 changes/s, -23 dB, 12.3 MB")


class TestJob:
    """Lists and descriptions."""

    def test_row(self) -> None:
        """One line: kind, length, and why it failed."""
        job = recorded(
            state=JOB_STATE_FAILED,
            failure=Failure(reason=ERROR_REASON_PAGE_UNAVAILABLE),
            labels={"call": "one"},
            create_time=Timestamp(seconds=1000),
            progress=Progress(processed=duration(5)),
        )

        row = job_row(job)

        assert row[:3] == ("abc", "failed", "recording")
        assert row[4:] == ("5.0 s", "", "PAGE_UNAVAILABLE call=one")

    def test_description(self) -> None:
        """The page, the quality and how it is now; no header, no fragment."""
        lines = list(describe(recorded(progress=Progress(phase="recording", recording=GOOD))))

        assert "kind:       recording" in lines
        assert "page:       https://calls.example/r" in lines
        assert "quality:    high: 1920×1080, 20 pictures/s, 2500 + 64 kbit/s" in lines
        assert "now:        20 changes/s, -23 dB, 12.3 MB" in lines
        assert not any("X-Token" in line for line in lines)

    def test_sound_alone(self) -> None:
        """A recording without a picture has the quality of its sound."""
        spec = RecordingSpec(url="https://a/", audio_only=True, audio_kbps=96)

        assert "quality:    sound alone, 96 kbit/s" in list(describe(recorded(recording=spec)))

    def test_other_kinds(self) -> None:
        """Other jobs have neither page nor quality."""
        names = {line.partition(":")[0] for line in describe(Job(name="jobs/abc"))}

        assert names.isdisjoint({"page", "quality", "now"})


class TestOutcome:
    """What there is in the end."""

    def test_recorded(self) -> None:
        """Length, picture, size, and the file."""
        job = recorded(
            state=JOB_STATE_SUCCEEDED,
            recording_result=RESULT,
            artifacts=[Artifact(name="jobs/abc/artifacts/recording.mp4", size_bytes=1_200_000_000)],
        )

        assert list(outcome(job)) == [
            "result:     1:02:03 recorded, 1920×1080, 1.2 GB",
            "file:       recording.mp4  1.2 GB",
        ]

    def test_cut_short(self) -> None:
        """That it ended otherwise than it should have, and how."""
        result = RecordingResult(
            duration=duration(9), width=1280, height=720, size_bytes=2000, cut_short=True
        )
        job = recorded(recording_result=result, notices=[Notice(code="A", message="the disk")])

        assert list(outcome(job)) == [
            "result:     9.0 s recorded, 1280×720, 2 kB, cut short",
            "notice:     the disk [A]",
        ]

    def test_sound_alone(self) -> None:
        """A recording without a picture says so."""
        result = RecordingResult(duration=duration(42), size_bytes=300_000)

        assert list(outcome(recorded(recording_result=result))) == [
            "result:     42 s recorded, sound alone, 300 kB"
        ]


def test_help(callsd: Command) -> None:
    """The command says what Ctrl-C does, and what it leaves."""
    text = " ".join(callsd("record", "--help").stdout.split())

    assert "Ctrl-C ends the recording and keeps it." in text
