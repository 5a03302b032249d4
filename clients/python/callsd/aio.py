# SPDX-License-Identifier: Apache-2.0
"""The client for asyncio."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from callsd._async import AsyncCalls
from callsd._caption_sender_async import AsyncCaptionSender
from callsd._caption_watch import CaptionWatch
from callsd._channel import DEFAULT_TIMEOUT_SECONDS, VERIFY_TIMEOUT_SECONDS
from callsd._endpoint import Endpoint
from callsd._requests import (
    JobSpec,
    artifact_name,
    create_job_request,
    job_filter,
    job_name,
    list_jobs_request,
)
from callsd._resume import DEFAULT_PATIENCE_SECONDS, Backoff, OneCall
from callsd._sent_audio import DEFAULT_KEEP_SECONDS, SentAudio
from callsd._transfer import Download, LocalFile, LogReading, Progress, Uploading
from callsd._watch import CapacityWatch, JobEnding, JobWatch, WatchEvent, WatchPosition
from callsd.v1.capacity_pb2 import Capacity
from callsd.v1.caption_pb2 import (
    AUDIO_ENCODING_S16LE_16KHZ,
    AudioEncoding,
    CaptionsConfig,
    WatchCaptionsResponse,
)
from callsd.v1.job_pb2 import (
    Artifact,
    CreateJobResponse,
    DeleteJobRequest,
    GetJobRequest,
    Job,
    JobFilter,
    PublishJobRequest,
    StopJobRequest,
)
from callsd.v1.media_pb2 import DeleteUploadRequest, Upload
from callsd.v1.model_pb2 import (
    ListModelsRequest,
    Model,
    PullModelRequest,
    PullModelResponse,
    VerifyModelRequest,
)
from callsd.v1.server_pb2 import GetCapacityRequest, GetServerInfoRequest, ServerInfo


class AsyncClient:
    """A connection to one daemon; belongs to the event loop it was made in.

    Every method raises `CallsdError` or one of its subclasses. Requests with one answer have a
    deadline of `timeout_seconds`; streams go on over lost connections and restarts of the daemon,
    until it has not answered for `patience_seconds`.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        token_file: Path | None = None,
        ca_file: Path | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        patience_seconds: float = DEFAULT_PATIENCE_SECONDS,
    ) -> None:
        """Prepare to talk to a daemon; arguments and errors are those of `Client`."""
        self.endpoint = Endpoint.discover(address=address, token_file=token_file, ca_file=ca_file)
        self._calls = AsyncCalls(self.endpoint, timeout_seconds=timeout_seconds)
        self._patience_seconds = patience_seconds

    async def close(self) -> None:
        """End all requests and disconnect."""
        await self._calls.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # --- jobs ---

    async def create_job(
        self,
        spec: JobSpec,
        *,
        labels: Mapping[str, str] | None = None,
        max_duration_seconds: float | None = None,
        request_id: UUID | None = None,
        validate_only: bool = False,
        no_queue: bool = False,
        timeout_seconds: float | None = None,
    ) -> CreateJobResponse:
        """Ask for a job, as `Client.create_job`."""
        request = create_job_request(
            spec,
            labels=labels,
            max_duration_seconds=max_duration_seconds,
            request_id=request_id,
            validate_only=validate_only,
            no_queue=no_queue,
        )
        return await self._calls.unary(self._calls.jobs.CreateJob, request, timeout_seconds)

    async def get_job(self, job: str | Job, *, timeout_seconds: float | None = None) -> Job:
        """One job as it is now, by name or bare identifier."""
        request = GetJobRequest(name=job_name(job))
        return (await self._calls.unary(self._calls.jobs.GetJob, request, timeout_seconds)).job

    async def list_jobs(
        self,
        filter_: JobFilter | None = None,
        *,
        page_size: int = 0,
        timeout_seconds: float | None = None,
    ) -> AsyncGenerator[Job]:
        """All jobs that match, newest first; pages are fetched as they are needed."""
        token = ""
        while True:
            request = list_jobs_request(filter_, page_size=page_size, token=token)
            page = await self._calls.unary(self._calls.jobs.ListJobs, request, timeout_seconds)
            for job in page.jobs:
                yield job
            if not (token := page.next_page_token):
                return

    async def stop_job(
        self, job: str | Job, *, etag: str = "", timeout_seconds: float | None = None
    ) -> Job:
        """End a job; the answer may still be STOPPING (see `wait_job`)."""
        request = StopJobRequest(name=job_name(job), etag=etag)
        return (await self._calls.unary(self._calls.jobs.StopJob, request, timeout_seconds)).job

    async def delete_job(
        self, job: str | Job, *, etag: str = "", timeout_seconds: float | None = None
    ) -> None:
        """Remove a finished job with its log and artifacts."""
        request = DeleteJobRequest(name=job_name(job), etag=etag)
        await self._calls.unary(self._calls.jobs.DeleteJob, request, timeout_seconds)

    async def publish_job(
        self, job: str | Job, *, token: str = "", timeout_seconds: float | None = None
    ) -> Job:
        """Deliver what a finished job has made, now, with a new `token` if there is one."""
        request = PublishJobRequest(name=job_name(job), token=token)
        return (await self._calls.unary(self._calls.jobs.PublishJob, request, timeout_seconds)).job

    def watch_jobs(
        self,
        filter_: JobFilter | None = None,
        *,
        resume: WatchPosition | None = None,
        timeout_seconds: float | None = None,
    ) -> AsyncGenerator[WatchEvent]:
        """Matching jobs as they are now, then each change, as `Client.watch_jobs`."""
        watch = JobWatch(filter_, resume=resume, backoff=self._backoff(timeout_seconds))
        return self._calls.stream(self._calls.job_watches.WatchJobs, watch)

    async def wait_job(self, job: str | Job, *, timeout_seconds: float | None = None) -> Job:
        """Wait until a job has ended, as `Client.wait_job`."""
        name = job_name(job)
        ending = JobEnding(await self.get_job(name))
        watch = JobWatch(
            job_filter(names=[name]), resume=None, backoff=self._backoff(timeout_seconds)
        )
        async with aclosing(self._calls.stream(self._calls.job_watches.WatchJobs, watch)) as events:
            while ending.job is None:
                ending.observe(await anext(events))
        return ending.job

    def read_log(
        self, job: str | Job, *, offset: int = 0, follow: bool = False
    ) -> AsyncGenerator[bytes]:
        """A job's log in pieces, which may cut a character; `follow` waits for the job's end."""
        reading = LogReading(job_name(job), offset=offset, follow=follow, backoff=self._backoff())
        return self._calls.stream(self._calls.job_watches.ReadLog, reading)

    async def fetch_artifact(
        self, job: str | Job, file: str, destination: Path, *, progress: Progress | None = None
    ) -> Artifact:
        """Store one artifact as `destination`: whole and verified, or not at all."""
        name = artifact_name(job, file)
        backoff = self._backoff()
        with Download(name, destination, progress=progress, backoff=backoff) as download:
            async for _ in self._calls.stream(self._calls.jobs.FetchArtifact, download):
                pass
            return await asyncio.to_thread(download.finish)

    # --- captions ---

    async def stream_captions(
        self,
        job: str | Job,
        encoding: AudioEncoding.ValueType = AUDIO_ENCODING_S16LE_16KHZ,
        *,
        keep_seconds: float = DEFAULT_KEEP_SECONDS,
    ) -> AsyncCaptionSender:
        """Begin to send the sound of a call, as `Client.stream_captions`.

        `async with await client.stream_captions(job) as sender: …`
        """
        sender = AsyncCaptionSender(
            self._calls.send_captions,
            CaptionsConfig(job=job_name(job), encoding=encoding),
            audio=SentAudio(keep_seconds=keep_seconds),
            backoff=self._backoff(),
            patience_seconds=self._patience_seconds,
        )
        return await sender.connect()

    def watch_captions(
        self,
        job: str | Job,
        *,
        resume_sequence: int | None = None,
        finals_only: bool = False,
        timeout_seconds: float | None = None,
    ) -> AsyncGenerator[WatchCaptionsResponse]:
        """A call's captions and events as they come, as `Client.watch_captions`."""
        watch = CaptionWatch(
            job_name(job),
            resume_sequence=resume_sequence,
            finals_only=finals_only,
            backoff=self._backoff(timeout_seconds),
        )
        return self._calls.stream(self._calls.caption_watches.WatchCaptions, watch)

    # --- uploads ---

    async def upload_media(
        self, path: Path, *, upload_id: UUID | None = None, progress: Progress | None = None
    ) -> Upload:
        """Send a file, as `Client.upload_media`; `progress` is called in the event loop."""
        file = await asyncio.to_thread(LocalFile.read, path)
        return await self._calls.upload(
            Uploading(file, upload_id=upload_id, progress=progress, backoff=self._backoff())
        )

    async def delete_upload(self, name: str, *, timeout_seconds: float | None = None) -> None:
        """Remove an upload that no job needs."""
        await self._calls.unary(
            self._calls.media.DeleteUpload, DeleteUploadRequest(name=name), timeout_seconds
        )

    # --- models ---

    async def list_models(self, *, timeout_seconds: float | None = None) -> list[Model]:
        """The catalogue, and what of it is present."""
        answer = await self._calls.unary(
            self._calls.models.ListModels, ListModelsRequest(), timeout_seconds
        )
        return list(answer.models)

    def pull_model(self, name: str, *, source: str = "") -> AsyncGenerator[PullModelResponse]:
        """Have the server fetch a model; yields how far it is, last with `model` set.

        Closing the iterator ends the pull. A pull is not resumed when the connection breaks.
        """
        request = PullModelRequest(name=name, source=source)
        return self._calls.stream(self._calls.models.PullModel, OneCall(request))

    async def verify_model(
        self, name: str, *, timeout_seconds: float = VERIFY_TIMEOUT_SECONDS
    ) -> Model:
        """Have the server check a model's files and transcribe a sample with them."""
        request = VerifyModelRequest(name=name)
        return (
            await self._calls.unary(self._calls.models.VerifyModel, request, timeout_seconds)
        ).model

    # --- server ---

    async def is_serving(self, *, timeout_seconds: float | None = None) -> bool:
        """Whether the daemon says that it is well; needs no token."""
        request = HealthCheckRequest()
        answer = await self._calls.unary(self._calls.check_health, request, timeout_seconds)
        return bool(answer.status == HealthCheckResponse.SERVING)

    async def get_server_info(self, *, timeout_seconds: float | None = None) -> ServerInfo:
        """Versions, limits and features."""
        answer = await self._calls.unary(
            self._calls.server.GetServerInfo, GetServerInfoRequest(), timeout_seconds
        )
        return answer.server_info

    async def get_capacity(self, *, timeout_seconds: float | None = None) -> Capacity:
        """What the machine can carry now."""
        answer = await self._calls.unary(
            self._calls.server.GetCapacity, GetCapacityRequest(), timeout_seconds
        )
        return answer.capacity

    def watch_capacity(self, *, timeout_seconds: float | None = None) -> AsyncGenerator[Capacity]:
        """The capacity now, and then whenever it changes; goes on over lost connections."""
        watch = CapacityWatch(self._backoff(timeout_seconds))
        return self._calls.stream(self._calls.server_watches.WatchCapacity, watch)

    def _backoff(self, timeout_seconds: float | None = None) -> Backoff:
        return Backoff(
            patience_seconds=self._patience_seconds,
            timeout_seconds=timeout_seconds,
            is_known=self._calls.has_answered,
        )
