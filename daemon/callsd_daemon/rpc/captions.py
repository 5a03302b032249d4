# SPDX-License-Identifier: Apache-2.0
"""CaptionService."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from callsd.v1 import caption_pb2, caption_pb2_grpc
from callsd_daemon.domain.captions import Encoding
from callsd_daemon.domain.errors import CallsdError, Reason, invalid_fields
from callsd_daemon.domain.jobs import Job
from callsd_daemon.metrics import CAPTION_VIEWERS
from callsd_daemon.rpc import caption_messages, validate
from callsd_daemon.rpc.hub import Hub
from callsd_daemon.store.database import Database
from callsd_daemon.workers.captions.call import Call
from callsd_daemon.workers.captions.calls import Calls
from callsd_daemon.workers.captions.feed import Caption, Event
from callsd_daemon.workers.captions.journal import Final, read_finals
from callsd_daemon.workers.session.incoming import Incoming, Reads
from callsd_daemon.workers.waits import until


CONFIG_TIMEOUT_SECONDS = 10.0
ACK_SECONDS = 0.2
"""Pause between two acknowledgements: they are for resuming, and for nothing that is urgent."""

ACK_IDLE_SECONDS = 5.0
HEARTBEAT_SECONDS = 5.0
LATE_JOINER_FINALS = 10
"""What one who comes late is told first."""

PAGE_FINALS = 200

Context = grpc.aio.ServicerContext[Any, Any]


class CaptionService(caption_pb2_grpc.CaptionServiceServicer):
    """Takes live sound, and hands out captions."""

    def __init__(self, *, calls: Calls, database: Database, hub: Hub, directory: Path) -> None:
        self._calls = calls
        self._database = database
        self._hub = hub
        self._directory = directory
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
        job = await self._job(job_id)
        if job.is_final:
            raise CallsdError(
                Reason.JOB_STATE_CONFLICT,
                f"job {job_id} has ended ({job.state}): create a new one for a new call",
                metadata={"state": job.state},
            )
        with self._hub.stream():
            call = await self._calls.find(job_id)
            stream = call.attach(encoding)
            receiving = asyncio.create_task(_receive(requests, call, stream, encoding))
            # What was wrong with the sound is told at once, not with the next acknowledgement.
            receiving.add_done_callback(lambda _: call.acks.set())
            try:
                async for response in self._acknowledge(call, stream, receiving):
                    yield response
            finally:
                receiving.cancel()
                await asyncio.gather(receiving, return_exceptions=True)
                call.detach(stream)

    async def _acknowledge(
        self, call: Call, stream: int, receiving: "asyncio.Task[None]"
    ) -> AsyncIterator[caption_pb2.StreamCaptionsResponse]:
        yield caption_messages.acks(call.new_acks())
        while True:
            if not receiving.done():
                await asyncio.wait({receiving}, timeout=ACK_SECONDS)
            if not receiving.done():
                await until(call.acks, ACK_IDLE_SECONDS)
            call.check_stream(stream)
            self._hub.check()
            if receiving.done():
                # What was wrong with the sound, if anything was.
                receiving.result()
            if speakers := call.new_acks():
                yield caption_messages.acks(speakers)
            if receiving.done() or call.is_over:
                return
            if call.feed.ended.is_set():
                raise CallsdError(
                    Reason.JOB_STATE_CONFLICT,
                    f"the captions job {call.job_id} has ended: see its failure",
                )

    async def WatchCaptions(
        self, request: caption_pb2.WatchCaptionsRequest, context: Context
    ) -> AsyncIterator[Any]:
        """Follow one call's captions."""
        job_id = validate.job_id(request.job, field="job")
        if request.HasField("resume_sequence") and request.resume_sequence < 0:
            raise invalid_fields([("resume_sequence", "must not be negative")])
        job = await self._job(job_id)
        with self._hub.stream(), CAPTION_VIEWERS.track_inprogress():
            if job.is_final:
                finals = await asyncio.to_thread(self._kept, job_id)
                for final in finals[_first(request, len(finals)) :]:
                    yield caption_messages.kept(final)
                return
            call = await self._calls.find(job_id)
            async for message in self._follow(call, request):
                yield message

    def _kept(self, job_id: str) -> list[Final]:
        return list(read_finals(self._directory / job_id, 0))

    async def _follow(
        self, call: Call, request: caption_pb2.WatchCaptionsRequest
    ) -> AsyncIterator[bytes]:
        feed = call.feed
        sequence, version = _first(request, feed.last_sequence), 0
        told_seconds = time.monotonic()
        while True:
            while sequence + 1 < feed.first_in_memory:
                for final in await _older(call, sequence):
                    sequence = final.sequence
                    yield caption_messages.kept(final)
                    told_seconds = time.monotonic()
            items, version = feed.after(sequence, version), feed.version
            for item in items:
                if isinstance(item.content, Caption) and item.content.sequence:
                    sequence = item.content.sequence
                elif request.finals_only and not isinstance(item.content, Event):
                    continue
                yield caption_messages.published(item)
                told_seconds = time.monotonic()
            if feed.version > version:
                continue
            if feed.ended.is_set():
                return
            self._hub.check()
            # There may be news all the time, and none that this viewer wants.
            if (silent_seconds := time.monotonic() - told_seconds) >= HEARTBEAT_SECONDS:
                yield caption_messages.heartbeat(call)
                told_seconds, silent_seconds = time.monotonic(), 0.0
            await feed.wait(HEARTBEAT_SECONDS - silent_seconds)

    async def _job(self, job_id: str) -> Job:
        job = await self._database.read(lambda tx: tx.find(job_id))
        if job.captions is None:
            raise CallsdError(
                Reason.KIND_UNAVAILABLE,
                f"job {job_id} is a {job.kind} and has no captions: create a captions job",
                metadata={"kind": job.kind},
            )
        return job


def _first(request: caption_pb2.WatchCaptionsRequest, last: int) -> int:
    """The final caption behind which a viewer begins. Raises REVISION_UNKNOWN."""
    if not request.HasField("resume_sequence"):
        return max(0, last - LATE_JOINER_FINALS)
    if request.resume_sequence > last:
        raise CallsdError(
            Reason.REVISION_UNKNOWN,
            f"there is no caption {request.resume_sequence}, the last one is {last}",
            metadata={"newest": str(last)},
        )
    return request.resume_sequence


async def _older(call: Call, sequence: int) -> list[Final]:
    """Final captions that are no longer in memory; none when they wait for room on the disk."""
    page = await asyncio.to_thread(call.finals, sequence, PAGE_FINALS)
    if not page:
        await call.feed.wait(HEARTBEAT_SECONDS)
    return page


async def _receive(
    requests: AsyncIterator[caption_pb2.StreamCaptionsRequest],
    call: Call,
    stream: int,
    encoding: Encoding,
) -> None:
    async for request in requests:
        call.check_stream(stream)
        if request is None:
            raise CallsdError(Reason.FIELD_INVALID, "the request is not a valid message")
        caption_messages.receive(call, encoding, request)
        # Who sends faster than can be worked off waits here, and the network with them.
        await call.room.wait()
