# SPDX-License-Identifier: Apache-2.0
"""The private door: a gRPC server on a unix socket of its own, which only workers dial."""

import asyncio
import contextlib
import hmac
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import grpc
import structlog

from callsd_daemon.tokens import digest
from callsd_daemon.workers.captions.link import Link
from callsd_daemon.workers.seat import Seat
from callsd_daemon.workers.session import captioning, messages
from callsd_ipc.v1 import worker_pb2, worker_pb2_grpc


log = structlog.get_logger(__name__)

HELLO_TIMEOUT_SECONDS = 10.0
MAX_MESSAGE_BYTES = 1024 * 1024
CLOSE_GRACE_SECONDS = 0.5

Context = grpc.aio.ServicerContext[Any, Any]


class Door(worker_pb2_grpc.WorkerServiceServicer):
    """Lets in the workers for which a seat is kept."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._seats: dict[str, Seat] = {}
        self._expected: set[str] = set()
        self._links: dict[str, Link] = {}
        self._server = grpc.aio.server(
            options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
        )
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(self, self._server)

    async def open(self) -> None:
        """Begin to listen. A socket left by a daemon that died is replaced."""
        with contextlib.suppress(FileNotFoundError):
            self.socket.unlink()
        self._server.add_insecure_port(f"unix:{self.socket}")
        await self._server.start()
        self.socket.chmod(stat.S_IRUSR | stat.S_IWUSR)

    async def close(self) -> None:
        """Hang up on all workers; they go on and dial again."""
        await self._server.stop(CLOSE_GRACE_SECONDS)

    def expect(self, job_id: str) -> None:
        """A seat will be kept for this job's worker soon: have it dial again, not go away."""
        self._expected.add(job_id)

    def keep(self, job_id: str, seat: Seat) -> None:
        """Let in the worker that holds the token of this seat, and no other one of the job."""
        self._seats[job_id] = seat
        self._expected.discard(job_id)

    def clear(self, job_id: str) -> None:
        """Let nobody in for this job any more."""
        self._seats.pop(job_id, None)
        self._expected.discard(job_id)

    def keep_captioner(self, name: str, link: Link) -> None:
        """Let in the captioner that holds the token of this link."""
        self._links[name] = link

    def clear_captioner(self, name: str) -> None:
        """Let this captioner in no more."""
        self._links.pop(name, None)

    async def Session(
        self, request_iterator: AsyncIterator[worker_pb2.SessionRequest], context: Context
    ) -> AsyncIterator[worker_pb2.SessionResponse]:
        """One worker's session; ends when either side goes away."""
        hello = await _hello(request_iterator, context)
        seat = _proved(self._seats.get(hello.job_id), hello)
        if seat is None and hello.job_id in self._expected:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not ready for this worker yet")
        if seat is None:
            await _refuse(hello, context)
        seat.greet()
        yield worker_pb2.SessionResponse(assignment=messages.assignment(seat.assignment))
        reading = asyncio.create_task(_listen(request_iterator, seat))
        stopping = asyncio.create_task(seat.stop.wait())
        try:
            await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                order = worker_pb2.Stop(grace_seconds=seat.stop_grace_seconds)
                yield worker_pb2.SessionResponse(stop=order)
                await reading
        finally:
            for task in (reading, stopping):
                task.cancel()
            await asyncio.gather(reading, stopping, return_exceptions=True)

    async def Caption(
        self, request_iterator: AsyncIterator[worker_pb2.CaptionRequest], context: Context
    ) -> AsyncIterator[worker_pb2.CaptionResponse]:
        """One captioner's session; the captioner ends with it."""
        hello = await _hello(request_iterator, context)
        link = _proved(self._links.get(hello.job_id), hello)
        if link is None:
            await _refuse(hello, context)
        yield captioning.work(link.work)
        reading = asyncio.create_task(_follow(request_iterator, link))
        try:
            async for batch in link.batches():
                for order in captioning.orders(batch):
                    yield order
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


S = TypeVar("S", Seat, Link)


def _proved(place: S | None, hello: worker_pb2.Hello) -> S | None:
    """The place kept for this worker, if it is the one that holds the token."""
    if place is None or place.generation != hello.generation:
        return None
    return place if hmac.compare_digest(place.token_sha256, digest(hello.token)) else None


async def _hello(requests: AsyncIterator[Any], context: Context) -> worker_pb2.Hello:
    try:
        async with asyncio.timeout(HELLO_TIMEOUT_SECONDS):
            first = await anext(requests)
    except (TimeoutError, StopAsyncIteration):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "say hello first")
    return first.hello  # type: ignore[no-any-return]


async def _refuse(hello: worker_pb2.Hello, context: Context) -> NoReturn:
    log.warning("worker_refused", job_id=hello.job_id, pid=hello.pid)
    await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no seat for this worker")


async def _follow(requests: AsyncIterator[worker_pb2.CaptionRequest], link: Link) -> None:
    try:
        async for request in requests:
            if link.is_closed:
                return
            captioning.report(request, link)
    except Exception:
        # The captioner is ended with its session, and another one begins anew.
        log.exception("captioner_report_failed")
    finally:
        link.close()


async def _listen(requests: AsyncIterator[worker_pb2.SessionRequest], seat: Seat) -> None:
    async for request in requests:
        if request.HasField("status"):
            seat.report(messages.progress(request.status))
