# SPDX-License-Identifier: Apache-2.0
"""CaptionService: designed, not served yet."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from callsd.v1 import caption_pb2, caption_pb2_grpc
from callsd_daemon.domain.errors import CallsdError, Reason


Context = grpc.aio.ServicerContext[Any, Any]


class CaptionService(caption_pb2_grpc.CaptionServiceServicer):
    """Refuses with a reason, which tells clients more than an unknown method would."""

    async def StreamCaptions(
        self, request_iterator: AsyncIterator[caption_pb2.StreamCaptionsRequest], context: Context
    ) -> AsyncIterator[caption_pb2.StreamCaptionsResponse]:
        """Refuse."""
        raise _unavailable()
        yield

    async def WatchCaptions(
        self, request: caption_pb2.WatchCaptionsRequest, context: Context
    ) -> AsyncIterator[caption_pb2.WatchCaptionsResponse]:
        """Refuse."""
        raise _unavailable()
        yield


def _unavailable() -> CallsdError:
    return CallsdError(
        Reason.KIND_UNAVAILABLE,
        "this server does not run captions jobs: see ServerInfo.kinds",
        metadata={"kind": "captions"},
    )
