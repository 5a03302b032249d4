# SPDX-License-Identifier: Apache-2.0
"""The private server: a gRPC server that only workers dial, by a unix socket and by TLS.

Whoever dials is a stranger until it has shown a token, and may be a worker that was taken over
after that: all that it sends is bounded in size and in pace, and none of it is a path.
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

import grpc
import structlog

from callsd_daemon.domain.errors import CallsdError
from callsd_daemon.files import FilePool
from callsd_daemon.tokens import digest
from callsd_daemon.workers.captions.link import Link
from callsd_daemon.workers.delivery import UnusableError
from callsd_daemon.workers.session import captioning, messages
from callsd_daemon.workers.session.file_socket import FileSocket
from callsd_daemon.workers.session.incoming import Incoming, Reads
from callsd_daemon.workers.session.pace import Pace
from callsd_daemon.workers.slot import Endpoint, Opener, WorkerSlot
from callsd_ipc.v1 import worker_pb2, worker_pb2_grpc


log = structlog.get_logger(__name__)

PROTOCOL_VERSION = 2
FIRST_PROTOCOL_VERSION = 1
"""Workers that were started by the release before are served too."""

HELLO_TIMEOUT_SECONDS = 10.0
IDLE_TIMEOUT_SECONDS = 30.0
"""How long a worker may pause in a file that it sends."""

MAX_MESSAGE_BYTES = 1024 * 1024
MAX_HELLO_BYTES = 4096
"""Of what says who calls, and which file is meant: some hundred bytes. gRPC keeps a call that was
refused, and this with it, until the collector of garbage finds them."""

MAX_LOG_BYTES = 64 * 1024
CHUNK_BYTES = 256 * 1024
LOOKAHEAD_BYTES = MAX_MESSAGE_BYTES
"""So much of one call may lie here before anybody reads it. Left to itself gRPC lets those who send
fast have several times as much."""

MAX_CALLS = 32
"""That one connection may have at once."""

MAX_FILE_CALLS = 4
"""Files that one worker may read or send at once."""

REPORTS_A_SECOND = 50
"""A worker reports once a second, and writes its log."""

NEWS_A_SECOND = 1_000
"""A captioner has some updates of each speaker in a second."""

NEWS_BYTES = 1024
"""Of an update; longer messages count for as many as they are long."""

CLOSE_GRACE_SECONDS = 0.5

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteListener:
    """Where workers of other machines dial, and how they know us."""

    address: str
    """`HOST:PORT` to listen on, and to be dialled at."""
    certificate: bytes
    key: bytes


class WorkerServer(worker_pb2_grpc.WorkerServiceServicer):
    """Lets in the workers for which a slot is kept."""

    def __init__(
        self, directory: Path, pool: FilePool, remote: RemoteListener | None = None
    ) -> None:
        """`directory` holds the sockets, and nothing else: workers may be shown all of it."""
        self._socket = directory / "door.sock"
        self._files = FileSocket(directory / "files.sock", pool, self._file)
        self._pool = pool
        self._remote = remote
        self._slots: dict[str, WorkerSlot] = {}
        self._expected: set[str] = set()
        self._links: dict[str, Link] = {}
        self._file_calls: dict[str, int] = {}
        self._reads: Reads = set()
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_concurrent_streams", MAX_CALLS),
                ("grpc.so_reuseport", 0),
                ("grpc.http2.bdp_probe", 0),
                ("grpc.http2.lookahead_bytes", LOOKAHEAD_BYTES),
            ]
        )
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(self, self._server)

    @property
    def local_endpoint(self) -> Endpoint:
        """For workers of this machine."""
        return Endpoint(address=f"unix:{self._socket}", file_socket=str(self._files.path))

    @property
    def remote_endpoint(self) -> Endpoint:
        """For workers that share no disk with us; LookupError when there is none."""
        if self._remote is None:
            raise LookupError("there is no address for workers of other machines")
        return Endpoint(address=self._remote.address, tls_roots=self._remote.certificate)

    async def open(self) -> None:
        """Begin to listen. Sockets left by a daemon that died are replaced; raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            self._socket.unlink()
        self._server.add_insecure_port(f"unix:{self._socket}")
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
        """Hang up on all workers; they go on and dial again."""
        await self._files.close()
        await self._server.stop(CLOSE_GRACE_SECONDS)
        if self._reads:
            await asyncio.wait(self._reads, timeout=CLOSE_GRACE_SECONDS)

    def expect(self, job_id: str) -> None:
        """A slot will be kept for this job's worker soon: have it dial again, not go away."""
        self._expected.add(job_id)

    def keep(self, job_id: str, slot: WorkerSlot) -> None:
        """Let in the worker that holds the token of this slot, and no other one of the job."""
        self._slots[job_id] = slot
        self._expected.discard(job_id)

    def clear(self, job_id: str) -> None:
        """Let nobody in for this job any more."""
        self._slots.pop(job_id, None)
        self._expected.discard(job_id)

    def keep_captioner(self, name: str, link: Link) -> None:
        """Let in the captioner that holds the token of this link."""
        self._links[name] = link

    def clear_captioner(self, name: str) -> None:
        """Let this captioner in no more."""
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
        orders: Orders = asyncio.Queue()
        # A worker has one session: the one before is broken, or was never its own.
        slot.end_session()
        slot.end_session = lambda: orders.put_nowait(None)
        tasks = [
            asyncio.create_task(_listen(requests, slot, orders)),
            asyncio.create_task(_announce_stop(slot, orders)),
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
        """One captioner's session; the captioner ends with it."""
        requests = Incoming(request_iterator, self._reads)
        hello = await _hello(requests, context)
        link = self._links.get(hello.job_id)
        if not _is_proved(link, hello):
            await _refuse(hello, context)
        assert link is not None
        yield captioning.work(link.work, log_kept=link.log.kept)
        reading = asyncio.create_task(_follow(requests, link))
        try:
            async for batch in link.batches():
                for order in captioning.orders(batch):
                    yield order
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

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
        with self._file_call(request.hello.job_id) as is_allowed:
            if not is_allowed:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "one file at a time")
            try:
                descriptor = await self._pool.run(opener)
            except (OSError, CallsdError) as problem:
                await context.abort(grpc.StatusCode.NOT_FOUND, str(problem))
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
        with self._file_call(hello.job_id) as is_allowed:
            if not is_allowed:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "one file at a time")
            problem: tuple[grpc.StatusCode, str] | None = None
            try:
                while True:
                    async with asyncio.timeout(IDLE_TIMEOUT_SECONDS):
                        message = await anext(requests, None)
                    if message is None:
                        break
                    offset = await slot.delivery.write(name, offset, message.data)
            except (UnusableError, TimeoutError) as error:
                problem = (grpc.StatusCode.FAILED_PRECONDITION, str(error))
            except OSError as error:
                problem = (grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
            finally:
                slot.delivery.end_file(name)
        if problem is not None:
            # Not above: gRPC keeps what it raises, and with it what was raised before, until the
            # collector of garbage finds it; hundreds of refused messages would lie there.
            message = None
            await context.abort(*problem)
        return worker_pb2.SendFileResponse(size_bytes=offset)

    async def _file(self, request: worker_pb2.ReadFileRequest) -> Opener | None:
        """What opens a file for who asks for it; None when that is not to be had."""
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
    def _file_call(self, name: str) -> Iterator[bool]:
        """One more file that this worker reads or sends; whether it may."""
        self._file_calls[name] = self._file_calls.get(name, 0) + 1
        try:
            yield self._file_calls[name] <= MAX_FILE_CALLS
        finally:
            self._file_calls[name] -= 1
            if not self._file_calls[name]:
                del self._file_calls[name]


def _share(path: Path) -> None:
    """Let those use a socket that its directory is shared with."""
    group = path.parent.stat().st_gid
    mode = stat.S_IRUSR | stat.S_IWUSR
    if group != path.stat().st_gid:
        os.chown(path, -1, group)
    if path.parent.stat().st_mode & stat.S_IXGRP:
        mode |= stat.S_IRGRP | stat.S_IWGRP
    path.chmod(mode)


def _is_proved(place: WorkerSlot | Link | None, hello: worker_pb2.Hello) -> bool:
    """Whether this is the worker that the place is kept for: it holds the token."""
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


async def _follow(requests: AsyncIterator[worker_pb2.CaptionRequest], link: Link) -> None:
    pace = Pace(rate=NEWS_A_SECOND, burst=NEWS_A_SECOND)
    try:
        async for request in requests:
            if link.is_closed:
                return
            await pace.wait(1 + request.ByteSize() // NEWS_BYTES)
            if request.HasField("log"):
                await link.log.take(request.log.offset, request.log.data[:MAX_LOG_BYTES])
            else:
                captioning.report(request, link)
    except Exception:
        # The captioner is ended with its session, and another one begins anew.
        log.exception("captioner_report_failed")
    finally:
        link.close()


Orders = asyncio.Queue[worker_pb2.SessionResponse | None]


async def _announce_stop(slot: WorkerSlot, orders: Orders) -> None:
    await slot.stop.wait()
    stop = worker_pb2.Stop(grace_seconds=slot.stop_grace_seconds)
    orders.put_nowait(worker_pb2.SessionResponse(stop=stop))


async def _listen(
    requests: AsyncIterator[worker_pb2.SessionRequest], slot: WorkerSlot, orders: Orders
) -> None:
    """Take what the worker reports; what it shall do about it goes into `orders`."""
    pace = Pace(rate=REPORTS_A_SECOND, burst=REPORTS_A_SECOND)
    collecting: asyncio.Task[None] | None = None
    try:
        async for request in requests:
            await pace.wait()
            match request.WhichOneof("report"):
                case "status":
                    slot.report(messages.progress(request.status))
                case "log":
                    await slot.log.take(request.log.offset, request.log.data[:MAX_LOG_BYTES])
                case "outcome" if collecting is None and _is_of(request.outcome, slot):
                    collecting = asyncio.create_task(_collect(request.outcome, slot, orders))
                case "nothing_saved":
                    slot.is_over.set()
                case _:
                    # Who has said hello does not say it again; a newer one may know more words.
                    pass
    finally:
        if collecting is not None:
            collecting.cancel()
            await asyncio.gather(collecting, return_exceptions=True)
        orders.put_nowait(None)


def _is_of(outcome: worker_pb2.Outcome, slot: WorkerSlot) -> bool:
    """Whether it is this worker's own; one of an earlier worker does not count."""
    return outcome.generation == slot.generation


async def _collect(message: worker_pb2.Outcome, slot: WorkerSlot, orders: Orders) -> None:
    """Take over what the worker has made, and say what has become of it."""

    async def ask(file_name: str, offset: int) -> None:
        order = worker_pb2.SendOrder(file_name=file_name, offset=offset)
        orders.put_nowait(worker_pb2.SessionResponse(send=order))

    try:
        await slot.delivery.collect(messages.outcome(message), message.SerializeToString(), ask)
        problem = ""
    except UnusableError as error:
        problem = str(error)
        log.warning("outcome_unusable", problem=problem)
    except Exception as error:
        problem = f"a bug in callsd: {error}"
        log.exception("outcome_failed")
    slot.is_over.set()
    verdict = worker_pb2.OutcomeVerdict(problem=problem)
    orders.put_nowait(worker_pb2.SessionResponse(verdict=verdict))
