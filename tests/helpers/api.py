# SPDX-License-Identifier: Apache-2.0
"""The bare API: one request on the wire for each call here, no retries, errors as gRPC has them."""

from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from grpc_health.v1 import health_pb2_grpc

from callsd.v1 import (
    caption_pb2_grpc,
    job_pb2_grpc,
    media_pb2_grpc,
    model_pb2_grpc,
    server_pb2_grpc,
)
from callsd.v1.job_pb2 import ReadLogRequest


if TYPE_CHECKING:
    from grpc import _CallIterator  # there is no such name at run time

Question = TypeVar("Question")
Answer = TypeVar("Answer")

TIMEOUT_SECONDS = 20.0
STREAM_SECONDS = 60.0


class Api:
    """Stubs of all services, and the token to call them with ("" = none)."""

    def __init__(self, channel: grpc.Channel, token: str) -> None:
        self.channel = channel
        self.token = token
        self.jobs = job_pb2_grpc.JobServiceStub(channel)
        self.media = media_pb2_grpc.MediaServiceStub(channel)
        self.server = server_pb2_grpc.ServerServiceStub(channel)
        self.models = model_pb2_grpc.ModelServiceStub(channel)
        self.captions = caption_pb2_grpc.CaptionServiceStub(channel)

    def raw(self, method: str) -> Any:
        """A method by its path, for bytes: on the wire every RPC takes and gives a stream."""
        return self.channel.stream_stream(method)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with each request."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def __call__(
        self,
        method: "grpc.UnaryUnaryMultiCallable[Question, Answer]",
        request: Question,
        *,
        seconds: float = TIMEOUT_SECONDS,
    ) -> Answer:
        """Call a method that answers once."""
        return method(request, timeout=seconds, metadata=self.metadata)

    def stream(
        self,
        method: "grpc.UnaryStreamMultiCallable[Question, Answer]",
        request: Question,
        *,
        seconds: float = STREAM_SECONDS,
    ) -> "_CallIterator[Answer]":
        """Call a method that answers with a stream."""
        return method(request, timeout=seconds, metadata=self.metadata)


def log_of(api: Api, name: str) -> bytes:
    """A job's log."""
    return b"".join(
        message.data for message in api.stream(api.jobs.ReadLog, ReadLogRequest(name=name))
    )


def health(channel: grpc.Channel) -> Any:
    """The health service, of whose stub there are no types."""
    return health_pb2_grpc.HealthStub(channel)
