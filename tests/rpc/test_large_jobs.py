# SPDX-License-Identifier: Apache-2.0
"""Large jobs: how large they may be, and that they are in nobody's way."""

import json
from collections.abc import Iterator

import grpc
import pytest
from click.testing import CliRunner

from callsd.v1.job_pb2 import (
    CreateJobRequest,
    DeleteJobRequest,
    ListJobsRequest,
    StopJobRequest,
    WatchJobsRequest,
    WatchJobsResponse,
)
from callsd.v1.server_pb2 import GetServerInfoRequest
from callsd.v1.transcription_pb2 import Track
from callsd_daemon.cli.root import root
from callsd_daemon.rpc.job_messages import MAX_JOB_BYTES
from callsd_daemon.store.read_transaction import PAGE_BYTES
from callsd_daemon.usecases.changes import BATCH_BYTES
from tests.conftest import StartDaemon
from tests.helpers.api import Api
from tests.helpers.daemon import Daemon
from tests.helpers.invariants import footprint
from tests.helpers.reasons import refused


CLIENT_BYTES = 4 * 1024**2
"""What a gRPC client takes that sets nothing."""

COUNT = 40


def large_request(one: Daemon, *, speaker: str) -> CreateJobRequest:
    """A job of 256 tracks."""
    request = one.request()
    tracks = [Track(path=str(one.track), speaker=speaker, language="en") for _ in range(256)]
    del request.job.transcription.tracks[:]
    request.job.transcription.tracks.extend(tracks)
    return request


@pytest.fixture(scope="module")
def crowded(shared_daemon: StartDaemon) -> Daemon:
    """A daemon with many jobs that wait and are as large as may be."""
    one = shared_daemon(config={"jobs": {"max_concurrent_jobs": 1}})
    api = one.api()
    one.create(api, "sleep")
    request = large_request(one, speaker="語" * 135)
    assert 0.8 * MAX_JOB_BYTES < request.job.ByteSize() < MAX_JOB_BYTES
    for _ in range(COUNT):
        one.acknowledged.add(api(api.jobs.CreateJob, request).job.name)
    return one


@pytest.fixture
def ordinary(crowded: Daemon) -> Iterator[Api]:
    """The API on a connection that takes messages as large as gRPC's default."""
    with grpc.insecure_channel(
        crowded.address,
        (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", CLIENT_BYTES)),
    ) as channel:
        yield Api(channel, crowded.token)


@pytest.mark.reason("FIELD_INVALID")
def test_too_large(api: Api, server: Daemon) -> None:
    """A job of more than the server says is refused, with its size."""
    limits = api(api.server.GetServerInfo, GetServerInfoRequest()).server_info.limits
    request = large_request(server, speaker="語" * 200)
    with refused("FIELD_INVALID", grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        api(api.jobs.CreateJob, request)

    (violation,) = refusal.error.field_violations
    assert violation.field == "job"
    said = f"{request.job.ByteSize()} bytes, at most {limits.max_job_bytes}"
    assert said in violation.description


def test_large_call(api: Api, server: Daemon) -> None:
    """A call with 256 speakers, named at length, a full vocabulary and a prompt is no problem."""
    request = large_request(server, speaker="Владимир Александрович Ржевский")
    spec = request.job.transcription
    for number, track in enumerate(spec.tracks):
        track.path = f"{track.path.rjust(200, '/')}"
        track.start_offset.FromMilliseconds(number * 1001)
    spec.vocabulary.extend(["Донаудампфшифффахртсгезелльшафт"] * 100)
    spec.initial_prompt = "п" * 2000
    request.job.labels.update({f"label{number}": "x" * 200 for number in range(32)})
    request.validate_only = True

    assert len(api(api.jobs.CreateJob, request).job.transcription.tracks) == 256


def test_list(crowded: Daemon, ordinary: Api) -> None:
    """A page ends when it is full, however many jobs were asked for, and leaves nothing out."""
    names, token, pages = list[str](), "", 0
    while token or not names:
        request = ListJobsRequest(page_size=1000, page_token=token)
        page = ordinary(ordinary.jobs.ListJobs, request)
        assert page.ByteSize() < PAGE_BYTES
        names += [job.name for job in page.jobs]
        token, pages = page.next_page_token, pages + 1

    assert len(names) == len(set(names)) == COUNT + 1
    assert set(names) == crowded.acknowledged
    assert pages > COUNT * MAX_JOB_BYTES // PAGE_BYTES // 2


def test_watch(crowded: Daemon, ordinary: Api) -> None:
    """All jobs and all that has happened to them is told in messages of a bounded size."""

    def read(request: WatchJobsRequest, revision: int) -> Iterator[WatchJobsResponse]:
        for message in ordinary.stream(ordinary.jobs.WatchJobs, request):
            assert message.ByteSize() < BATCH_BYTES + MAX_JOB_BYTES
            yield message
            if message.initial_state_sent and message.revision >= revision:
                return

    messages = list(read(WatchJobsRequest(), 0))
    told = {event.job_changed.name for message in messages for event in message.events}
    newest = messages[-1].revision
    history = list(read(WatchJobsRequest(resume_revision=0), newest))
    revisions = [event.revision for message in history for event in message.events]

    assert told == crowded.acknowledged
    # A job may have gone on meanwhile.
    assert revisions[:newest] == list(range(1, newest + 1))


def test_command_line(crowded: Daemon) -> None:
    """`callsd jobs list` shows them."""
    env = {"CALLSD_ADDRESS": crowded.address, "CALLSD_TOKEN_FILE": str(crowded.token_file)}
    shown = CliRunner(env=env).invoke(root, ["jobs", "list", "--limit", "1000", "--json"])

    assert shown.exit_code == 0, shown.output
    assert {job["name"] for job in json.loads(shown.stdout)} == crowded.acknowledged


def test_changing(daemon: StartDaemon) -> None:
    """However often large jobs change, the daemon's memory and its disk stay as they are."""
    one = daemon(config={"jobs": {"max_concurrent_jobs": 1}})
    api = one.api()
    one.create(api, "sleep")
    request = large_request(one, speaker="語" * 135)

    def change() -> None:
        name = api(api.jobs.CreateJob, request).job.name
        api(api.jobs.StopJob, StopJobRequest(name=name))
        api(api.jobs.DeleteJob, DeleteJobRequest(name=name))

    for _ in range(60):
        change()
    before = footprint(one).resident_bytes
    for _ in range(100):
        change()
    grown = footprint(one).resident_bytes - before

    # What is remembered of them would have 24 MB by now.
    assert grown < 8 * 1024**2
