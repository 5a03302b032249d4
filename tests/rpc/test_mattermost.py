# SPDX-License-Identifier: Apache-2.0
"""Calls of Mattermost by gRPC: as what is recorded, as where a transcript goes, and delivered."""

import grpc
import pytest

from callsd.v1.caption_pb2 import CaptionsSpec
from callsd.v1.capture_pb2 import CaptureSpec
from callsd.v1.error_pb2 import ERROR_REASON_MEDIA_NOT_FOUND
from callsd.v1.job_pb2 import (
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    CreateJobRequest,
    DeleteJobRequest,
    Job,
    JobFilter,
    ListJobsRequest,
    PublishJobRequest,
    StopJobRequest,
    WatchJobsRequest,
)
from callsd.v1.kind_pb2 import JOB_KIND_CAPTURE
from callsd.v1.mattermost_pb2 import (
    DELIVERY_STATE_DELIVERED,
    DELIVERY_STATE_PENDING,
    MattermostCall,
)
from callsd.v1.recording_pb2 import RecordingSpec
from callsd.v1.transcription_pb2 import TRANSCRIPT_FORMAT_SRT, Track, TranscriptionSpec
from callsd_daemon.domain.capture import CaptureResult
from callsd_daemon.rpc.kinds import capture
from tests.helpers.api import Api
from tests.helpers.daemon import Daemon
from tests.helpers.job_service import TOKEN, identifier
from tests.helpers.models import NAME
from tests.helpers.reasons import refused


NOWHERE = "http://127.0.0.1:9"


def call(**changes: str) -> MattermostCall:
    """A call at a site that is away."""
    fields = {
        "site_url": NOWHERE,
        "call_id": identifier("c"),
        "post_id": identifier("p"),
        "job_id": identifier("r"),
        "token": TOKEN,
    }
    return MattermostCall(**(fields | changes))


def create(api: Api, spec: RecordingSpec | TranscriptionSpec | CaptureSpec) -> Job:
    """A job that is accepted."""
    job = Job()
    fields = {
        RecordingSpec: "recording",
        TranscriptionSpec: "transcription",
        CaptureSpec: "capture",
    }
    getattr(job, fields[type(spec)]).CopyFrom(spec)
    return api(api.jobs.CreateJob, CreateJobRequest(job=job)).job


@pytest.fixture
def recording(server: Daemon, api: Api) -> Job:
    """A recording of a call that goes on."""
    (server.root / "tmp" / "recorder").write_text("film 0.1")
    job = create(api, RecordingSpec(mattermost_call=call()))
    return server.wait(api, job.name, JOB_STATE_RUNNING)


class TestRecording:
    """A call as the source of a recording."""

    def test_is_seen_without_its_token(self, server: Daemon, api: Api, recording: Job) -> None:
        """The call is part of the job, and its token of nothing that anybody is shown."""
        assert recording.recording.mattermost_call == call(token="")
        assert recording.delivery.state == DELIVERY_STATE_PENDING
        assert TOKEN not in server.log

    @pytest.mark.reason("FIELD_INVALID")
    def test_all_violations_at_once(self, api: Api) -> None:
        """One answer names every field that is wrong, what a call's page knows itself included."""
        wrong = call(site_url="http://a/b", call_id="c", post_id="", job_id="J" * 26, token="a b")
        spec = RecordingSpec(mattermost_call=wrong, url="http://x/", ready_expression="true")
        with refused("FIELD_INVALID", grpc.StatusCode.INVALID_ARGUMENT) as refusal:
            create(api, spec)
        at = "job.recording.mattermost_call"
        assert {one.field for one in refusal.error.field_violations} == {
            *(f"{at}.{name}" for name in ("site_url", "call_id", "post_id", "job_id", "token")),
            "job.recording.url",
            "job.recording.ready_expression",
        }
        assert "a b" not in str(refusal.error)

    @pytest.mark.reason("JOB_STATE_CONFLICT")
    def test_is_not_deleted_before_it_is_delivered(
        self, server: Daemon, api: Api, recording: Job
    ) -> None:
        """What is not in its thread yet is not removed, and the refusal says where to look."""
        api(api.jobs.StopJob, StopJobRequest(name=recording.name))
        server.wait(api, recording.name)
        with refused("JOB_STATE_CONFLICT", grpc.StatusCode.FAILED_PRECONDITION) as refusal:
            api(api.jobs.DeleteJob, DeleteJobRequest(name=recording.name))
        assert "callsd jobs deliveries" in refusal.error.message


