# SPDX-License-Identifier: Apache-2.0
"""Clients that ask for as much as they are let, `python -m callsd_bench.daemon.strangers`.

It reads an `Order` as one line of JSON from stdin, begins, and answers "ready" once the first
request is answered; at the next line it stops, and answers with a `Tally` as one line of JSON.

It uses the bare stubs: our own client is too well behaved.
"""

import asyncio
import hashlib
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import grpc
from google.protobuf.duration_pb2 import Duration

from callsd.v1.caption_pb2 import (
    AUDIO_ENCODING_S16LE_16KHZ,
    AudioBatch,
    AudioChunk,
    CaptionsConfig,
    StreamCaptionsRequest,
)
from callsd.v1.caption_pb2_grpc import CaptionServiceStub
from callsd.v1.job_pb2 import JobFilter, ListJobsRequest
from callsd.v1.job_pb2_grpc import JobServiceStub
from callsd.v1.media_pb2 import DeleteUploadRequest, UploadChunk, UploadMediaRequest, UploadStart
from callsd.v1.media_pb2_grpc import MediaServiceStub


READY_TIMEOUT_SECONDS = 60.0
REFUSED_SECONDS = 0.05
"""How long one that was refused waits; the refusal itself names longer."""

SENT_TOO_LATE = "Internal error from Core"
"""What gRPC itself says, instead of the refusal, of a message to a call that was ended as it was
sent."""

PAGE_SIZE = 1000
LABELS = ({"call": "nobody's"}, {"site": "only"})
"""What no job has, and what all jobs have."""

SPEAKERS = 50
CHUNKS = 500
"""Chunks of one sample in a message."""
SAMPLE_NANOSECONDS = 62_500

UPLOAD_BYTES = 1024 * 1024
UPLOAD_CHUNK_BYTES = 64 * 1024

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Who does what to which daemon: each token is a client."""

    address: str
    part: str
    tokens: list[str]
    job: str = ""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What came of it: requests, or messages in a stream."""

    answered: int = 0
    refused: int = 0
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    def count(self) -> None:
        """One more is answered."""
        self.answered += 1
        self.begun.set()


async def _list(channel: grpc.aio.Channel, metadata: Metadata, tally: Tally, _order: Order) -> None:
    """List jobs by labels without a pause."""
    stub = JobServiceStub(channel)
    while True:
        for labels in LABELS:
            request = ListJobsRequest(page_size=PAGE_SIZE, filter=JobFilter(labels=labels))
            await stub.ListJobs(request, metadata=metadata)
            tally.count()


async def _talk(channel: grpc.aio.Channel, metadata: Metadata, tally: Tally, order: Order) -> None:
    """Send sound to a call in chunks of one sample, as fast as it is taken."""
    call = CaptionServiceStub(channel).StreamCaptions(metadata=metadata)
    config = CaptionsConfig(job=order.job, encoding=AUDIO_ENCODING_S16LE_16KHZ)
    await call.write(StreamCaptionsRequest(config=config))

    async def send() -> None:
        first = 0
        while True:
            for speaker in range(SPEAKERS):
                await call.write(StreamCaptionsRequest(batch=_batch(f"s{speaker}", first)))
                tally.count()
            first += CHUNKS

    async with asyncio.TaskGroup() as group:
        sending = group.create_task(send())
        async for _ in call:
            pass
        sending.cancel()


def _batch(speaker: str, first: int) -> AudioBatch:
    batch = AudioBatch()
    for number in range(first, first + CHUNKS):
        seconds, nanos = divmod(number * SAMPLE_NANOSECONDS, 10**9)
        chunk = AudioChunk(
            speaker=speaker,
            sequence=number + 1,
            start_offset=Duration(seconds=seconds, nanos=nanos),
            data=os.urandom(2),
        )
        batch.chunks.append(chunk)
    return batch


async def _upload(
    channel: grpc.aio.Channel, metadata: Metadata, tally: Tally, _order: Order
) -> None:
    """Send files until no more are taken, remove all of them, and begin again."""
    stub, data = MediaServiceStub(channel), os.urandom(UPLOAD_BYTES)
    digest = hashlib.sha256(data).hexdigest()

    async def messages(upload_id: str) -> AsyncIterator[UploadMediaRequest]:
        start = UploadStart(upload_id=upload_id, size_bytes=len(data), sha256=digest)
        yield UploadMediaRequest(start=start)
        for offset in range(0, len(data), UPLOAD_CHUNK_BYTES):
            part = data[offset : offset + UPLOAD_CHUNK_BYTES]
            yield UploadMediaRequest(chunk=UploadChunk(offset=offset, data=part))

    names: list[str] = []
    while True:
        try:
            upload_id = str(uuid.uuid4())
            answer = await stub.UploadMedia(messages(upload_id), metadata=metadata)
            names.append(answer.upload.name)
            tally.count()
        except grpc.aio.AioRpcError:
            for name in names:
                await stub.DeleteUpload(DeleteUploadRequest(name=name), metadata=metadata)
            names.clear()
            raise


Part = Callable[[grpc.aio.Channel, Metadata, Tally, Order], Awaitable[None]]

PARTS: dict[str, Part] = {"lists": _list, "sound": _talk, "uploads": _upload}


async def _insist(order: Order, token: str, tally: Tally) -> None:
    """Be one client, who begins again after each refusal."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.insecure_channel(order.address, options=options) as channel:
        while True:
            try:
                metadata = (("authorization", f"Bearer {token}"),)
                await PARTS[order.part](channel, metadata, tally, order)
            except* grpc.aio.AioRpcError as errors:
                if not is_refused(errors):
                    raise
                tally.refused += 1
            await asyncio.sleep(REFUSED_SECONDS)


def is_refused(error: BaseException) -> bool:
    """Whether all of it is that somebody asks for more than its share."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_refused, error.exceptions))
    return isinstance(error, grpc.aio.AioRpcError) and (
        error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED or error.details() == SENT_TOO_LATE
    )


async def _be(order: Order) -> None:
    tally = Tally()
    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(_insist(order, token, tally)) for token in order.tokens]
        async with asyncio.timeout(READY_TIMEOUT_SECONDS):
            await tally.begun.wait()
        print("ready", flush=True)  # noqa: T201 - the answer
        await asyncio.to_thread(sys.stdin.readline)
        for client in clients:
            client.cancel()
    print(json.dumps({"answered": tally.answered, "refused": tally.refused}))  # noqa: T201 - the answer


if __name__ == "__main__":
    asyncio.run(_be(Order(**json.loads(sys.stdin.readline()))))
