# SPDX-License-Identifier: Apache-2.0
"""How blocking requests are made; `_async` is its counterpart."""

import time
from collections.abc import Generator, Iterator
from typing import TypeVar

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from callsd._channel import channel_options, tls_credentials
from callsd._endpoint import Endpoint
from callsd._errors import CallsdError, ConflictError, NotFoundError, error_from_rpc, typed_error
from callsd._resume import Resumable
from callsd._transfer import Uploading
from callsd.v1.caption_pb2 import StreamCaptionsRequest, StreamCaptionsResponse
from callsd.v1.caption_pb2_grpc import CaptionServiceStub
from callsd.v1.job_pb2_grpc import JobServiceStub
from callsd.v1.media_pb2 import GetUploadRequest, Upload
from callsd.v1.media_pb2_grpc import MediaServiceStub
from callsd.v1.model_pb2_grpc import ModelServiceStub
from callsd.v1.server_pb2_grpc import ServerServiceStub


Request = TypeVar("Request")
Response = TypeVar("Response")
Item = TypeVar("Item")


class Calls:
    """Two connections to one daemon, its stubs, and the ways of calling them."""

    def __init__(self, endpoint: Endpoint, *, timeout_seconds: float) -> None:
        self._endpoint = endpoint
        self._timeout_seconds = timeout_seconds
        self._is_closed = False
        self.has_answered = False
        """Whether there is a daemon at the endpoint, or was one."""
        self._channel = _open(endpoint, watching=False)
        self._watch_channel = _open(endpoint, watching=True)
        self.jobs = JobServiceStub(self._channel)
        self.media = MediaServiceStub(self._channel)
        self.models = ModelServiceStub(self._channel)
        self.server = ServerServiceStub(self._channel)
        self.captions = CaptionServiceStub(self._channel)
        # Not the package's HealthStub, whose published types know no methods.
        self.check_health = self._channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
        self.job_watches = JobServiceStub(self._watch_channel)
        self.server_watches = ServerServiceStub(self._watch_channel)
        self.caption_watches = CaptionServiceStub(self._watch_channel)

    def close(self) -> None:
        """End all requests and disconnect."""
        self._is_closed = True
        self._channel.close()
        self._watch_channel.close()

    def unary(
        self,
        method: "grpc.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        timeout_seconds: float | None,
    ) -> Response:
        """One question, one answer, one deadline."""
        timeout = self._timeout_seconds if timeout_seconds is None else timeout_seconds
        try:
            response = method(request, timeout=timeout, metadata=self._endpoint.metadata())
        except grpc.RpcError as error:
            raise error_from_rpc(error) from None
        self.has_answered = True
        return response

    def stream(
        self,
        method: "grpc.UnaryStreamMultiCallable[Request, Response]",
        stream: Resumable[Request, Response, Item],
    ) -> Generator[Item]:
        """Drive a resumable stream to its end."""
        while True:
            self._check_open()
            timeout = stream.backoff.remaining_seconds()
            call = method(stream.request(), timeout=timeout, metadata=self._endpoint.metadata())
            try:
                for response in call:
                    self.has_answered = True
                    stream.backoff.answered()
                    yield from stream.receive(response)
                stream.ended()
            except (grpc.RpcError, CallsdError) as error:
                delay_seconds, items = stream.failed(typed_error(error))
                yield from items
            else:
                return
            finally:
                call.cancel()
            time.sleep(delay_seconds)

    def send_captions(
        self, requests: Iterator[StreamCaptionsRequest]
    ) -> "grpc._CallIterator[StreamCaptionsResponse]":
        """Begin to send a call's audio; the caller reads the answers and handles errors."""
        self._check_open()
        return self.captions.StreamCaptions(requests, metadata=self._endpoint.metadata())

    def upload(self, uploading: Uploading) -> Upload:
        """Drive an upload to its end."""
        while True:
            try:
                if complete := uploading.found(self._existing(uploading.name)):
                    return complete
                metadata = self._endpoint.metadata()
                return self.media.UploadMedia(uploading.messages(), metadata=metadata).upload
            except (grpc.RpcError, CallsdError) as error:
                delay_seconds = uploading.failed(typed_error(error))
            time.sleep(delay_seconds)

    def _check_open(self) -> None:
        """Streams that outlive a connection do not outlive their client."""
        if self._is_closed:
            raise ConflictError(
                "the client is closed", code=grpc.StatusCode.FAILED_PRECONDITION
            ) from None

    def _existing(self, name: str) -> Upload | None:
        try:
            return self.unary(self.media.GetUpload, GetUploadRequest(name=name), None).upload
        except NotFoundError:
            return None


def _open(endpoint: Endpoint, *, watching: bool) -> grpc.Channel:
    options = channel_options(endpoint, watching=watching)
    credentials = tls_credentials(endpoint)
    if credentials is None:
        return grpc.insecure_channel(endpoint.target, options=options)
    return grpc.secure_channel(endpoint.target, credentials, options=options)
