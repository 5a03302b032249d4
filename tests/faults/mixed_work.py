# SPDX-License-Identifier: Apache-2.0
"""Work of all sorts, and what must have become of it when a fault is over."""

import hashlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from callsd._errors import error_from_rpc
from callsd.v1.job_pb2 import (
    JOB_STATE_CANCELLED,
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    FetchArtifactRequest,
    ListJobsRequest,
    StopJobRequest,
)
from callsd.v1.media_pb2 import GetUploadRequest, UploadChunk, UploadMediaRequest, UploadStart
from callsd_daemon.tokens import TokenFile
from callsd_daemon.usecases.jobs import job_id_of
from tests.helpers.api import Api, log_of
from tests.helpers.daemon import Daemon


CONTENT = b"sound" * 60_000
CHUNK_BYTES = 256 * 1024


@dataclass
class Mix:
    """Work of all sorts on one daemon, once for each fault."""

    one: Daemon
    api: Api
    done: str
    """Name of a job that was done before."""

    def __post_init__(self) -> None:
        self.key = str(uuid.uuid4())
        self.upload_id = str(uuid.uuid4())
        self.go = self.one.root / "tmp" / f"go-{self.key}"
        self.new = job_id_of("owner", self.key)
        self.running = self.create(f"read media/0; until {self.go.name}; print bye")
        self.stopped = self.create("sleep")
        for name in (self.running, self.stopped):
            self.one.wait(self.api, name, JOB_STATE_RUNNING)

    def create(self, script: str, request_id: str = "") -> str:
        """A job that was acknowledged."""
        return str(self.one.create(self.api, script, request_id=request_id).job.name)

    def places(self, place: str) -> list[Path]:
        """Files and directories of this kind that the work touches."""
        state = self.one.state
        ids = [self.new, self.running.removeprefix("jobs/")]
        jobs = [state / "jobs" / job_id for job_id in ids]
        workers = [state / "workers" / job_id for job_id in ids]
        uploads, upload_id = state / "uploads", self.upload_id
        upload = [uploads / upload_id, uploads / f".{upload_id}"]
        files = {
            "wal": [state / "callsd.db-wal"],
            "job": [state / "jobs", *jobs, *(job / "artifacts" for job in jobs)],
            "artifact": [
                job / "artifacts" / name
                for job in jobs
                for name in ("transcript.vtt", ".transcript.vtt.part")
            ],
            "outcome": [
                job / name for job in jobs for name in ("outcome.binpb", ".outcome.binpb.part")
            ],
            "log": [job / "log.txt" for job in jobs],
            "worker": [state / "workers", *workers, *(one / "artifacts" for one in workers)],
            "trash": [state / "trash"],
            "upload": [
                uploads,
                *upload,
                *(one / name for one in upload for name in ("upload.json", "media", "complete")),
            ],
            "tokens": [state / "tokens.json"],
            "media": [self.one.track, self.one.media],
        }
        return files[place]

    def go_on(self) -> dict[str, str]:
        """Ask for something of everything; what it was refused with, "" if it was not."""
        self.go.touch()
        api, one, done = self.api, self.one, self.done
        secret = TokenFile(one.state / "tokens.json").create(self.key, ("jobs.read",))
        other = Api(api.channel, secret)
        asked: dict[str, Callable[[], object]] = {
            "CreateJob": lambda: self.create("succeed", self.key),
            "ListJobs": lambda: api(api.jobs.ListJobs, ListJobsRequest(page_size=5)),
            "UploadMedia": self.upload,
            "GetUpload": self.received,
            "StopJob": lambda: api(api.jobs.StopJob, StopJobRequest(name=self.stopped)),
            "GetJob": lambda: one.job(other, done),
            "ReadLog": lambda: log_of(api, done),
            "FetchArtifact": self.fetch,
        }
        return {name: refusal(ask) for name, ask in asked.items()}

    def upload(self) -> None:
        """Send a file, from where an earlier try came to."""
        sha256 = hashlib.sha256(CONTENT).hexdigest()
        start = UploadStart(upload_id=self.upload_id, size_bytes=len(CONTENT), sha256=sha256)
        offset = self.received() if self.is_begun() else 0

        def messages() -> Iterator[UploadMediaRequest]:
            yield UploadMediaRequest(start=start)
            for at in range(offset, len(CONTENT), CHUNK_BYTES):
                data = CONTENT[at : at + CHUNK_BYTES]
                yield UploadMediaRequest(chunk=UploadChunk(offset=at, data=data))

        send = self.api.media.UploadMedia
        assert send(messages(), timeout=20, metadata=self.api.metadata).upload.complete

    def is_begun(self) -> bool:
        """Whether something of the file is there."""
        return (self.one.state / "uploads" / self.upload_id).exists()

    def received(self) -> int:
        """How much of the file is there."""
        request = GetUploadRequest(name=f"uploads/{self.upload_id}")
        return int(self.api(self.api.media.GetUpload, request).upload.received_bytes)

    def fetch(self) -> None:
        """Get a result, which is whole if nobody says anything else."""
        request = FetchArtifactRequest(name=f"{self.done}/artifacts/transcript.vtt")
        parts = self.api.stream(self.api.jobs.FetchArtifact, request)
        assert b"".join(part.data for part in parts) == b"WEBVTT\n"

    def assert_finished(self) -> None:
        """On a disk that is well again everything comes to its end."""
        one, api = self.one, self.api
        api(api.jobs.StopJob, StopJobRequest(name=self.stopped))
        assert one.wait(api, self.stopped).state == JOB_STATE_CANCELLED
        ran = one.wait(api, self.running)
        assert (ran.state, ran.attempt) == (JOB_STATE_SUCCEEDED, 1), ran
        assert self.create("succeed", self.key) == f"jobs/{self.new}"
        new = one.wait(api, f"jobs/{self.new}")
        assert new.state == JOB_STATE_SUCCEEDED, new
        self.upload()
        assert self.received() == len(CONTENT)
        self.fetch()


def refusal(ask: Callable[[], object]) -> str:
    """The reason with which a request was refused; "" if it was not."""
    try:
        ask()
    except grpc.RpcError as error:
        told = error_from_rpc(error)
        return told.reason or told.code.name
    return ""