class TestTranscription:
    """The sound of a recording, and a call as the place of a transcript."""

    def test_begins_after_its_recording(self, server: Daemon, api: Api, recording: Job) -> None:
        """It waits for the recording without holding up others, and begins when that has ended."""
        spec = TranscriptionSpec(tracks=[Track(recording=recording.name, speaker="Call")])
        waiting = create(api, spec)
        assert waiting.state == JOB_STATE_QUEUED
        assert waiting.queue_position == 0
        other = server.create(api).job
        server.wait(api, other.name)
        assert server.job(api, waiting.name).state == JOB_STATE_QUEUED
        api(api.jobs.StopJob, StopJobRequest(name=recording.name))
        assert not server.wait(api, waiting.name).HasField("failure")

    @pytest.mark.reason("JOB_NOT_FOUND")
    def test_of_a_recording_that_nobody_knows(self, api: Api) -> None:
        """A recording that does not exist is told at once."""
        with refused("JOB_NOT_FOUND", grpc.StatusCode.NOT_FOUND):
            create(api, TranscriptionSpec(tracks=[Track(recording="jobs/aaaaaaaaaaaaaaaaaaaa")]))

    @pytest.mark.reason("FIELD_INVALID")
    def test_violations(self, api: Api) -> None:
        """One recording at most, by its name; a thread takes two formats."""
        spec = TranscriptionSpec(
            tracks=[Track(recording="jobs/aaaaaaaaaaaaaaaaaaaa")] * 2 + [Track(recording="x")],
            formats=[TRANSCRIPT_FORMAT_SRT],
            mattermost_call=call(),
        )
        with refused("FIELD_INVALID") as refusal:
            create(api, spec)
        assert {one.field for one in refusal.error.field_violations} == {
            "job.transcription.tracks",
            "job.transcription.tracks[2].recording",
            "job.transcription.formats",
        }

    @pytest.mark.reason("JOB_STATE_CONFLICT")
    def test_keeps_its_recording(self, server: Daemon, api: Api) -> None:
        """A recording is not deleted while its sound is needed, and the refusal says by whom."""
        spec = RecordingSpec(url="https://calls.example/", ready_expression="film 0.1")
        film = server.wait(api, create(api, spec).name, JOB_STATE_RUNNING)
        track = Track(recording=film.name, speaker="Call")
        later = create(api, TranscriptionSpec(tracks=[track], initial_prompt="until heard"))
        api(api.jobs.StopJob, StopJobRequest(name=film.name))
        server.wait(api, later.name, JOB_STATE_RUNNING)
        with refused("JOB_STATE_CONFLICT", grpc.StatusCode.FAILED_PRECONDITION) as refusal:
            api(api.jobs.DeleteJob, DeleteJobRequest(name=film.name))
        assert later.name in refusal.error.message
        (server.root / "tmp" / "heard").touch()
        server.wait(api, later.name)
        api(api.jobs.DeleteJob, DeleteJobRequest(name=film.name))


