# SPDX-License-Identifier: Apache-2.0
"""The client for plain, blocking code."""

from collections.abc import Generator, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from callsd._caption_sender import CaptionSender
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
from callsd._sync import Calls
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


class Client:
    """A connection to one daemon; safe to use from several threads.

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
        """Prepare to talk to a daemon; connects with the first request.

        Args:
            address: `unix:/path`, `tcp:HOST:PORT` (this machine only) or `tls:HOST:PORT`.
                Default: CALLSD_ADDRESS, else the socket of this user's or the system's daemon.
            token_file: File with the bearer token. Default: CALLSD_TOKEN_FILE, else the owner's
                token beside the socket.
            ca_file: Certificates to trust for TLS. Default: CALLSD_CA_FILE, else the system's.
            timeout_seconds: Deadline of a request that gives none of its own.
            patience_seconds: How long streams wait for a daemon that has gone away.

        Raises:
            SettingsError: The address is malformed or a file cannot be read.
        """
        self.endpoint = Endpoint.discover(address=address, token_file=token_file, ca_file=ca_file)
        self._calls = Calls(self.endpoint, timeout_seconds=timeout_seconds)
        self._patience_seconds = patience_seconds

    def close(self) -> None:
        """End all requests and disconnect."""
        self._calls.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- jobs ---

    def create_job(
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
        """Ask for a job. The answer has the job and what admission said to it.

        Args:
            spec: What to do.
            labels: Marks of your own.
            max_duration_seconds: Longest time to run. Default: the server's.
            request_id: Give the same id to ask for the same job again after a failure whose
                outcome you do not know. Default: a new one, which covers the retries in here.
            validate_only: Check the request and admission, create nothing.
            no_queue: Refuse with `CapacityError` instead of waiting for capacity.
            timeout_seconds: Deadline of the request; the job outlives it.
        """
        request = create_job_request(
            spec,
            labels=labels,
            max_duration_seconds=max_duration_seconds,
            request_id=request_id,
            validate_only=validate_only,
            no_queue=no_queue,
        )
        return self._calls.unary(self._calls.jobs.CreateJob, request, timeout_seconds)

    def get_job(self, job: str | Job, *, timeout_seconds: float | None = None) -> Job:
        """One job as it is now, by name or bare identifier."""
        request = GetJobRequest(name=job_name(job))
        return self._calls.unary(self._calls.jobs.GetJob, request, timeout_seconds).job

    def list_jobs(
        self,
        filter_: JobFilter | None = None,
        *,
        page_size: int = 0,
        timeout_seconds: float | None = None,
    ) -> Generator[Job]:
        """All jobs that match, newest first; pages are fetched as they are needed."""
        token = ""
        while True:
            request = list_jobs_request(filter_, page_size=page_size, token=token)
            page = self._calls.unary(self._calls.jobs.ListJobs, request, timeout_seconds)
            yield from page.jobs
            if not (token := page.next_page_token):
                return

    def stop_job(
        self, job: str | Job, *, etag: str = "", timeout_seconds: float | None = None
    ) -> Job:
        """End a job; the answer may still be STOPPING (see `wait_job`)."""
        request = StopJobRequest(name=job_name(job), etag=etag)
        return self._calls.unary(self._calls.jobs.StopJob, request, timeout_seconds).job

    def delete_job(
        self, job: str | Job, *, etag: str = "", timeout_seconds: float | None = None
    ) -> None:
        """Remove a finished job with its log and artifacts."""
        request = DeleteJobRequest(name=job_name(job), etag=etag)
        self._calls.unary(self._calls.jobs.DeleteJob, request, timeout_seconds)

    def publish_job(
        self, job: str | Job, *, token: str = "", timeout_seconds: float | None = None
    ) -> Job:
        """Deliver what a finished job has made, now, with a new `token` if there is one."""
        request = PublishJobRequest(name=job_name(job), token=token)
        return self._calls.unary(self._calls.jobs.PublishJob, request, timeout_seconds).job

    def watch_jobs(
        self,
        filter_: JobFilter | None = None,
        *,
        resume: WatchPosition | None = None,
        timeout_seconds: float | None = None,
    ) -> Generator[WatchEvent]:
        """Matching jobs as they are now, then each change: in order, without gap or repetition.

        Goes on over lost connections and restarts, and says so by `Interrupted`. Never ends by
        itself; close the iterator to end it.

        Args:
            filter_: Which jobs; its `states` must be empty.
            resume: A `Bookmark.position` of an earlier watch: only what came after it. When the
                server no longer has it, `OutOfRangeError`: begin again without.
            timeout_seconds: End with `DeadlineError` after this time. Default: never.
        """
        watch = JobWatch(filter_, resume=resume, backoff=self._backoff(timeout_seconds))
        return self._calls.stream(self._calls.job_watches.WatchJobs, watch)

    def wait_job(self, job: str | Job, *, timeout_seconds: float | None = None) -> Job:
        """Wait until a job has ended; returns it in its final state, whichever that is.

        Raises:
            NotFoundError: There is no such job, or it was deleted meanwhile.
            DeadlineError: It has not ended within `timeout_seconds`. Default: no limit.
        """
        name = job_name(job)
        ending = JobEnding(self.get_job(name))
        watch = JobWatch(
            job_filter(names=[name]), resume=None, backoff=self._backoff(timeout_seconds)
        )
        with closing(self._calls.stream(self._calls.job_watches.WatchJobs, watch)) as events:
            while ending.job is None:
                ending.observe(next(events))
        return ending.job

    def read_log(
        self, job: str | Job, *, offset: int = 0, follow: bool = False
    ) -> Generator[bytes]:
        """A job's log in pieces, which may cut a character; `follow` waits for the job's end."""
        reading = LogReading(job_name(job), offset=offset, follow=follow, backoff=self._backoff())
        return self._calls.stream(self._calls.job_watches.ReadLog, reading)

    def fetch_artifact(
        self, job: str | Job, file: str, destination: Path, *, progress: Progress | None = None
    ) -> Artifact:
        """Store one artifact of a job as `destination`: whole and verified, or not at all.

        Args:
            job: The job.
            file: Name of the artifact, such as `transcript.vtt`.
            destination: The file to write; replaced if it exists.
            progress: Called with bytes done and bytes in all.

        Raises:
            IntegrityError: What arrived is not what was announced.
            OSError: The destination cannot be written.
        """
        name = artifact_name(job, file)
        backoff = self._backoff()
        with Download(name, destination, progress=progress, backoff=backoff) as download:
            for _ in self._calls.stream(self._calls.jobs.FetchArtifact, download):
                pass
            return download.finish()

    # --- captions ---

    def stream_captions(
        self,
        job: str | Job,
        encoding: AudioEncoding.ValueType = AUDIO_ENCODING_S16LE_16KHZ,
        *,
        keep_seconds: float = DEFAULT_KEEP_SECONDS,
    ) -> CaptionSender:
        """Begin to send the sound of a call to its captions job.

        The sender goes on where an earlier one of the same job was: it numbers what it sends after
        what the server has received (see `CaptionSender.acks`).

        Args:
            job: The job, made with a `CaptionsSpec`. Stop it when the call is over.
            encoding: How all of the call's sound is coded.
            keep_seconds: How much sound of one speaker may wait to be worked off before `send`
                blocks.

        Raises:
            ConflictError: The job is not one that takes sound now.
        """
        return CaptionSender(
            self._calls.send_captions,
            CaptionsConfig(job=job_name(job), encoding=encoding),
            audio=SentAudio(keep_seconds=keep_seconds),
            backoff=self._backoff(),
            patience_seconds=self._patience_seconds,
        )

    def watch_captions(
        self,
        job: str | Job,
        *,
        resume_sequence: int | None = None,
        finals_only: bool = False,
        timeout_seconds: float | None = None,
    ) -> Generator[WatchCaptionsResponse]:
        """A call's captions and events as they come, to the end of its job.

        Goes on over lost connections and restarts: each final caption comes once, in order, none
        is left out. Interim ones just go on. A message with neither caption nor event tells the
        lag. The job's captions are also there after its end.

        Args:
            job: The job.
            resume_sequence: Only final captions behind this number; 0 is all of them. Default: the
                last 10.
            finals_only: Leave interim captions out.
            timeout_seconds: End with `DeadlineError` after this time. Default: never.
        """
        watch = CaptionWatch(
            job_name(job),
            resume_sequence=resume_sequence,
            finals_only=finals_only,
            backoff=self._backoff(timeout_seconds),
        )
        return self._calls.stream(self._calls.caption_watches.WatchCaptions, watch)

    # --- uploads ---

    def upload_media(
        self, path: Path, *, upload_id: UUID | None = None, progress: Progress | None = None
    ) -> Upload:
        """Send a file; put the result's `name` in a track's `upload`.

        Args:
            path: The file; it must not change meanwhile.
            upload_id: Id of an upload begun before, to go on with it. Default: a new one.
            progress: Called with bytes done and bytes in all, from gRPC's thread.

        Raises:
            OSError: The file cannot be read.
        """
        file = LocalFile.read(path)
        return self._calls.upload(
            Uploading(file, upload_id=upload_id, progress=progress, backoff=self._backoff())
        )

    def delete_upload(self, name: str, *, timeout_seconds: float | None = None) -> None:
        """Remove an upload that no job needs."""
        self._calls.unary(
            self._calls.media.DeleteUpload, DeleteUploadRequest(name=name), timeout_seconds
        )

    # --- models ---

    def list_models(self, *, timeout_seconds: float | None = None) -> list[Model]:
        """The catalogue, and what of it is present."""
        answer = self._calls.unary(
            self._calls.models.ListModels, ListModelsRequest(), timeout_seconds
        )
        return list(answer.models)

    def pull_model(self, name: str, *, source: str = "") -> Generator[PullModelResponse]:
        """Have the server fetch a model; yields how far it is, last with `model` set.

        Closing the iterator ends the pull. A pull is not resumed when the connection breaks.
        """
        request = PullModelRequest(name=name, source=source)
        return self._calls.stream(self._calls.models.PullModel, OneCall(request))

    def verify_model(self, name: str, *, timeout_seconds: float = VERIFY_TIMEOUT_SECONDS) -> Model:
        """Have the server check a model's files and transcribe a sample with them."""
        request = VerifyModelRequest(name=name)
        return self._calls.unary(self._calls.models.VerifyModel, request, timeout_seconds).model

    # --- server ---

    def is_serving(self, *, timeout_seconds: float | None = None) -> bool:
        """Whether the daemon says that it is well; needs no token."""
        request = HealthCheckRequest()
        answer = self._calls.unary(self._calls.check_health, request, timeout_seconds)
        return bool(answer.status == HealthCheckResponse.SERVING)

    def get_server_info(self, *, timeout_seconds: float | None = None) -> ServerInfo:
        """Versions, limits and features."""
        answer = self._calls.unary(
            self._calls.server.GetServerInfo, GetServerInfoRequest(), timeout_seconds
        )
        return answer.server_info

    def get_capacity(self, *, timeout_seconds: float | None = None) -> Capacity:
        """What the machine can carry now."""
        answer = self._calls.unary(
            self._calls.server.GetCapacity, GetCapacityRequest(), timeout_seconds
        )
        return answer.capacity

    def watch_capacity(self, *, timeout_seconds: float | None = None) -> Generator[Capacity]:
        """The capacity now, and then whenever it changes; goes on over lost connections."""
        watch = CapacityWatch(self._backoff(timeout_seconds))
        return self._calls.stream(self._calls.server_watches.WatchCapacity, watch)

    def _backoff(self, timeout_seconds: float | None = None) -> Backoff:
        return Backoff(
            patience_seconds=self._patience_seconds,
            timeout_seconds=timeout_seconds,
            is_known=self._calls.has_answered,
        )
