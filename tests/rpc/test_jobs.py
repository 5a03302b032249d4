# SPDX-License-Identifier: Apache-2.0
"""GetJob, ListJobs, StopJob, DeleteJob, ReadLog, FetchArtifact."""

import base64
import hashlib

import grpc
import pytest

from callsd.v1.job_pb2 import (
    JOB_STATE_CANCELLED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    DeleteJobRequest,
    FetchArtifactRequest,
    GetJobRequest,
    JobFilter,
    ListJobsRequest,
    ReadLogRequest,
    StopJobRequest,
    WatchJobsRequest,
)
from callsd.v1.kind_pb2 import JOB_KIND_CAPTIONS, JOB_KIND_TRANSCRIPTION
from tests.conftest import StartDaemon
from tests.helpers.api import Api
from tests.helpers.daemon import Daemon
from tests.helpers.invariants import all_jobs, assert_invariants
from tests.helpers.reasons import refused
from tests.helpers.waiting import eventually


UNKNOWN = "jobs/0123456789abcdef0123"

BAD_NAMES = ["", "x", "jobs/", "jobs/../..", "jobs/ABCDEFGHIJ", "jobs/a\0bcdefghi", "j" * 900_000]


@pytest.fixture(scope="module")
def waiting(shared_daemon: StartDaemon) -> Daemon:
    """A daemon with one running job and 25 that wait for it."""
    one = shared_daemon(config={"jobs": {"max_concurrent_jobs": 1}})
    api = one.api()
    one.create(api, "sleep", labels={"number": "running"})
    for number in range(25):
        one.create(api, labels={"number": str(number), "parity": str(number % 2)})
    return one


class TestNames:
    """Names of jobs."""

    @pytest.mark.reason("JOB_NOT_FOUND")
    def test_unknown(self, api: Api) -> None:
        """Every method says that there is no such job."""
        for call in (
            lambda: api(api.jobs.GetJob, GetJobRequest(name=UNKNOWN)),
            lambda: api(api.jobs.StopJob, StopJobRequest(name=UNKNOWN)),
            lambda: api(api.jobs.DeleteJob, DeleteJobRequest(name=UNKNOWN)),
            lambda: list(api.stream(api.jobs.ReadLog, ReadLogRequest(name=UNKNOWN))),
            lambda: list(
                api.stream(
                    api.jobs.FetchArtifact, FetchArtifactRequest(name=f"{UNKNOWN}/artifacts/a.vtt")
                )
            ),
        ):
            with refused("JOB_NOT_FOUND", grpc.StatusCode.NOT_FOUND):
                call()

    @pytest.mark.reason("FIELD_INVALID")
    @pytest.mark.parametrize("name", BAD_NAMES, ids=range(len(BAD_NAMES)))
    def test_malformed(self, api: Api, name: str) -> None:
        """What cannot be a name is refused as such, however long it is."""
        with refused("FIELD_INVALID", grpc.StatusCode.INVALID_ARGUMENT):
            api(api.jobs.GetJob, GetJobRequest(name=name))
        with refused("FIELD_INVALID"):
            list(api.stream(api.jobs.FetchArtifact, FetchArtifactRequest(name=f"{name}/artifacts")))


