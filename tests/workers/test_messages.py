# SPDX-License-Identifier: Apache-2.0
"""What workers are told, and what their reports are taken for."""

from pathlib import Path

import pytest

from callsd_daemon.domain.errors import Reason
from callsd_daemon.domain.jobs import Artifact, Failure, Notice, Outcome, Progress, Usage
from callsd_daemon.domain.recording import (
    PROFILES,
    PageSecrets,
    Picture,
    Profile,
    Quality,
    RecordingHealth,
    RecordingResult,
    RecordingSpec,
)
from callsd_daemon.workers.seat import ModelFile, RecordingAssignment, TranscriptionAssignment
from callsd_daemon.workers.session import messages
from callsd_ipc.v1 import worker_pb2
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


class TestBootstrap:
    """What a worker reads before anything else."""

    @pytest.mark.parametrize("salvage", [None, LOST])
    def test_every_field_arrives(self, salvage: Failure | None) -> None:
        """A worker learns whose it is, and, for salvage alone, why there is something to save."""
        read = worker_pb2.Bootstrap.FromString(
            messages.bootstrap(
                job_id="job",
                generation=2,
                token="secret",
                socket=Path("/run/workers.sock"),
                directory=Path("/state/jobs/job"),
                salvage=salvage,
            )
        )

        assert (read.job_id, read.generation, read.token) == ("job", 2, "secret")
        assert (read.socket_path, read.job_directory) == ("/run/workers.sock", "/state/jobs/job")
        assert read.HasField("salvage") is (salvage is not None)
        if salvage is not None:
            assert read.salvage == worker_pb2.Salvage(
                reason="WORKER_KILLED", message=salvage.message
            )


class TestAssignments:
    """The work, as the worker is told it."""

    def test_recording(self) -> None:
        """Everything that was asked for reaches the worker, secrets too."""
        seat = RecordingAssignment(
            spec=RecordingSpec(
                url=URL,
                profile=Profile.HIGH,
                quality=Quality(
                    width=1920, height=1080, frame_rate=25, video_kbps=3000, audio_kbps=96
                ),
                header_names=("X-Token",),
                audio_only=True,
                ready_expression="window.ready",
                over_expression="window.over",
                leave_expression="leave()",
                ready_timeout_seconds=7.5,
            ),
            secrets=PageSecrets(url_fragment="token=1&a#b", headers={"X-Token": "secret"}),
            max_seconds=90.0,
            min_free_bytes=2**30,
        )

        told = messages.assignment(seat)

        assert told == worker_pb2.Assignment(
            recording=worker_pb2.RecordingWork(
                url=f"{URL}#token=1&a#b",
                headers={"X-Token": "secret"},
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
        """A transcription is told its files, in the order of its tracks, and its model."""
        told = messages.assignment(
            TranscriptionAssignment(
                spec=SPEC,
                media=(Path("/calls/maya.ogg"),),
                model_directory=Path("/models/base"),
                model_files=(ModelFile(path="model.bin", size_bytes=7, sha256="a" * 64),),
                threads=3,
            )
        )

        work = told.transcription
        assert [(track.path, track.speaker) for track in work.tracks] == [
            ("/calls/maya.ogg", "Maya")
        ]
        assert (work.model_name, work.model_directory, work.threads) == ("base", "/models/base", 3)
        assert [pin.path for pin in work.model_files] == ["model.bin"]
        assert not told.HasField("recording")


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
        (directory / messages.OUTCOME_FILE).write_bytes(message.SerializeToString())
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
            recording=RecordingResult(
                duration_seconds=61.5,
                width=1280,
                height=720,
                frame_rate=20.0,
                size_bytes=1000,
                segment_count=2,
                gap_seconds=1.5,
                is_cut_short=True,
            ),
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

        assert read == Outcome(recording=RecordingResult())

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

    def test_of_another_attempt(self, directory: Path) -> None:
        """What an earlier attempt has left is no outcome of this one."""
        self.left(directory, worker_pb2.Outcome(recording=worker_pb2.RecordingOutcome()))

        assert messages.read_outcome(directory, 2) is None
