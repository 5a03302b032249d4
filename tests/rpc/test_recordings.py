# SPDX-License-Identifier: Apache-2.0
"""CreateJob for recordings: what is accepted, what is refused, and what nobody is shown."""

import sqlite3
import uuid
from contextlib import closing
from dataclasses import replace

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from callsd.v1.job_pb2 import CreateJobRequest, GetJobRequest, Job
from callsd.v1.kind_pb2 import JOB_KIND_RECORDING
from callsd.v1.recording_pb2 import (
    RECORDING_PROFILE_HIGH,
    RECORDING_PROFILE_MEDIUM,
    RecordingSpec,
)
from callsd.v1.server_pb2 import GetCapacityRequest, GetServerInfoRequest
from tests.conftest import StartDaemon
from tests.helpers.api import Api
from tests.helpers.daemon import CALM, Daemon
from tests.helpers.reasons import refused


URL = "https://calls.example/recording.html?call_id=1"
SECRET = "s3cret-value"


def checked(api: Api, spec: RecordingSpec, **fields: object) -> Job:
    """The job as it would be."""
    request = CreateJobRequest(job=Job(recording=spec), validate_only=True, **fields)  # type: ignore[arg-type]
    return api(api.jobs.CreateJob, request).job


class TestFields:
    """What a request may say."""

    @pytest.mark.reason("FIELD_INVALID")
    def test_all_violations_at_once(self, api: Api) -> None:
        """One answer names every field that is wrong, and shows no secret."""
        spec = RecordingSpec(
            url="ftp://calls.example/",
            url_fragment=SECRET + "\0",
            headers={"Bad Name": "x", "X-Token": f"{SECRET}\r\nX-Other: y"},
            profile=99,  # type: ignore[arg-type]
            width=1279,
            height=721,
            frame_rate=61,
            video_kbps=499,
            audio_kbps=321,
            ready_expression="x" * 4097,
            ready_timeout=Duration(seconds=601),
        )
        with refused("FIELD_INVALID", grpc.StatusCode.INVALID_ARGUMENT) as refusal:
            checked(api, spec)

        assert {one.field for one in refusal.error.field_violations} == {
            "job.recording.url",
            "job.recording.url_fragment",
            "job.recording.headers",
            "job.recording.headers[X-Token]",
            "job.recording.profile",
            "job.recording.width",
            "job.recording.height",
            "job.recording.frame_rate",
            "job.recording.video_kbps",
            "job.recording.audio_kbps",
            "job.recording.ready_expression",
            "job.recording.ready_timeout",
        }
        assert SECRET not in str(refusal.error)

    @pytest.mark.parametrize(
        "url",
        [
            *("", "calls.example", "file:///etc/passwd", "javascript:alert(1)", "data:text/html,x"),
            *("http://", "https://user:pw@calls.example/", "http://a:port/", "http://[::1/"),
            *(
                "https://calls.example/#token",
                "https://calls.example/ x",
                "https://a/" + "x" * 4096,
            ),
        ],
        ids=range(12),
    )
    def test_bad_addresses(self, api: Api, url: str) -> None:
        """Only pages of the web, without user, password and fragment."""
        with refused("FIELD_INVALID") as refusal:
            checked(api, RecordingSpec(url=url))

        assert {one.field for one in refusal.error.field_violations} == {"job.recording.url"}

    def test_defaults(self, api: Api) -> None:
        """What is not said is the server's: medium, 20 s to become ready, 4 h at most."""
        job = checked(api, RecordingSpec(url=URL))
        spec = job.recording

        assert job.kind == JOB_KIND_RECORDING
        assert spec.profile == RECORDING_PROFILE_MEDIUM
        assert (spec.width, spec.height, spec.frame_rate) == (1280, 720, 20)
        assert (spec.video_kbps, spec.audio_kbps) == (1500, 64)
        assert spec.ready_timeout.seconds == 20
        assert job.max_duration.seconds == 4 * 3600

    def test_in_place_of_the_profile(self, api: Api) -> None:
        """What is said counts instead of what the profile has."""
        spec = checked(
            api, RecordingSpec(url=URL, profile=RECORDING_PROFILE_HIGH, frame_rate=10)
        ).recording

        assert (spec.width, spec.height, spec.frame_rate) == (1920, 1080, 10)


