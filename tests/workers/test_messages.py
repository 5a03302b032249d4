# SPDX-License-Identifier: Apache-2.0
"""What workers are told, and what their reports are taken for."""

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from callsd_daemon.domain.captions import CaptionsSpec
from callsd_daemon.domain.capture import CAPTURE, CapturedTrack, CaptureResult, CaptureSpec
from callsd_daemon.domain.errors import Reason
from callsd_daemon.domain.jobs import Artifact, Failure, Notice, Outcome, Progress, Usage
from callsd_daemon.domain.mattermost import MattermostCall, SiteSecrets
from callsd_daemon.domain.recording import (
    PROFILES,
    RECORDING,
    PageSecrets,
    Picture,
    Profile,
    Quality,
    RecordingHealth,
    RecordingResult,
    RecordingSpec,
)
from callsd_daemon.domain.transcription import (
    TRANSCRIPTION,
    Engine,
    Track,
    TranscriptionResult,
    TranscriptionSpec,
)
from callsd_daemon.kinds import ModelFile, Role
from callsd_daemon.kinds.capture import CaptureAssignment
from callsd_daemon.kinds.recording import RecordingAssignment
from callsd_daemon.kinds.transcription import TranscriptionAssignment
from callsd_daemon.workers.session import messages
from callsd_daemon.workers.slot import Endpoint
from callsd_ipc.names import MAX_OUTCOME_BYTES, OUTCOME
from callsd_ipc.v1 import worker_pb2
from callsd_transcript.formats import Compaction
from tests.helpers.jobs import SPEC


NAN, INFINITY = float("nan"), float("inf")
URL = "https://calls.example/recording?call=1"
LOST = Failure(reason=Reason.WORKER_KILLED, message="the worker was killed by SIGKILL")


def page(*, fragment: str = "", headers: dict[str, str] | None = None) -> RecordingAssignment:
    """A page to record, with these secrets."""
    return RecordingAssignment(
        spec=RecordingSpec(url=URL, profile=Profile.LOW, quality=PROFILES[Profile.LOW]),
        secrets=PageSecrets(url_fragment=fragment, headers=headers or {}),
        max_seconds=60.0,
        min_free_bytes=0,
    )


def assigned(spec: TranscriptionSpec) -> TranscriptionAssignment:
    """A transcription without files."""
    return TranscriptionAssignment(spec=spec, media=(), model_files=(), threads=1)


class TestBootstrap:
    """What a worker reads before anything else."""

    @pytest.mark.parametrize("salvage", [None, LOST])
    def test_every_field_arrives(self, salvage: Failure | None) -> None:
        """A worker learns whose it is, and, for salvage alone, why there is something to save."""
        read = worker_pb2.Bootstrap.FromString(
            messages.bootstrap(
                name="job",
                role=Role.RECORDER,
                generation=2,
                token="secret",
                endpoint=Endpoint(
                    address="unix:/run/door.sock", tls_roots=b"PEM", file_socket="/run/files.sock"
                ),
                salvage=salvage,
            )
        )

        assert (read.job_id, read.generation, read.token) == ("job", 2, "secret")
        assert (read.endpoint, read.tls_roots) == ("unix:/run/door.sock", b"PEM")
        assert read.file_socket == "/run/files.sock"
        assert read.role == worker_pb2.ROLE_RECORDER
        assert read.HasField("salvage") is (salvage is not None)
        if salvage is not None:
            assert read.salvage == worker_pb2.Salvage(
                reason="WORKER_KILLED", message=salvage.message
            )

    def test_roles(self) -> None:
        """Each kind of worker is told which one it is."""
        said = [
            worker_pb2.Bootstrap.FromString(
                messages.bootstrap(
                    name="a",
                    role=role,
                    generation=1,
                    token="secret",
                    endpoint=Endpoint(address="unix:/run/door.sock"),
                )
            ).role
            for role in Role
        ]

        assert sorted(said) == sorted(set(worker_pb2.Role.values()) - {worker_pb2.ROLE_UNSPECIFIED})