class TestList:
    """ListJobs."""

    def test_pages(self, waiting: Daemon) -> None:
        """Pages are newest first, do not overlap, leave nothing out, and end."""
        api = waiting.api()
        pages, token = list[list[str]](), ""
        while True:
            page = api(api.jobs.ListJobs, ListJobsRequest(page_size=7, page_token=token))
            pages.append([job.labels["number"] for job in page.jobs])
            token = page.next_page_token
            if not token:
                break

        assert [len(page) for page in pages] == [7, 7, 7, 5]
        assert [number for page in pages for number in page] == [
            *map(str, reversed(range(25))),
            "running",
        ]

    def test_filters(self, waiting: Daemon) -> None:
        """All that is set must match."""
        api = waiting.api()

        def numbers(**wanted: object) -> list[str]:
            request = ListJobsRequest(filter=JobFilter(**wanted), page_size=1000)  # type: ignore[arg-type]
            return [job.labels["number"] for job in api(api.jobs.ListJobs, request).jobs]

        some = [job.name for job in all_jobs(api)][3:5]
        odd = [str(number) for number in reversed(range(25)) if number % 2]
        assert numbers(labels={"parity": "1"}) == odd
        assert numbers(labels={"parity": "1", "number": "3"}) == ["3"]
        assert numbers(labels={"parity": "2"}) == []
        assert len(numbers(states=[JOB_STATE_QUEUED])) == 25
        assert numbers(states=[JOB_STATE_CANCELLED]) == []
        assert len(numbers(kinds=[JOB_KIND_TRANSCRIPTION])) == 26
        assert numbers(kinds=[JOB_KIND_CAPTIONS]) == []
        assert numbers(names=some) == ["21", "20"]
        assert numbers(names=some, labels={"number": "20"}) == ["20"]

    @pytest.mark.reason("FIELD_INVALID")
    def test_token_belongs_to_its_filter(self, waiting: Daemon) -> None:
        """A token of another filter, or a made-up one, is refused."""
        api = waiting.api()
        token = api(api.jobs.ListJobs, ListJobsRequest(page_size=1)).next_page_token
        other = JobFilter(states=[JOB_STATE_QUEUED])
        forged = base64.urlsafe_b64encode(b"nonsense").decode()
        for request in (
            ListJobsRequest(filter=other, page_token=token),
            ListJobsRequest(page_token=forged),
            ListJobsRequest(page_token="ä!"),
            ListJobsRequest(page_token="x" * 900_000),
            ListJobsRequest(page_token=_with_position(token, "9" * 30)),
            ListJobsRequest(page_token=_with_position(token, "9" * 5000)),
        ):
            with refused("FIELD_INVALID") as refusal:
                api(api.jobs.ListJobs, request)
            assert [one.field for one in refusal.error.field_violations] == ["page_token"]

    @pytest.mark.reason("FIELD_INVALID")
    def test_bad_filters(self, waiting: Daemon) -> None:
        """Filters are checked, all fields at once."""
        api = waiting.api()
        wanted = JobFilter(
            states=[99],  # type: ignore[list-item]
            kinds=[99],  # type: ignore[list-item]
            labels={"Ä": "x"},
            names=["nobody", *[UNKNOWN] * 100],
        )
        with refused("FIELD_INVALID") as refusal:
            api(api.jobs.ListJobs, ListJobsRequest(filter=wanted))

        fields = {one.field for one in refusal.error.field_violations}
        assert fields == {"filter.states", "filter.kinds", "filter.labels", "filter.names"}

    @pytest.mark.reason("FIELD_INVALID")
    @pytest.mark.parametrize("count", [8, 250_001])
    def test_long_filters(self, waiting: Daemon, count: int) -> None:
        """No filter holds more values than make sense; what is beyond is refused, unseen."""
        api = waiting.api()
        wanted = JobFilter(
            states=[JOB_STATE_QUEUED] * count,
            kinds=[JOB_KIND_CAPTIONS] * count,
            labels={f"key{number}": "" for number in range(17)},
        )
        with refused("FIELD_INVALID") as refusal:
            api(api.jobs.ListJobs, ListJobsRequest(filter=wanted))
        fields = {one.field for one in refusal.error.field_violations}
        assert fields == {"filter.states", "filter.kinds", "filter.labels"}
        wanted.ClearField("states")
        with refused("FIELD_INVALID"):
            next(api.stream(api.jobs.WatchJobs, WatchJobsRequest(filter=wanted)))

        full = JobFilter(
            states=[JOB_STATE_QUEUED] * 7,
            kinds=[JOB_KIND_TRANSCRIPTION] * 3,
            names=[job.name for job in all_jobs(api)] * 3,
        )
        assert len(api(api.jobs.ListJobs, ListJobsRequest(filter=full)).jobs) == 25

    @pytest.mark.reason("FIELD_INVALID")
    def test_page_size(self, waiting: Daemon) -> None:
        """Too large is reduced, negative refused, zero the default."""
        api = waiting.api()
        assert len(api(api.jobs.ListJobs, ListJobsRequest(page_size=2**31 - 1)).jobs) == 26
        assert len(api(api.jobs.ListJobs, ListJobsRequest()).jobs) == 26
        with refused("FIELD_INVALID"):
            api(api.jobs.ListJobs, ListJobsRequest(page_size=-1))


