# SPDX-License-Identifier: Apache-2.0
"""CreateJob for recordings: what is accepted, what is refused, and what nobody is shown."""

import sqlite3
import uuid
from contextlib import closing
from dataclasses import replace

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from callsd.v1.job_pb2 import (
    JOB_STATE_RUNNING,
    CreateJobRequest,
    DeleteJobRequest,
    GetJobRequest,
    Job,
    StopJobRequest,
)
from callsd.v1.kind_pb2 import JOB_KIND_RECORDING
from callsd.v1.recording_pb2 import (
    RECORDING_PROFILE_HIGH,
    RECORDING_PROFILE_LOW,
    RECORDING_PROFILE_MEDIUM,
    RecordingProfile,
    RecordingSpec,
)
from callsd.v1.server_pb2 import GetCapacityRequest, GetServerInfoRequest
from callsd_daemon.store.backup import back_up
from tests.conftest import StartDaemon
from tests.helpers.api import Api
from tests.helpers.daemon import CALM, Daemon
from tests.helpers.invariants import all_jobs
from tests.helpers.reasons import refused
from tests.helpers.waiting import eventually


URL = "https://calls.example/recording.html?call_id=1"
SECRET = "s3cret-value"


def checked(api: Api, spec: RecordingSpec, *, max_seconds: int | None = None) -> Job:
    """The job as it would be."""
    job = Job(recording=spec)
    if max_seconds is not None:
        job.max_duration.seconds = max_seconds
    return api(api.jobs.CreateJob, CreateJobRequest(job=job, validate_only=True)).job


def holders(one: Daemon) -> list[str]:
    """Files of the database in which a secret can be read."""
    files = sorted(one.state.glob("callsd.db*"))
    return [file.name for file in files if SECRET.encode() in file.read_bytes()]


def bodies(one: Daemon) -> bytes:
    """All jobs and changes as they are stored."""
    with closing(sqlite3.connect(one.state / "callsd.db")) as tx:
        rows = tx.execute("SELECT body FROM jobs UNION ALL SELECT body FROM changes").fetchall()
    return b"".join(body or b"" for (body,) in rows)


@pytest.fixture(scope="module")
def own(shared_daemon: StartDaemon) -> Daemon:
    """A daemon on two cores, with settings of the administrator's own."""
    return shared_daemon(
        machine=replace(CALM, cores_total=2.0),
        config={
            "recording": {"profile": "low", "max_duration_seconds": 60.0},
            "jobs": {"max_recording_jobs": 3},
        },
    )


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

    @pytest.mark.reason("FIELD_INVALID")
    @pytest.mark.parametrize(
        ("spec", "field"),
        [
            (RecordingSpec(width=1281), "width"),
            (RecordingSpec(width=3842), "width"),
            (RecordingSpec(width=-1280), "width"),
            (RecordingSpec(width=0), "width"),
            (RecordingSpec(height=718), "height"),
            (RecordingSpec(height=2162), "height"),
            (RecordingSpec(frame_rate=9), "frame_rate"),
            (RecordingSpec(video_kbps=10_001), "video_kbps"),
            (RecordingSpec(audio_kbps=31), "audio_kbps"),
            (RecordingSpec(ready_timeout=Duration(nanos=999_000_000)), "ready_timeout"),
            (RecordingSpec(over_expression="a\0"), "over_expression"),
            (RecordingSpec(leave_expression="x" * 4097), "leave_expression"),
            (RecordingSpec(url_fragment=SECRET * 2000), "url_fragment"),
            (RecordingSpec(headers={f"X-{number}": SECRET for number in range(33)}), "headers"),
            (RecordingSpec(headers={"": SECRET}), "headers"),
            (RecordingSpec(headers={"X:A": SECRET}), "headers"),
            (RecordingSpec(headers={"Ä": SECRET}), "headers"),
            (RecordingSpec(headers={"X" * 101: SECRET}), "headers"),
            (RecordingSpec(headers={"X-A": SECRET * 400}), "headers[X-A]"),
            (RecordingSpec(headers={"X-A": f"{SECRET}\n"}), "headers[X-A]"),
            (RecordingSpec(headers={"X-A": f"{SECRET}\0"}), "headers[X-A]"),
            (RecordingSpec(header_origins=["https://a"] * 33), "header_origins"),
            (RecordingSpec(header_origins=["https://a", "https://a/"]), "header_origins[1]"),
            (RecordingSpec(header_origins=["https://*.a"]), "header_origins[0]"),
            (RecordingSpec(header_origins=["https://a:65536"]), "header_origins[0]"),
            (RecordingSpec(header_origins=[f"https://{'a' * 254}"]), "header_origins[0]"),
        ],
        ids=range(26),
    )
    def test_bounds(self, api: Api, spec: RecordingSpec, field: str) -> None:
        """Each field has its bounds, and is named alone; no secret is shown with it."""
        spec.url = URL
        with refused("FIELD_INVALID") as refusal:
            checked(api, spec)

        assert [one.field for one in refusal.error.field_violations] == [f"job.recording.{field}"]
        assert SECRET not in str(refusal.error) + str(refusal.error.field_violations)

    @pytest.mark.parametrize(
        "spec",
        [
            RecordingSpec(
                width=1280,
                height=720,
                frame_rate=10,
                video_kbps=500,
                audio_kbps=32,
                ready_timeout=Duration(seconds=1),
            ),
            RecordingSpec(
                width=3840,
                height=2160,
                frame_rate=60,
                video_kbps=10_000,
                audio_kbps=320,
                audio_only=True,  # no machine of the tests has room for such a picture
                ready_timeout=Duration(seconds=600),
                ready_expression="x" * 4096,
                leave_expression="first();\n\tsecond()",
                # Not all of them as long as one may be: a job has its own limit in bytes.
                headers={f"X-{number}": "ä" * (4096 if number < 8 else 1) for number in range(32)},
                header_origins=["https://api.example:65535", "http://[::1]"] * 16,
                url_fragment="x" * 16_384,
            ),
        ],
        ids=["least", "most"],
    )
    def test_ends_of_the_ranges(self, api: Api, spec: RecordingSpec) -> None:
        """The least and the most that is allowed is taken as it is."""
        spec.url = URL
        shown = checked(api, spec, max_seconds=1).recording

        assert not shown.url_fragment
        shown.url_fragment = spec.url_fragment
        spec.profile = RECORDING_PROFILE_MEDIUM
        for name in list(spec.headers):
            spec.headers[name] = ""
        assert shown == spec

    @pytest.mark.parametrize(
        "url",
        [
            *("http://a", "HTTPS://calls.example:8443/r?a=b@c", "http://[::1]:8080/", "http://a:/"),
            *("https://calls.example/\u00fc?q=%23", "http://127.0.0.1/" + "x" * 4079),
        ],
        ids=range(6),
    )
    def test_good_addresses(self, api: Api, url: str) -> None:
        """Addresses are taken as they are, whatever port, path and query they have."""
        assert checked(api, RecordingSpec(url=url)).recording.url == url

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

    @pytest.mark.parametrize(
        ("profile", "quality"),
        [
            (RECORDING_PROFILE_LOW, (1280, 720, 15, 1000, 64)),
            (RECORDING_PROFILE_MEDIUM, (1280, 720, 20, 1500, 64)),
            (RECORDING_PROFILE_HIGH, (1920, 1080, 20, 2500, 64)),
        ],
    )
    def test_profiles(
        self, api: Api, profile: "RecordingProfile.ValueType", quality: tuple[int, ...]
    ) -> None:
        """Each profile is the quality that its documentation says."""
        spec = checked(api, RecordingSpec(url=URL, profile=profile)).recording

        assert spec.profile == profile
        assert quality == (
            *(spec.width, spec.height, spec.frame_rate),
            *(spec.video_kbps, spec.audio_kbps),
        )

    def test_settings(self, own: Daemon) -> None:
        """The administrator's profile and longest time are the defaults, and no more than that."""
        api = own.api()
        job = checked(api, RecordingSpec(url=URL))
        longer = checked(
            api, RecordingSpec(url=URL, profile=RECORDING_PROFILE_HIGH), max_seconds=90
        )

        assert job.recording.profile == RECORDING_PROFILE_LOW
        assert job.max_duration.seconds == 60
        assert longer.recording.profile == RECORDING_PROFILE_HIGH
        assert longer.max_duration.seconds == 90