class TestAssignments:
    """The work, as the worker is told it."""

    def test_recording(self) -> None:
        """Everything that was asked for reaches the worker, secrets too."""
        slot = RecordingAssignment(
            spec=RecordingSpec(
                url=URL,
                profile=Profile.HIGH,
                quality=Quality(
                    width=1920, height=1080, frame_rate=25, video_kbps=3000, audio_kbps=96
                ),
                header_names=("X-Token",),
                header_origins=("https://api.example",),
                audio_only=True,
                ready_expression="window.ready",
                over_expression="window.over",
                leave_expression="leave()",
                ready_timeout_seconds=7.5,
            ),
            secrets=PageSecrets(url_fragment="token=1&a#b", headers={"X-Token": "secret"}),
            max_seconds=90.0,
            min_free_bytes=2**30,
            patience_seconds=12.0,
            begun_expression="window.begun",
            open_delay_seconds=4.0,
            certificates=b"PEM",
        )

        told = messages.assignment(slot)

        assert told == worker_pb2.Assignment(
            recording=worker_pb2.RecordingWork(
                url=f"{URL}#token=1&a#b",
                headers={"X-Token": "secret"},
                header_origins=["https://api.example"],
                width=1920,
                height=1080,
                frame_rate=25,
                video_kbps=3000,
                audio_kbps=96,
                audio_only=True,
                ready_expression="window.ready",
                over_expression="window.over",
                leave_expression="leave()",
                ready_timeout_seconds=7.5,
                min_free_bytes=2**30,
                max_seconds=90.0,
                secrets=["token=1&a#b", "secret"],
                patience_seconds=12.0,
                begun_expression="window.begun",
                open_delay_seconds=4.0,
                certificates=b"PEM",
            )
        )
        unset = {field.name for field in worker_pb2.RecordingWork.DESCRIPTOR.fields} - {
            field.name for field, _ in told.recording.ListFields()
        }
        assert unset == set()

    @pytest.mark.parametrize(("fragment", "url"), [("", URL), ("x", f"{URL}#x")])
    def test_address(self, fragment: str, url: str) -> None:
        """An address gets its fragment back, and no sign of one that it never had."""
        assert messages.assignment(page(fragment=fragment)).recording.url == url

    def test_transcription(self) -> None:
        """A transcription is told its tracks and its model, and no path of the daemon's disk.

        Its files it asks for by names, which stand for these files and no other ones.
        """

        def open_media() -> int:
            return 1

        def open_model() -> int:
            return 2

        model = ModelFile(path="ct2/model.bin", size_bytes=7, sha256="a" * 64, open=open_model)
        slot = TranscriptionAssignment(
            spec=SPEC, media=(open_media,), model_files=(model,), threads=3
        )

        told = messages.assignment(slot)

        work = told.transcription
        assert [track.speaker for track in work.tracks] == ["Maya"]
        assert (work.model_name, work.threads) == ("base", 3)
        assert list(work.model_files) == [
            worker_pb2.FilePin(path="ct2/model.bin", size_bytes=7, sha256="a" * 64)
        ]
        assert not told.HasField("recording")
        assert slot.files == {"media/0": open_media, "model/ct2/model.bin": open_model}
        assert SPEC.tracks[0].path not in str(told)

    @pytest.mark.parametrize(
        "rule", [None, Compaction(), Compaction(silence_seconds=0, max_seconds=0)], ids=repr
    )
    def test_files_of_a_transcription(self, rule: Compaction | None) -> None:
        """How its files are written is told; two limits of 0 are not the same as none."""
        spec = replace(SPEC, text_compaction=rule, webvtt_omit_speaker=True)

        work = messages.assignment(assigned(spec)).transcription

        assert work.webvtt_omit_speaker
        assert work.HasField("text_compaction") is (rule is not None)
        if rule is not None:
            told = work.text_compaction
            assert (told.silence_seconds, told.max_seconds) == (
                rule.silence_seconds,
                rule.max_seconds,
            )

    def test_names_of_a_call_of_mattermost(self) -> None:
        """Only the files that are posted there have its form of names."""
        call = MattermostCall(site_url="https://mm.example", call_id="c", post_id="p", job_id="j")

        posted = messages.assignment(assigned(replace(SPEC, call=call))).transcription
        kept = messages.assignment(assigned(SPEC)).transcription

        assert (posted.mattermost_names, kept.mattermost_names) == (True, False)

    def test_speakers(self) -> None:
        """Which tracks are of one speaker is told."""
        tracks = (
            Track(speaker="Maya", path="/calls/1.ogg", speaker_id="u1"),
            Track(speaker="Joe", path="/calls/2.ogg"),
            Track(speaker="Maya", path="/calls/3.ogg", speaker_id="u1", start_offset_seconds=60),
        )

        work = messages.assignment(assigned(replace(SPEC, tracks=tracks))).transcription

        assert [track.speaker_id for track in work.tracks] == ["u1", "", "u1"]

    def test_a_recording_reads_nothing(self) -> None:
        """A recorder may read no file of the daemon's."""
        assert page().files == {}

    @pytest.mark.parametrize("captions", [None, CaptionsSpec(model="base")], ids=repr)
    def test_capture(self, captions: CaptionsSpec | None) -> None:
        """Everything that a call is captured by reaches the worker; the captioner is ours."""
        call = MattermostCall(site_url="https://mm.example", call_id="c", post_id="p", job_id="j")
        slot = CaptureAssignment(
            spec=CaptureSpec(call=call, captions=captions),
            secrets=SiteSecrets(token="the-token"),
            max_seconds=90.0,
            min_free_bytes=2**40,
            certificates=b"PEM",
        )

        told = messages.assignment(slot)

        assert told == worker_pb2.Assignment(
            capture=worker_pb2.CaptureWork(
                site_url="https://mm.example",
                call_id="c",
                job_id="j",
                token="the-token",
                certificates=b"PEM",
                captions=captions is not None,
                max_seconds=90.0,
                min_free_bytes=2**40,
            )
        )
        assert slot.files == {}
        assert "the-token" not in repr(slot)
        unset = {field.name for field in worker_pb2.CaptureWork.DESCRIPTOR.fields} - {
            field.name for field, _ in told.capture.ListFields()
        }
        assert unset == (set() if captions else {"captions"})


