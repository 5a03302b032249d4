# SPDX-License-Identifier: Apache-2.0
"""Deadlines, sizes, and bytes that are no message."""

import uuid
from dataclasses import replace
from functools import partial

import grpc
import pytest

from callsd.v1.job_pb2 import (
    JOB_STATE_CANCELLED,
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    CreateJobResponse,
    GetJobRequest,
    ListJobsRequest,
    StopJobRequest,
)
from callsd.v1.server_pb2 import GetServerInfoRequest
from tests.conftest import StartDaemon
from tests.helpers.api import Api
from tests.helpers.daemon import CALM, Daemon
from tests.helpers.invariants import all_jobs, assert_invariants
from tests.helpers.reasons import refused, status


MIB = 1024 * 1024

IN_TIME_OR_NOT = {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED}


def test_deadline(daemon: StartDaemon) -> None:
    """A request that is out of time made its job, whole, or made none; asking again tells."""
    one = daemon(config={"jobs": {"max_concurrent_jobs": 1}})
    api = one.api()
    first = one.create(api, "sleep").job
    answered = 0
    requests = [one.request("succeed", request_id=str(uuid.uuid4())) for _ in range(30)]
    for number, request in enumerate(requests):
        seconds = 0.001 + number / 10_000
        code = status(partial(api, api.jobs.CreateJob, request, seconds=seconds))
        assert code in IN_TIME_OR_NOT
        answered += code is grpc.StatusCode.OK
    made = {job.name for job in all_jobs(api)} - {first.name}
    again = [api(api.jobs.CreateJob, request).job.name for request in requests]

    assert len(made) >= answered
    assert made <= set(again)
    assert len(set(again)) == len(requests) == len(all_jobs(api)) - 1
    assert_invariants(one)


@pytest.mark.reason("FIELD_INVALID")
@pytest.mark.parametrize("letter", ["k", "ß", "語", "🎙"])
def test_many_mistakes(api: Api, server: Daemon, letter: str) -> None:
    """However much is wrong with a request, its refusal arrives, with a reason and some fields."""
    labels = {f"{letter * 70}{number}!": "x" for number in range(40)}
    for _ in range(5):  # gRPC refuses what is a bit too long at random
        with refused("FIELD_INVALID", grpc.StatusCode.INVALID_ARGUMENT):
            api(api.jobs.CreateJob, server.request(labels=labels))


def test_deadline_of_a_stop(daemon: StartDaemon) -> None:
    """A stop that is out of time either was not noted, or is carried out."""
    one = daemon(machine=replace(CALM, cores_total=16.0))
    api = one.api()
    names = [one.create(api, "sleep").job.name for _ in range(10)]
    for name in names:
        one.wait(api, name, JOB_STATE_RUNNING)
    for number, name in enumerate(names):
        seconds = 0.001 + number / 5000
        request = StopJobRequest(name=name)
        code = status(partial(api, api.jobs.StopJob, request, seconds=seconds))
        assert code in IN_TIME_OR_NOT
    for name in names:
        if one.job(api, name).state != JOB_STATE_RUNNING:
            assert one.wait(api, name).state == JOB_STATE_CANCELLED
    assert_invariants(one)


def test_short_deadlines_everywhere(api: Api, server: Daemon) -> None:
    """One millisecond is refused or enough, and harms nothing."""
    for call in (
        partial(api, api.jobs.ListJobs, ListJobsRequest(), seconds=0.001),
        partial(api, api.server.GetServerInfo, GetServerInfoRequest(), seconds=0.001),
    ):
        assert {status(call) for _ in range(20)} <= IN_TIME_OR_NOT
    assert_invariants(server)


def test_oversize_message(api: Api, server: Daemon) -> None:
    """A message beyond the limit is refused by gRPC itself, and the connection lives on."""
    limits = api(api.server.GetServerInfo, GetServerInfoRequest()).server_info.limits
    assert limits.max_message_bytes == MIB
    large = GetJobRequest(name="x" * (MIB + 1))

    assert status(lambda: api(api.jobs.GetJob, large)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert api(api.server.GetServerInfo, GetServerInfoRequest()).server_info.limits == limits


def test_oversize_metadata(api: Api) -> None:
    """Headers beyond gRPC's limit end the request, not the daemon."""
    metadata = (*api.metadata, ("x-large", "y" * MIB))
    request = GetServerInfoRequest()
    code = status(lambda: api.server.GetServerInfo(request, metadata=metadata, timeout=10))

    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert api(api.server.GetServerInfo, GetServerInfoRequest()).server_info.version


@pytest.mark.reason("FIELD_INVALID")
def test_largest_message(api: Api, server: Daemon) -> None:
    """A message of nearly 1 MiB, all of it labels, is looked at and refused in short."""
    labels = {f"key{number}": "v" * 1000 for number in range(1000)}
    request = server.request(labels=labels)
    assert MIB * 0.9 < request.ByteSize() < MIB
    with refused("FIELD_INVALID") as refusal:
        api(api.jobs.CreateJob, request)

    assert refusal.error.field_violations[0].field == "job.labels"


@pytest.mark.reason("FIELD_INVALID")
def test_no_message(api: Api) -> None:
    """Bytes that are no message are refused with a reason, by every kind of RPC."""
    for method in ("JobService/GetJob", "JobService/WatchJobs", "MediaService/UploadMedia"):
        call = api.raw(f"/callsd.v1.{method}")
        with refused("FIELD_INVALID", grpc.StatusCode.INVALID_ARGUMENT):
            list(call(iter([b"\xff\xff\xff"]), timeout=10, metadata=api.metadata))


def test_unknown_fields(api: Api, server: Daemon) -> None:
    """What a newer client says beside is passed over."""
    call = api.raw("/callsd.v1.JobService/CreateJob")
    newer = server.request().SerializeToString() + b"\xfa\x3e\x03new"
    (bytes_,) = call(iter([newer]), timeout=10, metadata=api.metadata)
    answer = CreateJobResponse.FromString(bytes_)

    assert server.wait(api, answer.job.name).state == JOB_STATE_SUCCEEDED


def test_odd_text_survives(api: Api, server: Daemon) -> None:
    """Text that is odd but allowed comes back as it was given."""
    odd = "שלום \u202e\U0001f600 é' \"; DROP TABLE jobs; -- %s {0} $(id)"
    request = server.request(labels={"odd": odd})
    request.job.transcription.tracks[0].speaker = odd
    request.job.transcription.vocabulary.append(odd)
    job = server.wait(api, api(api.jobs.CreateJob, request).job.name)

    assert job.labels["odd"] == odd
    assert job.transcription.tracks[0].speaker == odd
    assert list(job.transcription.vocabulary) == [odd]
