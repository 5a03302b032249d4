# SPDX-License-Identifier: Apache-2.0
"""The private gRPC server, to which only workers connect, by a unix socket or by TLS.

Nobody is trusted before it has shown a token, nor after that, as a worker may have been taken over:
all that it sends is limited in size and rate, and none of it is used as a path.
"""

import asyncio
import contextlib
import hmac
import os
import stat
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import grpc
import structlog

from callsd_daemon.domain.errors import CallsdError
from callsd_daemon.files import PASSING_ERRNOS, FilePool
from callsd_daemon.kinds import Opener
from callsd_daemon.tokens import digest
from callsd_daemon.workers.captions.link import Link
from callsd_daemon.workers.session import call_captions, captioning, conversation, messages
from callsd_daemon.workers.session.file_socket import FileSocket
from callsd_daemon.workers.session.incoming import Incoming, Reads
from callsd_daemon.workers.slot import Endpoint, WorkerSlot
from callsd_daemon.workers.takeover import UnusableError
from callsd_ipc.names import PROTOCOL_VERSION
from callsd_ipc.v1 import worker_pb2, worker_pb2_grpc


log = structlog.get_logger(__name__)

FIRST_PROTOCOL_VERSION = 1
"""Workers that were started by the release before are served, too."""

HELLO_TIMEOUT_SECONDS = 10.0
IDLE_TIMEOUT_SECONDS = 30.0
"""How long a worker may pause while it sends a file."""

MAX_MESSAGE_BYTES = 1024 * 1024
MAX_HELLO_BYTES = 4096
"""Of what says who calls, and which file is meant: some hundred bytes. gRPC keeps a call that was
refused, and this with it, until the collector of garbage finds them."""

CHUNK_BYTES = 256 * 1024
LOOKAHEAD_BYTES = MAX_MESSAGE_BYTES
"""So much of one request may lie here before anybody reads it. Left to itself gRPC lets those who
send fast have several times as much."""

MAX_REQUESTS = 32
"""Requests that one connection may have open."""

MAX_FILE_REQUESTS = 4
"""Files that one worker may read or send at once."""

CLOSE_GRACE_SECONDS = 0.5

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteListener:
    """Where workers of other machines connect, and the server's certificate."""

    address: str
    """`HOST:PORT` to listen on, and to connect to."""
    certificate: bytes
    key: bytes