class TestCapture:
    """A call of which each speaker's sound is kept."""

    def captured(self, server: Daemon, api: Api, script: str) -> Job:
        """A capture that has ended, of which this script was the capturer's."""
        (server.root / "tmp" / "capturer").write_text(script)
        return server.wait(api, create(api, CaptureSpec(mattermost_call=call())).name)

    def test_is_seen_without_its_token(self, server: Daemon, api: Api) -> None:
        """The call and its captions are part of the job, and the token of nothing that is shown."""
        (server.root / "tmp" / "captioner").write_text("caption")
        (server.root / "tmp" / "capturer").write_text("capture 1")
        captions = CaptionsSpec(model=NAME, language="de", max_active_speakers=3)
        made = create(api, CaptureSpec(mattermost_call=call(), captions=captions))
        job = server.wait(api, made.name, JOB_STATE_RUNNING)
        assert job.capture == CaptureSpec(mattermost_call=call(token=""), captions=captions)
        assert job.delivery.state == DELIVERY_STATE_PENDING
        assert TOKEN not in server.log
        wanted = JobFilter(kinds=[JOB_KIND_CAPTURE])
        listed = api(api.jobs.ListJobs, ListJobsRequest(filter=wanted)).jobs
        assert job.name in [one.name for one in listed]
        assert TOKEN not in str(listed)
        api(api.jobs.StopJob, StopJobRequest(name=job.name))
        server.wait(api, job.name)

    def test_captions_as_usual(self, api: Api) -> None:
        """What is not said of captions is as in captions jobs."""
        spec = CaptureSpec(mattermost_call=call(), captions=CaptionsSpec())
        request = CreateJobRequest(job=Job(capture=spec), validate_only=True)
        job = api(api.jobs.CreateJob, request).job
        assert job.capture.captions == CaptionsSpec(model=NAME, max_active_speakers=2)

    @pytest.mark.reason("FIELD_INVALID")
    def test_all_violations_at_once(self, api: Api) -> None:
        """One answer names every field that is wrong, those of the captions included."""
        wrong = call(site_url="http://a/b", call_id="c", post_id="", job_id="J" * 26, token="a b")
        captions = CaptionsSpec(model="../x", language="klingon", max_active_speakers=51)
        with refused("FIELD_INVALID", grpc.StatusCode.INVALID_ARGUMENT) as refusal:
            create(api, CaptureSpec(mattermost_call=wrong, captions=captions))
        at = "job.capture"
        assert {one.field for one in refusal.error.field_violations} == {
            *(
                f"{at}.mattermost_call.{name}"
                for name in ("site_url", "call_id", "post_id", "job_id", "token")
            ),
            *(f"{at}.captions.{name}" for name in ("model", "language", "max_active_speakers")),
        }
        assert "a b" not in str(refusal.error)

    @pytest.mark.reason("FIELD_INVALID")
    def test_needs_a_call(self, api: Api) -> None:
        """Without a call there is nothing to capture."""
        with refused("FIELD_INVALID") as refusal:
            create(api, CaptureSpec())
        fields = {one.field for one in refusal.error.field_violations}
        assert "job.capture.mattermost_call.site_url" in fields

    @pytest.mark.reason("MODEL_UNKNOWN")
    def test_captions_by_an_unknown_model(self, api: Api) -> None:
        """Who asks for captions by a model that is not here is told so."""
        spec = CaptureSpec(mattermost_call=call(), captions=CaptionsSpec(model="nobodys"))
        with refused("MODEL_UNKNOWN"):
            create(api, spec)

    def test_result(self, server: Daemon, api: Api) -> None:
        """Its tracks are told with their speakers and times, and why it was cut short."""
        job = self.captured(server, api, "capture 2 it was lost")
        found = job.capture_result
        assert job.state == JOB_STATE_SUCCEEDED
        assert [track.file_name for track in found.tracks] == ["0.ogg", "1.ogg"]
        assert [track.speaker for track in found.tracks] == ["Speaker 0.ogg", "Speaker 1.ogg"]
        names = [f"{job.name}/artifacts/{track.file_name}" for track in found.tracks]
        assert [artifact.name for artifact in job.artifacts] == names
        times = {track.start_time.ToMilliseconds() for track in found.tracks}
        assert times == {found.recording_start_time.ToMilliseconds()}
        assert {track.duration.ToMilliseconds() for track in found.tracks} == {1000}
        assert found.problem == "it was lost"

    def test_result_of_silence(self) -> None:
        """What was not learned is unset."""
        message = capture.result(CaptureResult(caption_count=3))
        assert not message.HasField("recording_start_time")
        assert (list(message.tracks), message.caption_count, message.problem) == ([], 3, "")

    def test_is_transcribed(self, server: Daemon, api: Api) -> None:
        """A track that names a capture waits for it, and stands for all that it has captured."""
        (server.root / "tmp" / "capturer").write_text("capture 2")
        made = create(api, CaptureSpec(mattermost_call=call()))
        server.wait(api, made.name, JOB_STATE_RUNNING)
        script = "read media/0; read media/1; transcribe 1"
        track = Track(capture=made.name, speaker="Call")
        later = create(api, TranscriptionSpec(tracks=[track], initial_prompt=script))
        assert later.state == JOB_STATE_QUEUED
        assert later.transcription.tracks[0].capture == made.name
        api(api.jobs.StopJob, StopJobRequest(name=made.name))
        done = server.wait(api, later.name)
        assert done.state == JOB_STATE_SUCCEEDED, done.failure

    @pytest.mark.parametrize("script", ["fail CALL_UNAVAILABLE", "capture 0 it was lost"])
    def test_nothing_was_captured(self, server: Daemon, api: Api, script: str) -> None:
        """A transcription of a capture that has heard nothing fails, and names it."""
        made = self.captured(server, api, script)
        spec = TranscriptionSpec(tracks=[Track(capture=made.name, speaker="Call")])
        done = server.wait(api, create(api, spec).name)
        assert done.failure.reason == ERROR_REASON_MEDIA_NOT_FOUND
        assert made.name.removeprefix("jobs/") in done.failure.message

    @pytest.mark.reason("JOB_NOT_FOUND")
    def test_transcription_of_one_that_nobody_knows(self, api: Api) -> None:
        """A capture that does not exist is told at once."""
        with refused("JOB_NOT_FOUND", grpc.StatusCode.NOT_FOUND):
            create(api, TranscriptionSpec(tracks=[Track(capture="jobs/aaaaaaaaaaaaaaaaaaaa")]))

    @pytest.mark.reason("FIELD_INVALID")
    def test_violations_of_tracks(self, api: Api) -> None:
        """One capture at most, by its name; a track names what it is made of."""
        tracks = [Track(capture="jobs/aaaaaaaaaaaaaaaaaaaa")] * 2
        tracks += [Track(capture="aaaaaaaaaaaaaaaaaaaa"), Track(capture=""), Track()]
        with refused("FIELD_INVALID") as refusal:
            create(api, TranscriptionSpec(tracks=tracks))
        told = {one.field: one.description for one in refusal.error.field_violations}
        assert told == {
            "job.transcription.tracks": "has more than one track of a capture",
            "job.transcription.tracks[2].capture": 'must be "jobs/JOB"',
            "job.transcription.tracks[3].capture": 'must be "jobs/JOB"',
            "job.transcription.tracks[4].media": (
                "is missing: set path, upload, recording or capture"
            ),
        }