class TestProgress:
    """How far a worker says that it is."""

    def test_recording(self) -> None:
        """The health of a recording is taken over, figure by figure."""
        status = worker_pb2.Status(
            phase="recording",
            processed_seconds=12.5,
            recording=worker_pb2.RecordingStatus(
                frame_count=250,
                changed_frame_rate=19.5,
                audio_level_db=-30.0,
                picture="still",
                drift_ms=-12.0,
                size_bytes=1000,
                disk_free_bytes=2**40,
                segment=2,
                still_seconds=11.0,
            ),
        )

        assert messages.progress(status) == Progress(
            phase="recording",
            processed_seconds=12.5,
            recording=RecordingHealth(
                frame_count=250,
                changed_frame_rate=19.5,
                audio_level_db=-30.0,
                picture=Picture.STILL,
                still_seconds=11.0,
                drift_ms=-12.0,
                size_bytes=1000,
                disk_free_bytes=2**40,
                segment=2,
            ),
        )

    def test_other_work(self) -> None:
        """Work that records nothing has no such health."""
        assert messages.progress(worker_pb2.Status(phase="loading")) == Progress(phase="loading")

    @pytest.mark.parametrize("picture", ["", "MOVING", "upside down"])
    def test_unknown_picture(self, picture: str) -> None:
        """What we have no word for is not known: workers may be newer or older than we are."""
        status = worker_pb2.Status(recording=worker_pb2.RecordingStatus(picture=picture))

        assert messages.progress(status).recording == RecordingHealth()

    def test_too_much_is_cut(self) -> None:
        """No word of a worker's is longer, and no figure larger, than what a job can keep."""
        status = worker_pb2.Status(
            phase="p" * 1000, fraction=7.0, processed_seconds=1e300, total_seconds=-1e300
        )

        assert messages.progress(status) == Progress(
            phase="p" * 64,
            fraction=1.0,
            processed_seconds=messages.MAX_NUMBER,
            total_seconds=0.0,
        )

    @pytest.mark.parametrize("figure", [NAN, INFINITY, -INFINITY])
    def test_nonsense_counts_as_nothing(self, figure: float) -> None:
        """Broken figures never make a job that cannot be stored."""
        status = worker_pb2.Status(
            recording=worker_pb2.RecordingStatus(
                changed_frame_rate=figure,
                audio_level_db=figure,
                drift_ms=figure,
                still_seconds=figure,
            )
        )

        assert messages.progress(status).recording == RecordingHealth()