class TestSecrets:
    """What the page alone may know."""

    def test_never_returned(self, api: Api) -> None:
        """Headers come back without their values, the fragment not at all."""
        job = checked(api, RecordingSpec(url=URL, url_fragment=SECRET, headers={"X-A": SECRET}))

        assert SECRET not in str(job)
        assert job.recording.headers == {"X-A": ""}

    def test_kept_until_the_end(self, daemon: StartDaemon) -> None:
        """They lie beside the job until it ends, and then in no file of the database, nor a copy.

        Neither bodies of jobs nor the log ever have them.
        """
        one = daemon()
        api = one.api()
        spec = RecordingSpec(
            url=URL, url_fragment=SECRET, headers={"X": SECRET}, ready_expression="say on; sleep"
        )
        name = api(api.jobs.CreateJob, CreateJobRequest(job=Job(recording=spec))).job.name
        one.wait(api, name, JOB_STATE_RUNNING)
        assert holders(one) != []
        assert SECRET.encode() not in bodies(one)
        api(api.jobs.StopJob, StopJobRequest(name=name))
        one.wait(api, name)
        eventually(lambda: holders(one) == [], "they are gone")
        assert SECRET not in one.log
        back_up(one.state / "callsd.db", one.state / "callsd.db.copy")
        api(api.jobs.DeleteJob, DeleteJobRequest(name=name))

        assert holders(one) == []

    @pytest.mark.reason("REQUEST_ID_REUSED")
    def test_part_of_what_is_asked(self, api: Api) -> None:
        """The same request id with another secret is another request."""
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
    def test_refused_before_it_ruins_others(self, own: Daemon) -> None:
        """Four high recordings on two cores are not accepted, with the figures, and none waits."""
        api = own.api()
        spec = RecordingSpec(
            url=URL, profile=RECORDING_PROFILE_HIGH, ready_expression="say on; sleep"
        )
        before, accepted = {job.name for job in all_jobs(api)}, list[str]()
        with refused("CPU_EXHAUSTED", grpc.StatusCode.RESOURCE_EXHAUSTED) as refusal:
            for _ in range(4):
                job = Job(recording=spec)
                accepted.append(api(api.jobs.CreateJob, CreateJobRequest(job=job)).job.name)
        for name in accepted:
            api(api.jobs.StopJob, StopJobRequest(name=name))

        assert float(refusal.error.metadata["required"]) > 0.5
        assert {job.name for job in all_jobs(api)} == before | set(accepted)
        for name in accepted:
            own.wait(api, name)

    def test_ceiling_of_its_own(self, own: Daemon) -> None:
        """jobs.max_recording_jobs is told, and the server says that it records."""
        api = own.api()
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
