# SPDX-License-Identifier: Apache-2.0
"""The private door: a gRPC server on a unix socket of its own, which only workers dial."""

import asyncio
import contextlib
import hmac
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import structlog

from callsd_daemon.tokens import digest
from callsd_daemon.workers.seat import Seat
from callsd_daemon.workers.session import messages
from callsd_ipc.v1 import worker_pb2, worker_pb2_grpc


log = structlog.get_logger(__name__)

HELLO_TIMEOUT_SECONDS = 10.0
MAX_MESSAGE_BYTES = 1024 * 1024
CLOSE_GRACE_SECONDS = 0.5

Context = grpc.aio.ServicerContext[worker_pb2.SessionRequest, worker_pb2.SessionResponse]


class Door(worker_pb2_grpc.WorkerServiceServicer):
    """Lets in the workers for which a seat is kept."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._seats: dict[str, Seat] = {}
        self._expected: set[str] = set()
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

    async def Session(
        self, request_iterator: AsyncIterator[worker_pb2.SessionRequest], context: Context
    ) -> AsyncIterator[worker_pb2.SessionResponse]:
        """One worker's session; ends when either side goes away."""
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_SECONDS):
                first = await anext(request_iterator)
        except (TimeoutError, StopAsyncIteration):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "say hello first")
        seat = self._seat_for(first.hello)
        if seat is None and first.hello.job_id in self._expected:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not ready for this worker yet")
        if seat is None:
            log.warning("worker_refused", job_id=first.hello.job_id, pid=first.hello.pid)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no seat for this worker")
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

    def _seat_for(self, hello: worker_pb2.Hello) -> Seat | None:
        seat = self._seats.get(hello.job_id)
        if seat is None or seat.generation != hello.generation:
            return None
        return seat if hmac.compare_digest(seat.token_sha256, digest(hello.token)) else None


async def _listen(requests: AsyncIterator[worker_pb2.SessionRequest], seat: Seat) -> None:
    async for request in requests:
        if request.HasField("status"):
            seat.report(messages.progress(request.status))