def _with_position(token: str, position: str) -> str:
    mark = base64.urlsafe_b64decode(token).decode().partition(":")[0]
    return base64.urlsafe_b64encode(f"{mark}:{position}".encode()).decode()


class TestChange:
    """StopJob, DeleteJob, etag."""

    @pytest.mark.reason("JOB_STATE_CONFLICT")
    def test_delete(self, api: Api, server: Daemon) -> None:
        """Only what has ended can be removed, with all its files; afterwards it is unknown."""
        go = server.new_flag()
        job = server.create(api, f"until {go.name}").job
        server.wait(api, job.name, JOB_STATE_RUNNING)
        with refused("JOB_STATE_CONFLICT", grpc.StatusCode.FAILED_PRECONDITION):
            api(api.jobs.DeleteJob, DeleteJobRequest(name=job.name))
        go.touch()
        server.wait(api, job.name)
        directory = server.state / "jobs" / job.name.removeprefix("jobs/")
        assert directory.is_dir()
        api(api.jobs.DeleteJob, DeleteJobRequest(name=job.name))
        server.acknowledged.discard(job.name)

        assert not directory.exists()
        assert job.name not in {known.name for known in all_jobs(api)}
        assert_invariants(server)

    @pytest.mark.reason("ETAG_MISMATCH")
    def test_etag(self, api: Api, server: Daemon) -> None:
        """With an etag, only what was seen is acted upon."""
        job = server.create(api, "sleep").job
        running = server.wait(api, job.name, JOB_STATE_RUNNING)
        for request in (
            StopJobRequest(name=job.name, etag=job.etag),
            StopJobRequest(name=job.name, etag="x" * 900_000),
        ):
            with refused("ETAG_MISMATCH", grpc.StatusCode.ABORTED):
                api(api.jobs.StopJob, request)
        assert running.etag != job.etag
        current = server.job(api, job.name).etag
        api(api.jobs.StopJob, StopJobRequest(name=job.name, etag=current))
        ended = server.wait(api, job.name)
        with refused("ETAG_MISMATCH"):
            api(api.jobs.DeleteJob, DeleteJobRequest(name=job.name, etag=current))

        assert server.job(api, job.name) == ended


LOG_BYTES = 250_000
"""What is there of a flood, however fast it comes: of more, the end is kept."""


