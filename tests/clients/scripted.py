# SPDX-License-Identifier: Apache-2.0
"""A small real gRPC server that breaks where a test wants it to, which a daemon does not."""

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from callsd.v1 import (
    caption_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    media_pb2,
    media_pb2_grpc,
    server_pb2,
    server_pb2_grpc,
)
from tests.clients.scripted_captions import Captions


CONTENT = bytes(range(256)) * 4096
"""A megabyte that is different at each offset modulo 256."""

CHUNK_BYTES = 100_000
WAIT_SECONDS = 30.0

Context = Any  # sync servicers are given a context that only generated code can name


def refuse(
    context: Context,
    code: grpc.StatusCode,
    reason: str = "",
    *,
    metadata: dict[str, str] | None = None,
    retry_after_seconds: float | None = None,
    violations: dict[str, str] | None = None,
    domain: str = "callsd",
) -> NoReturn:
    """End a call as the daemon would."""
    details: list[Message] = []
    if reason:
        details.append(error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata))
    if violations:
        bad = error_details_pb2.BadRequest()
        for field, description in violations.items():
            bad.field_violations.add(field=field, description=description)
        details.append(bad)
    if retry_after_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(retry_after_seconds * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = [any_pb2.Any() for _ in details]
    for box, detail in zip(packed, details, strict=True):
        box.Pack(detail)
    status = status_pb2.Status(code=code.value[0], message=f"refused: {reason}", details=packed)
    context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort_with_status does not return")


class Jobs(job_pb2_grpc.JobServiceServicer):
    """Serves one artifact and one log; `breaks` streams are cut after some bytes."""

    def __init__(self) -> None:
        self.requests: list[Message] = []
        self.metadata: list[dict[str, str]] = []
        self.refusals: list[dict[str, Any]] = []
        """What the next unary calls are refused with."""
        self.breaks = 0
        self.sha256 = hashlib.sha256(CONTENT).hexdigest()

    def _note(self, request: Message, context: Context) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if self.refusals:
            refuse(context, **self.refusals.pop(0))

    def CreateJob(  # noqa: N802 - gRPC's name
        self, request: job_pb2.CreateJobRequest, context: Context
    ) -> job_pb2.CreateJobResponse:
        """Accept."""
        self._note(request, context)
        return job_pb2.CreateJobResponse(job=job_pb2.Job(name="jobs/a"))

    def StopJob(  # noqa: N802 - gRPC's name
        self, request: job_pb2.StopJobRequest, context: Context
    ) -> job_pb2.StopJobResponse:
        """Accept."""
        self._note(request, context)
        return job_pb2.StopJobResponse()

    def FetchArtifact(  # noqa: N802 - gRPC's name
        self, request: job_pb2.FetchArtifactRequest, context: Context
    ) -> Iterator[job_pb2.FetchArtifactResponse]:
        """Send CONTENT from the offset on, cut while there are breaks left."""
        self.requests.append(request)
        artifact = job_pb2.Artifact(name=request.name, size_bytes=len(CONTENT), sha256=self.sha256)
        yield job_pb2.FetchArtifactResponse(artifact=artifact, offset=request.offset)
        for offset in range(request.offset, len(CONTENT), CHUNK_BYTES):
            data = CONTENT[offset : offset + CHUNK_BYTES]
            yield job_pb2.FetchArtifactResponse(offset=offset, data=data)
            if self.breaks and offset > request.offset:
                self.breaks -= 1
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")

    def ReadLog(  # noqa: N802 - gRPC's name
        self, request: job_pb2.ReadLogRequest, context: Context
    ) -> Iterator[job_pb2.ReadLogResponse]:
        """Send CONTENT as a log, cut while there are breaks left."""
        self.requests.append(request)
        for offset in range(request.offset, len(CONTENT), CHUNK_BYTES):
            data = CONTENT[offset : offset + CHUNK_BYTES]
            yield job_pb2.ReadLogResponse(offset=offset, data=data)
            if self.breaks:
                self.breaks -= 1
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")


class Media(media_pb2_grpc.MediaServiceServicer):
    """Keeps one upload; `breaks` calls are cut after some bytes."""

    def __init__(self) -> None:
        self.received = b""
        self.start: media_pb2.UploadStart | None = None
        self.breaks = 0
        self.busy = 0
        """How many calls are refused because the server is still at the lost one."""
        self.first_offsets: list[int] = []

    def UploadMedia(  # noqa: N802 - gRPC's name
        self, request_iterator: Iterator[media_pb2.UploadMediaRequest], context: Context
    ) -> media_pb2.UploadMediaResponse:
        """Take the bytes."""
        self.start = next(request_iterator).start
        if self.busy:
            self.busy -= 1
            refuse(context, grpc.StatusCode.ABORTED, "UPLOAD_BUSY")
        for index, request in enumerate(request_iterator):
            if index == 0:
                self.first_offsets.append(request.chunk.offset)
            assert request.chunk.offset == len(self.received)
            self.received += request.chunk.data
            if self.breaks and index == 1:
                self.breaks -= 1
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        return media_pb2.UploadMediaResponse(upload=self._upload())

    def GetUpload(  # noqa: N802 - gRPC's name
        self, request: media_pb2.GetUploadRequest, context: Context
    ) -> media_pb2.GetUploadResponse:
        """What there is."""
        if self.start is None:
            refuse(context, grpc.StatusCode.NOT_FOUND, "UPLOAD_NOT_FOUND")
        return media_pb2.GetUploadResponse(upload=self._upload())

    def _upload(self) -> media_pb2.Upload:
        assert self.start is not None
        return media_pb2.Upload(
            name=f"uploads/{self.start.upload_id}",
            received_bytes=len(self.received),
            size_bytes=self.start.size_bytes,
            sha256=self.start.sha256,
            complete=hashlib.sha256(self.received).hexdigest() == self.start.sha256,
        )


class Server(server_pb2_grpc.ServerServiceServicer):
    """Never answers in time."""

    def GetServerInfo(  # noqa: N802 - gRPC's name
        self, request: server_pb2.GetServerInfoRequest, context: Context
    ) -> server_pb2.GetServerInfoResponse:
        """Wait until the caller gives up."""
        gone = threading.Event()
        context.add_callback(gone.set)
        gone.wait(WAIT_SECONDS)
        return server_pb2.GetServerInfoResponse()


class Scripted:
    """The server with its services."""

    def __init__(self, address: str) -> None:
        self.address = address
        # What a test does not script is UNIMPLEMENTED, as the generated classes have it.
        self.jobs = Jobs()  # type: ignore[abstract]
        self.media = Media()  # type: ignore[abstract]
        self.captions = Captions()


@contextmanager
def scripted_server(address: str) -> Iterator[Scripted]:
    """Run a server at this address."""
    scripted = Scripted(address)
    server = grpc.server(ThreadPoolExecutor(max_workers=8), options=[("grpc.so_reuseport", 0)])
    job_pb2_grpc.add_JobServiceServicer_to_server(scripted.jobs, server)
    media_pb2_grpc.add_MediaServiceServicer_to_server(scripted.media, server)
    caption_pb2_grpc.add_CaptionServiceServicer_to_server(scripted.captions, server)
    server_pb2_grpc.add_ServerServiceServicer_to_server(
        Server(),  # type: ignore[abstract]
        server,
    )
    server.add_insecure_port(address)
    server.start()
    try:
        yield scripted
    finally:
        server.stop(grace=None).wait()