class TestDeliveries:
    """What is on its way."""

    def test_are_found_by_their_state(self, api: Api, recording: Job) -> None:
        """Jobs are listed by how their delivery is; those without one are in no such list."""

        def names(*states: int) -> list[str]:
            wanted = JobFilter(deliveries=states)  # type: ignore[arg-type]
            found = api(api.jobs.ListJobs, ListJobsRequest(filter=wanted)).jobs
            return [job.name for job in found]

        assert recording.name in names(DELIVERY_STATE_PENDING)
        assert recording.name not in names(DELIVERY_STATE_DELIVERED)

    @pytest.mark.reason("FIELD_INVALID")
    def test_are_no_filter_of_a_watch(self, api: Api) -> None:
        """A watch reports jobs through all states of their deliveries."""
        wanted = JobFilter(deliveries=[DELIVERY_STATE_PENDING])
        with refused("FIELD_INVALID") as refusal:
            next(api.jobs.WatchJobs(WatchJobsRequest(filter=wanted), metadata=api.metadata))
        assert {one.field for one in refusal.error.field_violations} == {"filter.deliveries"}

    @pytest.mark.reason("JOB_STATE_CONFLICT")
    def test_wait_for_the_end(self, server: Daemon, api: Api, recording: Job) -> None:
        """A job that goes on, or has nothing to deliver, cannot be published."""
        other = server.create(api).job
        server.wait(api, other.name)
        for name in (recording.name, other.name):
            with refused("JOB_STATE_CONFLICT"):
                api(api.jobs.PublishJob, PublishJobRequest(name=name))

    def test_are_tried_again_at_once(self, server: Daemon, api: Api, recording: Job) -> None:
        """Who asks for it has it tried now, with the new token; what failed before is forgotten."""
        api(api.jobs.StopJob, StopJobRequest(name=recording.name))
        server.wait(api, recording.name)
        request = PublishJobRequest(name=recording.name, token="t" * 26)
        job = api(api.jobs.PublishJob, request).job
        assert (job.delivery.state, job.delivery.failures) == (DELIVERY_STATE_PENDING, 0)
        assert job.delivery.problem == ""

    @pytest.mark.reason("FIELD_INVALID")
    def test_odd_token(self, api: Api, recording: Job) -> None:
        """What cannot be a token is refused, and not shown."""
        with refused("FIELD_INVALID") as refusal:
            api(api.jobs.PublishJob, PublishJobRequest(name=recording.name, token="a\nb"))
        assert {one.field for one in refusal.error.field_violations} == {"token"}
