# SPDX-License-Identifier: Apache-2.0
"""How calls are made: retries, tokens, start-up time."""

import subprocess
import sys
from pathlib import Path
from uuid import UUID

import grpc
import pytest

from callsd import AsyncClient, Client, SettingsError, UnavailableError
from callsd.v1.job_pb2 import CreateJobRequest
from callsd.v1.recording_pb2 import RECORDING_PROFILE_LOW, RecordingSpec
from callsd.v1.transcription_pb2 import TranscriptionSpec
from tests.clients.scripted import Scripted


AWAY = {"code": grpc.StatusCode.UNAVAILABLE, "reason": "DRAINING"}

IMPORT_CPU_SECONDS = 0.3

PAGE = RecordingSpec(
    url="https://a.example/", url_fragment="t", headers={"X-A": "b"}, profile=RECORDING_PROFILE_LOW
)


class TestRecordings:
    """A page is one more thing that a job can be made of."""

    def test_whole_spec_is_sent(self, client: Client, scripted: Scripted) -> None:
        """What was asked for arrives, secrets too, and nothing else is asked for."""
        client.create_job(PAGE, labels={"call": "one"}, max_duration_seconds=90)

        (request,) = scripted.jobs.requests
        assert isinstance(request, CreateJobRequest)
        assert request.job.WhichOneof("spec") == "recording"
        assert request.job.recording == PAGE
        assert request.job.max_duration.seconds == 90
        assert dict(request.job.labels) == {"call": "one"}

    async def test_asyncio_sends_the_same(self, scripted: Scripted) -> None:
        """An asyncio client asks for the same, and tries again under the same request id."""
        scripted.jobs.refusals = [AWAY]
        async with AsyncClient(scripted.address) as client:
            created = await client.create_job(PAGE, validate_only=True)

        first, second = scripted.jobs.requests
        assert isinstance(second, CreateJobRequest)
        assert created.job.name == "jobs/a"
        assert second.job.recording == PAGE
        assert second.validate_only
        assert first == second


class TestRetries:
    """Which calls are made again."""

    def test_create_job_is_repeated_under_one_request_id(
        self, client: Client, scripted: Scripted
    ) -> None:
        """A lost answer cannot make two jobs: all tries carry the same request id."""
        scripted.jobs.refusals = [AWAY, AWAY]

        assert client.create_job(TranscriptionSpec()).job.name == "jobs/a"

        ids = {
            request.request_id
            for request in scripted.jobs.requests
            if isinstance(request, CreateJobRequest)
        }
        assert len(scripted.jobs.requests) == 3
        assert len(ids) == 1
        assert UUID(ids.pop()).version == 4

    def test_two_calls_are_two_jobs(self, client: Client, scripted: Scripted) -> None:
        """Each call of create_job has a request id of its own."""
        client.create_job(TranscriptionSpec())
        client.create_job(TranscriptionSpec())

        first, second = scripted.jobs.requests
        assert isinstance(first, CreateJobRequest)
        assert isinstance(second, CreateJobRequest)
        assert first.request_id != second.request_id

    def test_stop_job_is_not_repeated(self, client: Client, scripted: Scripted) -> None:
        """Only reads and CreateJob are tried again."""
        scripted.jobs.refusals = [AWAY]

        with pytest.raises(UnavailableError):
            client.stop_job("a")

        assert len(scripted.jobs.requests) == 1


class TestTokens:
    """What proves who calls."""

    def test_token_is_read_for_each_call(self, scripted: Scripted, tmp_path: Path) -> None:
        """A client that runs on uses a token that was renewed meanwhile."""
        token_file = tmp_path / "token"
        with Client(scripted.address, token_file=token_file) as client:
            for secret in ("callsd_old", "callsd_new"):
                token_file.write_text(f"{secret}\n")
                client.create_job(TranscriptionSpec())

        assert [metadata["authorization"] for metadata in scripted.jobs.metadata] == [
            "Bearer callsd_old",
            "Bearer callsd_new",
        ]

    @pytest.mark.parametrize("content", [None, b"", b"two words", b"two\nlines", b"\xff"])
    def test_bad_token_file_is_named(
        self, scripted: Scripted, tmp_path: Path, content: bytes | None
    ) -> None:
        """A token file that is missing or holds no token is an error that names it."""
        token_file = tmp_path / "token"
        if content is not None:
            token_file.write_bytes(content)

        with (
            Client(scripted.address, token_file=token_file) as client,
            pytest.raises(SettingsError, match=str(token_file)),
        ):
            client.stop_job("a")


class TestImport:
    """What the library costs."""

    def test_import_is_quick_and_light(self) -> None:
        """`import callsd` costs less than 300 ms and brings nothing of the daemon's."""
        code = (
            "import sys, time; import callsd; print(time.process_time());"
            "print([m for m in sys.modules if m.partition('.')[0] in"
            " ('callsd_daemon', 'callsd_worker', 'callsd_ipc', 'numpy', 'click', 'rich')])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
        )
        seconds, modules = done.stdout.splitlines()

        assert float(seconds) < IMPORT_CPU_SECONDS
        assert modules == "[]"
