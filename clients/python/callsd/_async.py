# SPDX-License-Identifier: Apache-2.0
"""How requests are made with asyncio; `_sync` is its counterpart."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

import grpc
import grpc.aio
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


class AsyncCalls:
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

    async def close(self) -> None:
        """End all requests and disconnect."""
        self._is_closed = True
        await self._channel.close()
        await self._watch_channel.close()

    async def unary(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        timeout_seconds: float | None,
    ) -> Response:
        """One question, one answer, one deadline."""
        timeout = self._timeout_seconds if timeout_seconds is None else timeout_seconds
        try:
            response = await method(request, timeout=timeout, metadata=self._endpoint.metadata())
        except grpc.RpcError as error:
            raise error_from_rpc(error) from None
        self.has_answered = True
        return response

    async def stream(
        self,
        method: "grpc.aio.UnaryStreamMultiCallable[Request, Response]",
        stream: Resumable[Request, Response, Item],
    ) -> AsyncGenerator[Item]:
        """Drive a resumable stream to its end."""
        while True:
            self._check_open()
            timeout = stream.backoff.remaining_seconds()
            call = method(stream.request(), timeout=timeout, metadata=self._endpoint.metadata())
            try:
                async for response in call:
                    self.has_answered = True
                    stream.backoff.answered()
                    for item in stream.receive(response):
                        yield item
                stream.ended()
            except (grpc.RpcError, CallsdError) as error:
                delay_seconds, items = stream.failed(typed_error(error))
                for item in items:
                    yield item
            else:
                return
            finally:
                call.cancel()
            await asyncio.sleep(delay_seconds)

    def send_captions(
        self, requests: AsyncIterator[StreamCaptionsRequest]
    ) -> "grpc.aio.StreamStreamCall[StreamCaptionsRequest, StreamCaptionsResponse]":
        """Begin to send a call's audio; the caller reads the answers and handles errors."""
        self._check_open()
        return self.captions.StreamCaptions(requests, metadata=self._endpoint.metadata())

    async def upload(self, uploading: Uploading) -> Upload:
        """Drive an upload to its end."""
        while True:
            try:
                if complete := uploading.found(await self._existing(uploading.name)):
                    return complete
                metadata = self._endpoint.metadata()
                answer = await self.media.UploadMedia(uploading.messages(), metadata=metadata)
            except (grpc.RpcError, CallsdError) as error:
                delay_seconds = uploading.failed(typed_error(error))
            else:
                return answer.upload
            await asyncio.sleep(delay_seconds)

    def _check_open(self) -> None:
        """Streams that outlive a connection do not outlive their client."""
        if self._is_closed:
            raise ConflictError(
                "the client is closed", code=grpc.StatusCode.FAILED_PRECONDITION
            ) from None

    async def _existing(self, name: str) -> Upload | None:
        request = GetUploadRequest(name=name)
        try:
            return (await self.unary(self.media.GetUpload, request, None)).upload
        except NotFoundError:
            return None


def _open(endpoint: Endpoint, *, watching: bool) -> grpc.aio.Channel:
    options = channel_options(endpoint, watching=watching)
    credentials = tls_credentials(endpoint)
    if credentials is None:
        return grpc.aio.insecure_channel(endpoint.target, options=options)
    return grpc.aio.secure_channel(endpoint.target, credentials, options=options)
