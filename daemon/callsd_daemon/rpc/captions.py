# SPDX-License-Identifier: Apache-2.0
"""CaptionService."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from typing import Any

import grpc

from callsd.v1 import caption_pb2, caption_pb2_grpc
from callsd_daemon.domain.errors import invalid_fields
from callsd_daemon.rpc import caption_messages, validate
from callsd_daemon.usecases.captions import Captions
from callsd_daemon.workers.captions.call import Call
from callsd_daemon.workers.captions.journal import Final
from callsd_daemon.workers.session.incoming import Incoming, Reads


CONFIG_TIMEOUT_SECONDS = 10.0

Context = grpc.aio.ServicerContext[Any, Any]


class CaptionService(caption_pb2_grpc.CaptionServiceServicer):
    """Takes live sound, and hands out captions."""

    def __init__(self, captions: Captions) -> None:
        self._captions = captions
        self._reads: Reads = set()

    async def StreamCaptions(
        self, request_iterator: AsyncIterator[caption_pb2.StreamCaptionsRequest], context: Context
    ) -> AsyncIterator[caption_pb2.StreamCaptionsResponse]:
        """Receive one call's sound."""
        requests = Incoming(request_iterator, self._reads)
        try:
            async with asyncio.timeout(CONFIG_TIMEOUT_SECONDS):
                first = await anext(requests, None)
        except TimeoutError:
            first = None
        job_id, encoding = caption_messages.config(first)
        taken = self._captions.ingest(
            job_id,
            encoding,
            requests,
            functools.partial(caption_messages.receive, encoding),
        )
        async with contextlib.aclosing(taken):
            async for speakers in taken:
                yield caption_messages.acks(speakers)

    async def WatchCaptions(
        self, request: caption_pb2.WatchCaptionsRequest, context: Context
    ) -> AsyncIterator[Any]:
        """Follow one call's captions."""
        job_id = validate.job_id(request.job, field="job")
        resume_sequence = None
        if request.HasField("resume_sequence"):
            resume_sequence = request.resume_sequence
            if resume_sequence < 0:
                raise invalid_fields([("resume_sequence", "must not be negative")])
        viewed = self._captions.watch(
            job_id, resume_sequence=resume_sequence, is_finals_only=request.finals_only
        )
        async with contextlib.aclosing(viewed):
            async for one in viewed:
                match one:
                    case Final():
                        yield caption_messages.kept(one)
                    case Call():
                        yield caption_messages.heartbeat(one)
                    case _:
                        yield caption_messages.published(one)