class WorkerServer(worker_pb2_grpc.WorkerServiceServicer):
    """Serves the workers for which a slot is kept, and refuses all others."""

    def __init__(
        self, directory: Path, pool: FilePool, remote: RemoteListener | None = None
    ) -> None:
        """`directory` holds the sockets and nothing else: workers may see all of it."""
        self._socket = directory / "door.sock"
        # As gRPC takes a path for a part of a URI.
        self._address = f"unix:{quote(os.fsencode(self._socket))}"
        self._files = FileSocket(directory / "files.sock", pool, self._file)
        self._pool = pool
        self._remote = remote
        self._slots: dict[str, WorkerSlot] = {}
        self._expected: set[str] = set()
        self._links: dict[str, Link] = {}
        self._file_requests: dict[str, int] = {}
        self._reads: Reads = set()
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_concurrent_streams", MAX_REQUESTS),
                ("grpc.so_reuseport", 0),
                ("grpc.http2.bdp_probe", 0),
                ("grpc.http2.lookahead_bytes", LOOKAHEAD_BYTES),
            ]
        )
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(self, self._server)

    def endpoint(self, *, is_local: bool) -> Endpoint:
        """Where workers of this machine, or of others, dial.

        Raises LookupError when those of others cannot.
        """
        if is_local:
            return Endpoint(address=self._address, file_socket=str(self._files.path))
        if self._remote is None:
            raise LookupError("there is no address for workers of other machines")
        return Endpoint(address=self._remote.address, tls_roots=self._remote.certificate)

    async def open(self) -> None:
        """Start to listen. Replaces sockets left by a daemon that died; raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            self._socket.unlink()
        self._server.add_insecure_port(self._address)
        if self._remote is not None:
            pair = (self._remote.key, self._remote.certificate)
            try:
                self._server.add_secure_port(
                    self._remote.address, grpc.ssl_server_credentials([pair])
                )
            except RuntimeError as problem:
                raise OSError(f"cannot listen on {self._remote.address}: {problem}") from problem
        await self._server.start()
        await self._files.open()
        for path in (self._socket, self._files.path):
            _share(path)

    async def close(self) -> None:
        """Disconnect all workers; they go on, and connect to the next daemon."""
        await self._files.close()
        await self._server.stop(CLOSE_GRACE_SECONDS)
        if self._reads:
            await asyncio.wait(self._reads, timeout=CLOSE_GRACE_SECONDS)

    def expect(self, job_id: str) -> None:
        """A slot for this job follows soon: until then its worker is told to try again."""
        self._expected.add(job_id)

    def keep(self, job_id: str, slot: WorkerSlot) -> None:
        """Accept the worker that has this slot's token, and no other worker of the job."""
        self._slots[job_id] = slot
        self._expected.discard(job_id)

    def clear(self, job_id: str) -> None:
        """Accept no worker of this job any more."""
        self._slots.pop(job_id, None)
        self._expected.discard(job_id)

    def keep_captioner(self, name: str, link: Link) -> None:
        """Accept the captioner that has this link's token."""
        self._links[name] = link

    def clear_captioner(self, name: str) -> None:
        """Accept this captioner no more."""
        self._links.pop(name, None)

    # Sessions

    async def Session(
        self, request_iterator: AsyncIterator[worker_pb2.SessionRequest], context: Context
    ) -> AsyncIterator[worker_pb2.SessionResponse]:
        """One worker's session; ends when either side goes away."""
        requests = Incoming(request_iterator, self._reads)
        hello = await _hello(requests, context)
        slot = self._slots.get(hello.job_id)
        if not _is_proved(slot, hello):
            if hello.job_id in self._expected:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "not ready for this worker yet")
            await _refuse(hello, context)
        assert slot is not None
        yield worker_pb2.SessionResponse(log_kept=worker_pb2.LogKept(offset=slot.log.kept))
        if hello.protocol_version == PROTOCOL_VERSION and not hello.is_assigned:
            try:
                work = await slot.assignment()
            except CallsdError as refusal:
                slot.refusal = refusal
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, "there is no such work")
            yield worker_pb2.SessionResponse(assignment=messages.assignment(work))
        slot.greet()
        orders = conversation.new_orders()
        # A worker has one session: an older one is broken, or was not its own.
        slot.end_session()
        slot.end_session = lambda: conversation.end(orders)
        tasks = [
            asyncio.create_task(conversation.listen(requests, slot, orders)),
            asyncio.create_task(conversation.announce_stop(slot, orders)),
        ]
        try:
            while (order := await orders.get()) is not None:
                yield order
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def Caption(
        self, request_iterator: AsyncIterator[worker_pb2.CaptionRequest], context: Context
    ) -> AsyncIterator[worker_pb2.CaptionResponse]:
        """One captioner's session; the captioner exits with it."""
        requests = Incoming(request_iterator, self._reads)
        hello = await _hello(requests, context)
        link = self._links.get(hello.job_id)
        if not _is_proved(link, hello):
            await _refuse(hello, context)
        assert link is not None
        yield captioning.work(link.work, log_kept=link.log.kept)
        reading = asyncio.create_task(captioning.follow(requests, link))
        try:
            async for batch in link.batches():
                for order in captioning.orders(batch):
                    yield order
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def CaptionCall(
        self, request_iterator: AsyncIterator[worker_pb2.CaptionCallRequest], context: Context
    ) -> AsyncIterator[worker_pb2.CaptionCallResponse]:
        """Sound of the call that a worker captures, and its captions."""
        requests = Incoming(request_iterator, self._reads)
        hello = (await _first(requests, context)).hello
        slot = self._slots.get(hello.job_id)
        if slot is None and hello.job_id in self._expected:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not ready for this worker yet")
        if not _is_proved(slot, hello):
            await _refuse(hello, context)
        assert slot is not None
        if slot.call is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the call is not captioned now")
        async with contextlib.aclosing(call_captions.converse(requests, slot.call)) as responses:
            async for response in responses:
                yield response

    # Files

    async def ReadFile(
        self, request: worker_pb2.ReadFileRequest, context: Context
    ) -> AsyncIterator[worker_pb2.ReadFileResponse]:
        """A file that the worker's assignment names."""
        if request.ByteSize() > MAX_HELLO_BYTES:
            request.Clear()  # which is no worker's
        try:
            opener = await self._file(request)
        except ConnectionResetError as problem:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(problem))
        if opener is None:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no such file for this worker")
        with self._file_request(request.hello.job_id) as is_allowed:
            if not is_allowed:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "one file at a time")
            try:
                descriptor = await self._pool.open(opener)
            except (OSError, CallsdError) as problem:
                is_passing = getattr(problem, "errno", None) in PASSING_ERRNOS
                code = grpc.StatusCode.UNAVAILABLE if is_passing else grpc.StatusCode.NOT_FOUND
                await context.abort(code, str(problem))
            with os.fdopen(descriptor, "rb", buffering=0) as file:
                while data := await self._pool.run(file.read, CHUNK_BYTES):
                    yield worker_pb2.ReadFileResponse(data=data)

    async def SendFile(
        self, request_iterator: AsyncIterator[worker_pb2.SendFileRequest], context: Context
    ) -> worker_pb2.SendFileResponse:
        """A file that the worker's outcome names."""
        requests = Incoming(request_iterator, self._reads)
        first = await _first(requests, context)
        hello, name, offset = first.start.hello, first.start.file_name, first.start.offset
        slot = self._slots.get(hello.job_id)
        if not _is_proved(slot, hello):
            await _refuse(hello, context)
        assert slot is not None
        with self._file_request(hello.job_id) as is_allowed:
            if not is_allowed:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "one file at a time")
            problem: tuple[grpc.StatusCode, str] | None = None
            try:
                while True:
                    async with asyncio.timeout(IDLE_TIMEOUT_SECONDS):
                        message = await anext(requests, None)
                    if message is None:
                        break
                    offset = await slot.takeover.write(name, offset, message.data)
            except (UnusableError, TimeoutError) as error:
                problem = (grpc.StatusCode.FAILED_PRECONDITION, str(error))
            except OSError as error:
                problem = (grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
            finally:
                slot.takeover.end_file(name)
        if problem is not None:
            # Not in the `except` above: gRPC keeps the exception of `abort`, and with it the one
            # being handled and its message, until the garbage collector runs.
            message = None
            await context.abort(*problem)
        return worker_pb2.SendFileResponse(size_bytes=offset)

    async def _file(self, request: worker_pb2.ReadFileRequest) -> Opener | None:
        """The opener of a requested file; None if the worker has no right to it."""
        name = request.hello.job_id
        if name in self._expected:
            raise ConnectionResetError("not ready for this worker yet")
        place = self._slots.get(name) or self._links.get(name)
        if not _is_proved(place, request.hello):
            return None
        assert place is not None
        with contextlib.suppress(CallsdError):
            return (await place.files()).get(request.name)
        return None

    @contextlib.contextmanager
    def _file_request(self, name: str) -> Iterator[bool]:
        """Count a file that this worker reads or sends; yields whether that is within the limit."""
        self._file_requests[name] = self._file_requests.get(name, 0) + 1
        try:
            yield self._file_requests[name] <= MAX_FILE_REQUESTS
        finally:
            self._file_requests[name] -= 1
            if not self._file_requests[name]:
                del self._file_requests[name]


def _share(path: Path) -> None:
    """Give a socket to the group of its directory."""
    group = path.parent.stat().st_gid
    mode = stat.S_IRUSR | stat.S_IWUSR
    if group != path.stat().st_gid:
        os.chown(path, -1, group)
    if path.parent.stat().st_mode & stat.S_IXGRP:
        mode |= stat.S_IRGRP | stat.S_IWGRP
    path.chmod(mode)


def _is_proved(place: WorkerSlot | Link | None, hello: worker_pb2.Hello) -> bool:
    """Whether the worker has the token and generation of its place."""
    return (
        place is not None
        and place.generation == hello.generation
        and hmac.compare_digest(place.token_sha256, digest(hello.token))
    )


async def _first(requests: AsyncIterator[Any], context: Context) -> Any:
    try:
        async with asyncio.timeout(HELLO_TIMEOUT_SECONDS):
            first = await anext(requests, None)
    except TimeoutError:
        first = None
    if first is None or first.ByteSize() > MAX_HELLO_BYTES:
        first = None
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "say hello first")
    return first


async def _hello(requests: AsyncIterator[Any], context: Context) -> worker_pb2.Hello:
    hello: worker_pb2.Hello = (await _first(requests, context)).hello
    if not FIRST_PROTOCOL_VERSION <= hello.protocol_version <= PROTOCOL_VERSION:
        log.error("worker_version", job_id=hello.job_id[:64], version=hello.protocol_version)
        await context.abort(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"this daemon speaks versions {FIRST_PROTOCOL_VERSION} to {PROTOCOL_VERSION} with its "
            f"workers, not {hello.protocol_version}: restart callsd",
        )
    return hello


async def _refuse(hello: worker_pb2.Hello, context: Context) -> NoReturn:
    log.warning("worker_refused", job_id=hello.job_id[:64])
    await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no slot for this worker")