class TestOutcomes:
    """What a worker leaves at its end."""

    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        """The job's directory."""
        return tmp_path

    def left(self, directory: Path, message: worker_pb2.Outcome) -> Outcome | None:
        """What the daemon reads of an outcome."""
        message.generation = 1
        (directory / OUTCOME).write_bytes(message.SerializeToString())
        return messages.read_outcome(directory, 1)

    def test_recording(self, directory: Path) -> None:
        """A recording's outcome tells what was recorded, its file, and how it ended."""
        read = self.left(
            directory,
            worker_pb2.Outcome(
                artifacts=[
                    worker_pb2.ArtifactFile(
                        file_name="recording.mp4",
                        media_type="video/mp4",
                        size_bytes=1000,
                        sha256="a" * 64,
                    )
                ],
                notices=[worker_pb2.OutcomeNotice(code="SALVAGED", message="it was saved")],
                recording=worker_pb2.RecordingOutcome(
                    duration_seconds=61.5,
                    width=1280,
                    height=720,
                    frame_rate=20.0,
                    size_bytes=1000,
                    segment_count=2,
                    gap_seconds=1.5,
                    cut_short=True,
                    start_ms=1_767_225_600_250,
                ),
                cpu_seconds=30.0,
                wall_seconds=60.0,
            ),
        )

        assert read == Outcome(
            artifacts=(
                Artifact(
                    file_name="recording.mp4",
                    media_type="video/mp4",
                    size_bytes=1000,
                    sha256="a" * 64,
                ),
            ),
            notices=(Notice(code="SALVAGED", message="it was saved"),),
            results={
                RECORDING: RecordingResult(
                    duration_seconds=61.5,
                    width=1280,
                    height=720,
                    frame_rate=20.0,
                    size_bytes=1000,
                    segment_count=2,
                    gap_seconds=1.5,
                    is_cut_short=True,
                    start_time=datetime(2026, 1, 1, 0, 0, 0, 250_000, UTC),
                )
            },
            usage=Usage(cpu_seconds=30.0, wall_seconds=60.0),
        )

    def test_nonsense_counts_as_nothing(self, directory: Path) -> None:
        """Broken figures of a result are none."""
        read = self.left(
            directory,
            worker_pb2.Outcome(
                recording=worker_pb2.RecordingOutcome(
                    duration_seconds=NAN, frame_rate=INFINITY, gap_seconds=-INFINITY
                )
            ),
        )

        assert read == Outcome(results={RECORDING: RecordingResult()})

    def test_failed_recording(self, directory: Path) -> None:
        """A failure keeps its reason; a reason that we do not know is a bug of ours."""
        for name, reason in (
            ("PAGE_UNAVAILABLE", Reason.PAGE_UNAVAILABLE),
            ("CAPTURE_UNAVAILABLE", Reason.CAPTURE_UNAVAILABLE),
            ("RECORDING_LOST", Reason.RECORDING_LOST),
            ("PAGE_ON_FIRE", Reason.INTERNAL),
        ):
            read = self.left(
                directory, worker_pb2.Outcome(failure_reason=name, failure_message="so it is")
            )

            assert read == Outcome(failure=Failure(reason=reason, message="so it is"))

    def captured(
        self, directory: Path, *tracks: worker_pb2.CapturedTrack, **result: Any
    ) -> CaptureResult:
        """What is read of a capture that has left the files `a.ogg` and `b.ogg`."""
        read = self.left(
            directory,
            worker_pb2.Outcome(
                artifacts=[worker_pb2.ArtifactFile(file_name=name) for name in ("a.ogg", "b.ogg")],
                capture=worker_pb2.CaptureOutcome(tracks=tracks, **result),
            ),
        )
        assert read is not None
        found = read.results[CAPTURE]
        assert isinstance(found, CaptureResult)
        return found

    def test_capture(self, directory: Path) -> None:
        """A capture's outcome tells whose the files are, and when each of them begins."""
        found = self.captured(
            directory,
            worker_pb2.CapturedTrack(
                file_name="a.ogg",
                speaker="Ada",
                speaker_id="u1",
                start_ms=1_700_000_000_250,
                duration_seconds=61.5,
            ),
            recording_start_ms=1_700_000_000_000,
            caption_count=7,
            problem="the connection broke",
        )

        start = datetime.fromtimestamp(1_700_000_000, UTC)
        assert found == CaptureResult(
            tracks=(
                CapturedTrack(
                    file_name="a.ogg",
                    speaker="Ada",
                    speaker_id="u1",
                    start_time=start.replace(microsecond=250_000),
                    duration_seconds=61.5,
                ),
            ),
            recording_start_time=start,
            caption_count=7,
            problem="the connection broke",
        )

    @pytest.mark.parametrize(
        ("told", "kept"),
        [
            ("Ada\x1b]0;hers\x07", "Ada ]0;hers"),
            ("Ada\r\n00:01 --> 00:02", "Ada  00:01 --> 00:02"),
            ("Ada\u2028Bob\x85", "Ada Bob"),
            ("می\u200cروم", "می\u200cروم"),
        ],
    )
    def test_names_that_are_more(self, directory: Path, told: str, kept: str) -> None:
        """A name, or a problem, neither steers a terminal nor ends a line; letters stay."""
        track = worker_pb2.CapturedTrack(
            file_name="a.ogg", speaker=told, speaker_id=told, start_ms=1
        )
        found = self.captured(directory, track, problem=told)

        assert [(one.speaker, one.speaker_id) for one in found.tracks] == [(kept, kept)]
        assert found.problem == kept

    @pytest.mark.parametrize(
        "name", ["", "c.ogg", "../a.ogg", "/etc/passwd", "A.OGG", "a.ogg\0", "a" * 1000 + ".ogg"]
    )
    def test_a_track_without_its_file(self, directory: Path, name: str) -> None:
        """A track whose file is not among the artifacts is none: nothing else is ever opened."""
        tracks = [
            worker_pb2.CapturedTrack(file_name=one, start_ms=1) for one in ("a.ogg", name, "a.ogg")
        ]

        assert [one.file_name for one in self.captured(directory, *tracks).tracks] == ["a.ogg"]

    @pytest.mark.parametrize("milliseconds", [0, -1, 2**62, -(2**62)])
    def test_impossible_times(self, directory: Path, milliseconds: int) -> None:
        """A track that began at no time cannot be placed; a start of the recording is unknown."""
        found = self.captured(
            directory,
            worker_pb2.CapturedTrack(file_name="a.ogg", start_ms=milliseconds),
            worker_pb2.CapturedTrack(file_name="b.ogg", start_ms=1),
            recording_start_ms=milliseconds,
        )

        assert [one.file_name for one in found.tracks] == ["b.ogg"]
        assert found.recording_start_time is None

    @pytest.mark.parametrize(
        ("told", "kept"),
        [(NAN, 0.0), (INFINITY, 0.0), (-1.0, 0.0), (-1e300, 0.0), (1e300, messages.MAX_NUMBER)],
    )
    def test_impossible_lengths(self, directory: Path, told: float, kept: float) -> None:
        """No length is negative, nor larger than what a job can keep; nor are numbers."""
        found = self.captured(
            directory,
            worker_pb2.CapturedTrack(file_name="a.ogg", start_ms=1, duration_seconds=told),
            caption_count=-5,
        )

        assert [one.duration_seconds for one in found.tracks] == [kept]
        assert (found.media_seconds, found.caption_count) == (kept, 0)

    @pytest.mark.parametrize("told", [NAN, INFINITY, -1.0, -1e300])
    def test_impossible_figures(self, directory: Path, told: float) -> None:
        """Nothing that a worker counts or measures of its result is negative, or no number."""
        read = self.left(
            directory,
            worker_pb2.Outcome(
                transcription=worker_pb2.TranscriptionOutcome(
                    tracks=[worker_pb2.TrackOutcome(duration_seconds=told, speech_seconds=told)],
                    audio_seconds=told,
                    real_time_factor=told,
                    segment_count=-1,
                    word_count=-1,
                ),
                recording=worker_pb2.RecordingOutcome(
                    duration_seconds=told, gap_seconds=told, size_bytes=-1, segment_count=-1
                ),
                cpu_seconds=told,
                wall_seconds=told,
            ),
        )

        assert read is not None
        assert {result.media_seconds for result in read.results.values()} == {0.0}
        transcription, recording = read.results[TRANSCRIPTION], read.results[RECORDING]
        assert isinstance(transcription, TranscriptionResult)
        assert (transcription.segment_count, transcription.word_count) == (0, 0)
        assert isinstance(recording, RecordingResult)
        assert (recording.gap_seconds, recording.size_bytes) == (0.0, 0)
        assert read.usage is not None
        assert (read.usage.cpu_seconds, read.usage.wall_seconds) == (0.0, 0.0)

    def test_much_of_a_capture(self, directory: Path) -> None:
        """Names and texts are cut, and tracks beyond the limit left out."""
        read = self.left(
            directory,
            worker_pb2.Outcome(
                artifacts=[worker_pb2.ArtifactFile(file_name=f"{n}.ogg") for n in range(300)],
                capture=worker_pb2.CaptureOutcome(
                    tracks=[
                        worker_pb2.CapturedTrack(
                            file_name=f"{n}.ogg",
                            speaker="s" * 999,
                            speaker_id="i" * 999,
                            start_ms=1,
                        )
                        for n in range(300)
                    ],
                    problem="p" * 9999,
                ),
            ),
        )

        assert read is not None
        found = read.results[CAPTURE]
        assert isinstance(found, CaptureResult)
        assert len(found.tracks) == messages.MAX_TRACKS
        assert {(len(one.speaker), len(one.speaker_id)) for one in found.tracks} == {(200, 200)}
        assert len(found.problem) == messages.MAX_TEXT

    def test_of_another_attempt(self, directory: Path) -> None:
        """What an earlier attempt has left is no outcome of this one."""
        self.left(directory, worker_pb2.Outcome(recording=worker_pb2.RecordingOutcome()))

        assert messages.read_outcome(directory, 2) is None

    def test_too_much_is_cut(self, directory: Path) -> None:
        """What a worker says is kept in bounds, whatever it says: a job must hold it."""
        read = self.left(
            directory,
            worker_pb2.Outcome(
                failure_reason="INTERNAL",
                failure_message="m" * 10_000,
                failure_metadata={f"{number:05}" + "k" * 900: "v" * 900 for number in range(80)},
                notices=[worker_pb2.OutcomeNotice(code="c" * 300, message="m" * 2100)] * 70,
                transcription=worker_pb2.TranscriptionOutcome(
                    tracks=[worker_pb2.TrackOutcome(speaker="s" * 300, failure_message="m" * 2100)]
                    * 260,
                    language="l" * 900,
                    engine="an engine of tomorrow",
                ),
                peak_memory_bytes=-1,
            ),
        )

        assert read is not None
        assert read.failure is not None
        assert len(read.failure.message) == messages.MAX_TEXT
        assert len(read.failure.metadata) == messages.MAX_NOTICES
        assert {len(key) + len(value) for key, value in read.failure.metadata.items()} == {400}
        assert len(read.notices) == messages.MAX_NOTICES
        assert {(len(one.code), len(one.message)) for one in read.notices} == {(200, 2000)}
        result = read.results[TRANSCRIPTION]
        assert isinstance(result, TranscriptionResult)
        assert len(result.tracks) == messages.MAX_TRACKS
        assert {len(track.speaker) for track in result.tracks} == {200}
        assert result.engine is Engine.AUTO
        assert read.usage is not None
        assert read.usage.peak_memory_bytes == 0

    def test_no_outcome(self, directory: Path) -> None:
        """What is no outcome of ours is none, and nobody waits for it."""
        path = directory / OUTCOME
        text = "m" * MAX_OUTCOME_BYTES
        long = worker_pb2.Outcome(generation=1, failure_message=text).SerializeToString()
        (directory / "other").write_bytes(worker_pb2.Outcome(generation=1).SerializeToString())
        assert messages.read_outcome(directory, 1) is None
        for make in (
            lambda: path.write_bytes(b"\xff\xff\xff"),
            lambda: path.write_bytes(long),
            lambda: path.symlink_to("other"),
            lambda: os.mkfifo(path),
        ):
            make()
            assert messages.read_outcome(directory, 1) is None
            path.unlink()
