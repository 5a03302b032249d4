# SPDX-License-Identifier: Apache-2.0
"""Calls of Mattermost by gRPC: as what is recorded, as where a transcript goes, and delivered."""

import grpc
import pytest

from callsd.v1.job_pb2 import (
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    CreateJobRequest,
    DeleteJobRequest,
    Job,
    JobFilter,
    ListJobsRequest,
    PublishJobRequest,
    StopJobRequest,
    WatchJobsRequest,
)
from callsd.v1.mattermost_pb2 import (
    DELIVERY_STATE_DELIVERED,
    DELIVERY_STATE_PENDING,
    MattermostCall,
)
from callsd.v1.recording_pb2 import RecordingSpec
from callsd.v1.transcription_pb2 import TRANSCRIPT_FORMAT_SRT, Track, TranscriptionSpec
from tests.helpers.api import Api
from tests.helpers.daemon import Daemon
from tests.helpers.job_service import TOKEN, identifier
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


def create(api: Api, spec: RecordingSpec | TranscriptionSpec) -> Job:
    """A job that is accepted."""
    job = Job()
    field = "recording" if isinstance(spec, RecordingSpec) else "transcription"
    getattr(job, field).CopyFrom(spec)
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