class TestLog:
    """ReadLog."""

    @pytest.mark.reason("OFFSET_INVALID")
    def test_offsets(self, api: Api, server: Daemon) -> None:
        """A log is read from any byte on, and not from beyond its end."""
        job = server.create(api, "flood-log 1").job
        server.wait(api, job.name)

        def read(offset: int) -> bytes:
            request = ReadLogRequest(name=job.name, offset=offset)
            data, position = b"", offset
            for piece in api.stream(api.jobs.ReadLog, request):
                assert piece.offset == position
                assert 0 < len(piece.data) <= 64 * 1024
                data += piece.data
                position += len(piece.data)
            return data

        whole = read(0)
        assert len(whole) > LOG_BYTES
        assert read(100_001) == whole[100_001:]
        assert read(len(whole)) == b""
        for offset in (len(whole) + 1, -1, 2**63 - 1):
            with refused("OFFSET_INVALID", grpc.StatusCode.OUT_OF_RANGE):
                read(offset)

    def test_follow(self, api: Api, server: Daemon) -> None:
        """A followed log brings what is written meanwhile, and ends with the job."""
        job = server.create(api, "flood-log 1; until more; flood-log 1").job
        log = server.state / "jobs" / job.name.removeprefix("jobs/") / "log.txt"
        eventually(
            lambda: log.exists() and log.stat().st_size > LOG_BYTES, "the first part is there"
        )
        stream = api.stream(api.jobs.ReadLog, ReadLogRequest(name=job.name, follow=True))
        data = b""
        while len(data) < LOG_BYTES:
            data += next(stream).data
        (server.root / "tmp" / "more").touch()
        data += b"".join(piece.data for piece in stream)

        assert server.job(api, job.name).state == JOB_STATE_SUCCEEDED
        assert data == log.read_bytes()
        assert len(data) > 2 * LOG_BYTES

    def test_follow_before_it_begins(self, daemon: StartDaemon) -> None:
        """A waiting job has no log yet; following it waits."""
        one = daemon(config={"jobs": {"max_concurrent_jobs": 1}})
        api = one.api()
        one.create(api, "until go")
        job = one.create(api, "flood-log 1").job
        stream = api.stream(api.jobs.ReadLog, ReadLogRequest(name=job.name, follow=True))
        (one.root / "tmp" / "go").touch()

        assert len(b"".join(piece.data for piece in stream)) > LOG_BYTES


class TestArtifacts:
    """FetchArtifact."""

    @pytest.fixture
    def name(self, api: Api, server: Daemon) -> str:
        """The artifact of a job that has succeeded."""
        job = server.create(api).job
        return server.wait(api, job.name).artifacts[0].name

    @pytest.mark.reason("OFFSET_INVALID")
    def test_offsets(self, api: Api, name: str) -> None:
        """The first message describes the artifact; the bytes begin where asked for."""

        def fetch(offset: int) -> tuple[str, bytes]:
            request = FetchArtifactRequest(name=name, offset=offset)
            first, *others = api.stream(api.jobs.FetchArtifact, request)
            assert first.artifact.name == name
            assert first.artifact.size_bytes == 7
            return first.artifact.sha256, first.data + b"".join(piece.data for piece in others)

        sha256, whole = fetch(0)
        assert whole == b"WEBVTT\n"
        assert hashlib.sha256(whole).hexdigest() == sha256
        assert fetch(3)[1] == whole[3:]
        assert fetch(7)[1] == b""
        for offset in (8, -1):
            with refused("OFFSET_INVALID", grpc.StatusCode.OUT_OF_RANGE):
                fetch(offset)

    @pytest.mark.reason("ARTIFACT_NOT_FOUND")
    def test_missing(self, api: Api, server: Daemon, name: str) -> None:
        """What a job did not make, or was removed since, is not found; nor is a stray file."""
        job = name.partition("/artifacts/")[0]
        directory = server.state / "jobs" / job.removeprefix("jobs/")
        (directory / "artifacts" / "stray.txt").write_text("not in the job")
        for file in ("other.vtt", "stray.txt"):
            with refused("ARTIFACT_NOT_FOUND", grpc.StatusCode.NOT_FOUND):
                list(
                    api.stream(
                        api.jobs.FetchArtifact, FetchArtifactRequest(name=f"{job}/artifacts/{file}")
                    )
                )
        (directory / "artifacts" / "transcript.vtt").unlink()
        with refused("ARTIFACT_NOT_FOUND"):
            list(api.stream(api.jobs.FetchArtifact, FetchArtifactRequest(name=name)))

    @pytest.mark.reason("FIELD_INVALID")
    @pytest.mark.parametrize("file", ["../log.txt", "..", ".hidden", "a/b", "a\0b", ""])
    def test_paths(self, api: Api, name: str, file: str) -> None:
        """A file's name is no path."""
        job = name.partition("/artifacts/")[0]
        with refused("FIELD_INVALID"):
            list(
                api.stream(
                    api.jobs.FetchArtifact, FetchArtifactRequest(name=f"{job}/artifacts/{file}")
                )
            )
