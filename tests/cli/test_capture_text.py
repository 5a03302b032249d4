# SPDX-License-Identifier: Apache-2.0
"""Captures in `callsd jobs`, without a daemon."""

from typing import Any

from callsd import duration
from callsd.v1.caption_pb2 import CaptionsSpec
from callsd.v1.capture_pb2 import CapturedTrack, CaptureResult, CaptureSpec
from callsd.v1.job_pb2 import JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED, Job, JobState, Progress
from callsd.v1.kind_pb2 import JOB_KIND_CAPTURE
from callsd.v1.mattermost_pb2 import MattermostCall
from callsd_daemon.cli.jobs.text import describe, job_row, outcome


SPEC = CaptureSpec(
    mattermost_call=MattermostCall(site_url="https://mm.example", call_id="c" * 26),
    captions=CaptionsSpec(model="tiny", language="de"),
)


def capture(state: JobState.ValueType, **fields: Any) -> Job:
    """A capture in this state."""
    job = Job(name="jobs/a", kind=JOB_KIND_CAPTURE, state=state, capture=SPEC, **fields)
    job.create_time.GetCurrentTime()
    job.start_time.GetCurrentTime()
    return job


def track(number: int, speaker: str, speaker_id: str) -> CapturedTrack:
    """A minute of somebody."""
    return CapturedTrack(
        file_name=f"track-{number:03}.ogg",
        speaker=speaker,
        speaker_id=speaker_id,
        duration=duration(60),
    )


def test_running() -> None:
    """Which call, how it is captioned, and whether it has been joined."""
    job = capture(JOB_STATE_RUNNING, progress=Progress(phase="capturing"))
    text = "\n".join(describe(job))

    assert job_row(job)[1:3] == ("running", "capture")
    assert job_row(job)[4] == ""
    assert f"call:       {'c' * 26} at https://mm.example" in text
    assert "model:      tiny" in text
    assert "language:   de" in text
    assert "progress:   capturing" in text


def test_ended() -> None:
    """Whose sound there is, in which file; one person may have two of them."""
    tracks = [track(0, "Ada", "a"), track(1, "", "b"), track(2, "Ada", "a")]
    job = capture(JOB_STATE_SUCCEEDED, capture_result=CaptureResult(tracks=tracks, caption_count=1))

    assert list(outcome(job)) == [
        "result:     3:00 of sound from 2 speakers, 1 caption shown",
        "track:      track-000.ogg  Ada, 1:00",
        "track:      track-001.ogg  somebody unknown, 1:00",
        "track:      track-002.ogg  Ada, 1:00",
    ]


def test_what_others_say() -> None:
    """Names and problems do not steer the terminal."""
    result = CaptureResult(tracks=[track(0, "Ada\x1b[2J", "a")], problem="lost\x1b]0;x\x07")
    job = capture(JOB_STATE_SUCCEEDED, capture_result=result)

    assert list(outcome(job))[1:] == [
        "track:      track-000.ogg  Ada [2J, 1:00",
        "cut short:  lost ]0;x",
    ]


def test_cut_short() -> None:
    """Why it has ended before its call."""
    result = CaptureResult(problem="the connection broke")
    job = capture(JOB_STATE_SUCCEEDED, capture_result=result)

    assert list(outcome(job))[-1] == "cut short:  the connection broke"