class TestSecrets:
    """What the page alone may know."""

    def test_never_returned(self, api: Api) -> None:
        """Headers come back without their values, the fragment not at all."""
        job = checked(api, RecordingSpec(url=URL, url_fragment=SECRET, headers={"X-A": SECRET}))

        assert SECRET not in str(job)
        assert job.recording.headers == {"X-A": ""}

    def test_kept_until_the_end(self, daemon: StartDaemon) -> None:
        """They lie beside the job, in no body of it, and go when it ends."""
        one = daemon()
        api = one.api()
        spec = RecordingSpec(url=URL, url_fragment=SECRET, headers={"X-A": SECRET})
        job = api(api.jobs.CreateJob, CreateJobRequest(job=Job(recording=spec))).job
        one.wait(api, job.name)
        with closing(sqlite3.connect(one.state / "callsd.db")) as books:
            (left,) = books.execute("SELECT count(*) FROM secrets").fetchone()
            bodies = books.execute("SELECT body FROM jobs UNION ALL SELECT body FROM changes")
            shown = b"".join(body or b"" for (body,) in bodies)

        assert left == 0
        assert SECRET.encode() not in shown
        assert SECRET not in one.log

    @pytest.mark.reason("REQUEST_ID_REUSED")
    def test_part_of_what_is_asked(self, daemon: StartDaemon) -> None:
        """The same request id with another secret is another request."""
        one = daemon()
        api = one.api()
        request = CreateJobRequest(
            job=Job(recording=RecordingSpec(url=URL, url_fragment="a")),
            request_id=str(uuid.uuid4()),
        )
        first = api(api.jobs.CreateJob, request).job
        again = api(api.jobs.CreateJob, request).job
        request.job.recording.url_fragment = "b"

        assert again.name == first.name
        with refused("REQUEST_ID_REUSED"):
            api(api.jobs.CreateJob, request)


class TestAdmission:
    """Live work starts at once or is refused."""

    @pytest.mark.reason("CPU_EXHAUSTED")
    def test_refused_before_it_ruins_others(self, daemon: StartDaemon) -> None:
        """Four high recordings on two cores are not accepted, with the figures, and none waits."""
        one = daemon(machine=replace(CALM, cores_total=2.0))
        api = one.api()
        spec = RecordingSpec(url=URL, profile=RECORDING_PROFILE_HIGH)
        with refused("CPU_EXHAUSTED", grpc.StatusCode.RESOURCE_EXHAUSTED) as refusal:
            for _ in range(4):
                api(api.jobs.CreateJob, CreateJobRequest(job=Job(recording=spec)))

        assert float(refusal.error.metadata["required"]) > 0.5

    def test_ceiling_of_its_own(self, daemon: StartDaemon) -> None:
        """jobs.max_recording_jobs is told, and the server says that it records."""
        one = daemon(config={"jobs": {"max_recording_jobs": 3}})
        api = one.api()
        capacity = api(api.server.GetCapacity, GetCapacityRequest()).capacity
        info = api(api.server.GetServerInfo, GetServerInfoRequest()).server_info

        assert JOB_KIND_RECORDING in info.kinds
        assert [kind.limit for kind in capacity.kinds if kind.kind == JOB_KIND_RECORDING] == [3]


def test_get_job_shows_the_quality(server: Daemon, api: Api) -> None:
    """A job that is there shows what it records, and how."""
    spec = RecordingSpec(url=URL, over_expression="closed", audio_only=True)
    job = api(api.jobs.CreateJob, CreateJobRequest(job=Job(recording=spec))).job
    found = api(api.jobs.GetJob, GetJobRequest(name=job.name)).job

    assert found.recording.url == URL
    assert found.recording.over_expression == "closed"
    assert found.recording.audio_only
