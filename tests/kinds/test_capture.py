# SPDX-License-Identifier: Apache-2.0
"""A capture of a call, and what a transcription takes of it."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from callsd_daemon.domain.captions import CaptionsSpec
from callsd_daemon.domain.capture import CAPTURE, CapturedTrack, CaptureResult, CaptureSpec
from callsd_daemon.domain.costs import captioner_cost
from callsd_daemon.domain.delivery import Delivery
from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import Failure, Job, State
from callsd_daemon.domain.mattermost import SiteSecrets
from callsd_daemon.domain.recording import RECORDING, RecordingResult
from callsd_daemon.domain.transcription import MAX_OFFSET_SECONDS, TRANSCRIPTION, Track
from callsd_daemon.kinds.capture import OVERTIME_SECONDS, Capture
from callsd_daemon.kinds.transcription import Transcription, TranscriptionAssignment, resolved
from callsd_daemon.models.store import ModelStore
from callsd_ipc.names import ARTIFACTS
from callsd_transcript.formats import UNKNOWN_SPEAKER
from tests.helpers import models
from tests.helpers.jobs import CALL, NOW, SPEC, make_job
from tests.helpers.kinds import BOUNDS, KINDS


MUTE = CaptureSpec(call=CALL)
CAPTIONED = CaptureSpec(call=CALL, captions=CaptionsSpec(model=models.NAME))
JOB = make_job(id="capture", kind=CAPTURE, state=State.RUNNING, max_duration_seconds=600.0)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """With one model."""
    models.install(tmp_path / "models")
    return ModelStore(tmp_path / "models")


@pytest.fixture
def kind(store: ModelStore) -> Capture:
    """The kind, with that model for captions."""
    known = KINDS[CAPTURE]
    assert isinstance(known, Capture)
    return replace(known, captions=replace(known.captions, models=store), min_free_bytes=7)


class TestCapture:
    """The kind."""

    def test_check(self, kind: Capture) -> None:
        """Of a capture that shows captions the model must be there; of another nothing must."""
        assert kind.check(MUTE, "somebody") == ()
        assert kind.check(CAPTIONED, "somebody") == ()
        missing = replace(CAPTIONED, captions=CaptionsSpec(model="base"))
        with pytest.raises(CallsdError) as refusal:
            kind.check(missing, "somebody")
        assert refusal.value.reason is Reason.MODEL_MISSING

    def test_cost(self, kind: Capture) -> None:
        """Captions add what they take by themselves; longer captures take more of the disk."""
        assert CAPTIONED.captions is not None
        captions = kind.captions.cost(CAPTIONED.captions, 600.0, ())
        mute = kind.cost(MUTE, 600.0, ())
        assert kind.cost(CAPTIONED, 600.0, ()) == captions + mute
        longer = kind.cost(MUTE, 1200.0, ())
        assert longer.disk_bytes > mute.disk_bytes
        assert replace(longer, disk_bytes=mute.disk_bytes) == mute

    def test_cost_key(self, kind: Capture) -> None:
        """Captures are alike when their captions are."""
        other = replace(CAPTIONED, captions=CaptionsSpec(model="base"))
        assert len({kind.cost_key(spec) for spec in (MUTE, CAPTIONED, other)}) == 3
        elsewhere = replace(CAPTIONED, call=replace(CALL, call_id="d" * 26))
        assert kind.cost_key(CAPTIONED) == kind.cost_key(elsewhere)

    def test_shared_worker(self, kind: Capture) -> None:
        """It is the captioner that captions jobs with the same model have, too."""
        assert kind.shared_worker(MUTE) is None
        assert CAPTIONED.captions is not None
        shared = kind.shared_worker(CAPTIONED)
        assert shared == kind.captions.shared_worker(CAPTIONED.captions)
        assert shared is not None
        assert shared.reservation == captioner_cost(models.NAME)

    def test_time(self, kind: Capture) -> None:
        """It may take its time, that of joining, and that of making the files."""
        assert kind.longest_seconds(JOB, MUTE) == 600.0 + OVERTIME_SECONDS
        assert kind.salvage_seconds == BOUNDS.stop_grace_seconds

    def test_is_told_by_its_delivery(self, kind: Capture) -> None:
        """The plugin is told of it from the beginning."""
        assert kind.delivery(MUTE) == Delivery(call=CALL)

    @pytest.mark.parametrize(
        ("delivery", "is_at_end"),
        [
            (None, False),
            (Delivery(call=CALL), False),
            (Delivery(call=CALL, is_start_told=True), True),
        ],
        ids=["untold of", "not told", "told"],
    )
    def test_lost_worker(
        self, kind: Capture, delivery: Delivery | None, *, is_at_end: bool
    ) -> None:
        """Another one joins only while the plugin has not been told that this one has."""
        assert kind.is_at_end(replace(JOB, delivery=delivery), 1.0) is is_at_end

    @pytest.mark.parametrize(
        ("site_url", "certificates"),
        [("https://mm.example", b"PEM"), ("http://mm.example", b"")],
    )
    def test_assignment(
        self, kind: Capture, tmp_path: Path, site_url: str, certificates: bytes
    ) -> None:
        """The worker gets the token, its limits, and whom to trust; it reads no files."""
        (tmp_path / "ca.pem").write_bytes(b"PEM")
        trusting = replace(kind, ca_file=str(tmp_path / "ca.pem"))
        spec = replace(MUTE, call=replace(CALL, site_url=site_url))
        found = trusting.assignment(JOB, spec, SiteSecrets(token="secret"), {})

        assert (found.spec, found.secrets.token) == (spec, "secret")
        assert (found.max_seconds, found.min_free_bytes) == (600.0, 7)
        assert found.certificates == certificates
        assert found.files == {}

    def test_certificates_are_gone(self, kind: Capture, tmp_path: Path) -> None:
        """A file of certificates that cannot be read is named."""
        trusting = replace(kind, ca_file=str(tmp_path / "ca.pem"))
        with pytest.raises(CallsdError, match=r"gateway.ca_file: .*/ca.pem cannot be read") as told:
            trusting.assignment(JOB, MUTE, SiteSecrets(token="secret"), {})
        assert told.value.reason is Reason.CAPTURE_UNAVAILABLE


STANDING = Track(speaker="Call", capture="capture", recording="recording", language="de")
"""What stands for all tracks of a call."""


def heard(name: str, seconds: float, speaker: str = "Ada") -> CapturedTrack:
    """A track that begins so long after noon."""
    return CapturedTrack(
        file_name=f"{name}.ogg",
        speaker=speaker,
        speaker_id=f"id of {name}",
        start_time=NOW + timedelta(seconds=seconds),
        duration_seconds=1.0,
    )


ENDED = replace(JOB, state=State.SUCCEEDED)


def captured(result: CaptureResult | None, **changes: object) -> dict[str, Job]:
    """The capture as it has ended."""
    results = {} if result is None else {CAPTURE: result}
    return {"capture": replace(ENDED, results=results, **changes)}  # type: ignore[arg-type]


def recorded(start_seconds: float | None) -> dict[str, Job]:
    """The recording as it has ended, whose file begins so long after noon."""
    start = None if start_seconds is None else NOW + timedelta(seconds=start_seconds)
    result = RecordingResult(duration_seconds=9.0, start_time=start)
    return {"recording": make_job(id="recording", kind=RECORDING, results={RECORDING: result})}


def offsets(after: dict[str, Job]) -> list[float]:
    """Where the tracks begin."""
    return [track.start_offset_seconds for track in resolved(STANDING, after)]


TWO = CaptureResult(tracks=(heard("one", 10.0), heard("two", 8.5, "")))
FAILED = Failure(reason=Reason.CALL_UNAVAILABLE, message="nobody was there")


class TestTracks:
    """What stands for a call becomes its tracks."""

    def test_each_with_its_speaker(self) -> None:
        """Each track names its file and its speaker; the rest is as it was asked for."""
        one, two = resolved(STANDING, captured(TWO))
        assert one == replace(
            STANDING,
            speaker="Ada",
            speaker_id="id of one",
            path="one.ogg",
            start_offset_seconds=1.5,
        )
        assert (two.speaker, two.speaker_id) == (UNKNOWN_SPEAKER, "id of two")

    def test_from_the_start_of_the_film(self) -> None:
        """They are in step with the recording's file; what was said before is before it."""
        server = replace(TWO, recording_start_time=NOW)
        assert offsets(captured(server) | recorded(9.0)) == [1.0, -0.5]

    @pytest.mark.parametrize("recording", [{}, recorded(None)], ids=["gone", "untimed"])
    def test_from_what_the_server_told(self, recording: dict[str, Job]) -> None:
        """Without a time of the file, the server's time of the recording counts."""
        server = replace(TWO, recording_start_time=NOW + timedelta(seconds=5))
        assert offsets(captured(server) | recording) == [5.0, 3.5]

    def test_from_the_recording_without_a_result(self) -> None:
        """A recording that has failed has no time."""
        failed = make_job(id="recording", kind=RECORDING, state=State.FAILED, failure=FAILED)
        assert offsets(captured(TWO) | {"recording": failed}) == [1.5, 0.0]

    def test_from_the_first_sound(self) -> None:
        """Without both, the transcript begins with what was heard first."""
        assert offsets(captured(TWO)) == [1.5, 0.0]

    def test_absurdly_far(self) -> None:
        """A worker's clock, or a server's, moves no track further than a client may."""
        far = 400 * 86400.0
        found = captured(CaptureResult(tracks=(heard("one", -far), heard("two", far))))
        assert offsets(found | recorded(0.0)) == [-MAX_OFFSET_SECONDS, MAX_OFFSET_SECONDS]

    def test_nobody_has_spoken(self) -> None:
        """A call that was heard to its end, and is silent, has no tracks."""
        assert list(resolved(STANDING, captured(CaptureResult()) | recorded(0.0))) == []

    @pytest.mark.parametrize(
        "capture",
        [
            {},
            captured(None, state=State.FAILED, failure=FAILED),
            captured(None, state=State.CANCELLED),
            captured(CaptureResult(problem="the connection was lost")),
            captured(CaptureResult(), state=State.FAILED, failure=FAILED),
            captured(CaptureResult(), state=State.CANCELLED),
        ],
        ids=[
            "gone",
            "failed",
            "stopped",
            "cut short",
            "failed with a result",
            "stopped with a result",
        ],
    )
    def test_nothing_was_heard(self, capture: dict[str, Job]) -> None:
        """The recording's sound stands for a call of which nothing was captured, or fails."""
        whole = replace(STANDING, capture="")
        assert list(resolved(STANDING, capture | recorded(0.0))) == [whole]

        alone = replace(STANDING, recording="")
        with pytest.raises(CallsdError, match="the job capture has captured nothing") as told:
            list(resolved(alone, capture | recorded(0.0)))
        assert told.value.reason is Reason.MEDIA_NOT_FOUND

    def test_cut_short(self) -> None:
        """What was captured before it was cut short is transcribed."""
        assert len(offsets(captured(replace(TWO, problem="killed")) | recorded(0.0))) == 2


class TestTranscription:
    """The kind of the job that follows a capture."""

    @pytest.fixture
    def transcription(self, store: ModelStore, tmp_path: Path) -> Transcription:
        """The kind, with that model."""
        known = KINDS[TRANSCRIPTION]
        assert isinstance(known, Transcription)
        return replace(known, models=store, jobs_directory=tmp_path / "jobs")

    SPEC = replace(SPEC, tracks=(STANDING,), model=models.NAME, call=CALL)

    def test_begins_after_both(self, transcription: Transcription) -> None:
        """It waits for the recording and for the capture, each once."""
        assert transcription.begins_after(self.SPEC) == ("recording", "capture")
        twice = replace(self.SPEC, tracks=(STANDING, replace(STANDING, capture="")))
        assert transcription.begins_after(twice) == ("recording", "capture")

    def test_start_is_told_by_the_capture(self, transcription: Transcription) -> None:
        """The plugin is told once that its job has begun: by the capture, if there is one."""
        assert transcription.delivery(self.SPEC) == Delivery(call=CALL, is_start_told=True)
        plain = replace(self.SPEC, tracks=(replace(STANDING, capture=""),))
        assert transcription.delivery(plain) == Delivery(call=CALL)
        assert transcription.delivery(replace(self.SPEC, call=None)) is None

    def read(self, assignment: TranscriptionAssignment) -> list[bytes]:
        """What the worker reads of its media."""
        found = []
        for number in range(len(assignment.media)):
            with open(assignment.files[f"media/{number}"](), "rb") as file:  # noqa: PTH123 - a descriptor
                found.append(file.read())
        return found

    def test_reads_the_capture(self, transcription: Transcription, tmp_path: Path) -> None:
        """The worker is handed the captured files, in the order of its tracks, and no others."""
        directory = tmp_path / "jobs" / "capture" / ARTIFACTS
        directory.mkdir(parents=True)
        for name in ("one", "two"):
            (directory / f"{name}.ogg").write_text(name)
        job = make_job(spec=self.SPEC)
        found = transcription.assignment(job, self.SPEC, SiteSecrets(), captured(TWO))

        assert [track.path for track in found.spec.tracks] == ["one.ogg", "two.ogg"]
        assert self.read(found) == [b"one", b"two"]
        assert not found.spec.webvtt_omit_speaker
        assert {name.partition("/")[0] for name in found.files} == {"media", "model"}

    def test_reads_the_recording(self, transcription: Transcription, tmp_path: Path) -> None:
        """Where nothing was captured it is handed the recording, in which nobody is known."""
        directory = tmp_path / "jobs" / "recording" / ARTIFACTS
        directory.mkdir(parents=True)
        (directory / "recording.mp4").write_text("film")
        job = make_job(spec=self.SPEC)
        found = transcription.assignment(job, self.SPEC, SiteSecrets(), recorded(0.0))

        assert self.read(found) == [b"film"]
        assert found.spec.webvtt_omit_speaker

    def test_of_silence(self, transcription: Transcription) -> None:
        """Of a silent call there is nothing to read."""
        job = make_job(spec=self.SPEC)
        found = transcription.assignment(job, self.SPEC, SiteSecrets(), captured(CaptureResult()))

        assert (found.spec.tracks, found.media) == ((), ())
