# SPDX-License-Identifier: Apache-2.0
"""What one client may hold: its share of the requests, and streams while its token is valid."""

import asyncio
import queue
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from callsd.v1.caption_pb2 import (
    AUDIO_ENCODING_S16LE_16KHZ,
    CaptionsConfig,
    StreamCaptionsRequest,
    WatchCaptionsRequest,
)
from callsd.v1.job_pb2 import ListJobsRequest, ReadLogRequest, WatchJobsRequest
from callsd.v1.media_pb2 import UploadMediaRequest, UploadStart
from callsd.v1.server_pb2 import WatchCapacityRequest
from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.rpc.clients import MAX_REQUESTS, MAX_UNDER_WAY, FairShares
from callsd_daemon.rpc.interceptor import RequestInterceptor
from callsd_daemon.tokens import SCOPES, TokenFile
from tests.conftest import StartDaemon
from tests.helpers.api import health
from tests.helpers.daemon import GIB, ROOT, Daemon
from tests.helpers.invariants import footprint
from tests.helpers.reasons import refused
from tests.helpers.waiting import eventually


UPLOAD = "5f0c4f0a-6f0e-4d51-a36b-0d1b4f1d7c55"

HTTP2_BEGIN = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""Preface and empty settings: the least that makes a connection."""


def tokens(one: Daemon) -> TokenFile:
    """The daemon's tokens, as the command line edits them."""
    return TokenFile(one.state / "tokens.json")


def forever(first: object) -> Iterator[Any]:
    """One message, and then a client that neither sends nor ends."""
    yield first
    queue.SimpleQueue[None]().get()


class Ending:
    """A stream that is read until it ends."""

    def __init__(self, call: Any) -> None:
        self.error: grpc.RpcError | None = None
        self.count = 0
        self.end_time = 0.0
        self._call = call
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for _ in self._call:
                self.count += 1
        except grpc.RpcError as error:
            self.error = error
        self.end_time = time.monotonic()

    def error_after(self, seconds: float) -> grpc.RpcError:
        """With what it has ended, within so long."""
        eventually(lambda: self.error is not None, "the stream is ended", seconds=seconds)
        assert self.error is not None
        return self.error


def end_of(ending: Ending) -> Callable[[], None]:
    """Raises what the stream has ended with."""

    def raise_it() -> None:
        raise ending.error_after(5)

    return raise_it


class TestTokens:
    """Streams end with their token."""

    @pytest.mark.reason("TOKEN_INVALID")
    def test_revoked(self, server: Daemon) -> None:
        """Every stream of a revoked token ends within 5 s; those of others go on."""
        secret = tokens(server).create("leaver", SCOPES)
        api, owner = server.api(secret), server.api()
        job = server.create(owner, "until leaver").job
        start = UploadMediaRequest(
            start=UploadStart(upload_id=UPLOAD, size_bytes=100, sha256="0" * 64)
        )
        calls: Any = {"timeout": 60, "metadata": api.metadata}
        upload = api.media.UploadMedia.future(forever(start), **calls)
        streams = [
            Ending(api.stream(api.jobs.WatchJobs, WatchJobsRequest())),
            Ending(api.stream(api.jobs.ReadLog, ReadLogRequest(name=job.name, follow=True))),
            Ending(api.stream(api.server.WatchCapacity, WatchCapacityRequest())),
        ]
        stays = Ending(owner.stream(owner.jobs.WatchJobs, WatchJobsRequest()))
        eventually(lambda: streams[0].count and streams[2].count and stays.count, "they are open")
        tokens(server).revoke("leaver")
        for stream in streams:
            with refused("TOKEN_INVALID", grpc.StatusCode.UNAUTHENTICATED):
                end_of(stream)()
        with refused("TOKEN_INVALID", grpc.StatusCode.UNAUTHENTICATED):
            upload.result(timeout=5)
        told = stays.count
        (server.root / "tmp" / "leaver").touch()
        server.wait(owner, job.name)
        eventually(lambda: stays.count > told, "the other one is told of what happens")
        assert stays.error is None

    @pytest.mark.reason("TOKEN_INVALID")
    def test_expired(self, server: Daemon) -> None:
        """The time of a token is the time of its streams, too."""
        api = server.api(tokens(server).create("visitor", ("jobs.read",), 1.0))
        stream = Ending(api.stream(api.jobs.WatchJobs, WatchJobsRequest()))
        with refused("TOKEN_INVALID", grpc.StatusCode.UNAUTHENTICATED):
            raise stream.error_after(6)
        assert stream.count

    @pytest.mark.reason("TOKEN_INVALID")
    def test_made_anew(self, server: Daemon) -> None:
        """A new token of the same name does not prolong the streams of the old one."""
        api = server.api(tokens(server).create("renewed", ("jobs.read",)))
        stream = Ending(api.stream(api.jobs.WatchJobs, WatchJobsRequest()))
        eventually(lambda: stream.count, "it is open")
        tokens(server).revoke("renewed")
        tokens(server).create("renewed", ("jobs.read",))
        with refused("TOKEN_INVALID"):
            raise stream.error_after(5)

    @pytest.mark.reason("TOKEN_INVALID")
    def test_captions(self, live: Daemon, call: str) -> None:
        """Neither sound nor words of a call flow with a token that was revoked."""
        api = live.api(tokens(live).create("guest", ("captions.ingest", "jobs.read")))
        config = CaptionsConfig(job=call, encoding=AUDIO_ENCODING_S16LE_16KHZ)
        calls: Any = {"timeout": 60, "metadata": api.metadata}
        sound = forever(StreamCaptionsRequest(config=config))
        sending = Ending(api.captions.StreamCaptions(sound, **calls))
        watching = Ending(api.stream(api.captions.WatchCaptions, WatchCaptionsRequest(job=call)))
        eventually(lambda: sending.count, "sound is acknowledged")
        tokens(live).revoke("guest")
        for stream in (sending, watching):
            with refused("TOKEN_INVALID", grpc.StatusCode.UNAUTHENTICATED):
                end_of(stream)()


class TestShares:
    """One client's requests are not in the way of another's."""

    async def test_turns(self) -> None:
        """So many requests of a client are under way, the others wait, each in its turn."""
        shares, gate = FairShares(), asyncio.Event()
        begun = list[int]()

        async def request(number: int) -> None:
            async with shares.turn("busy"):
                begun.append(number)
                await gate.wait()

        requests = [asyncio.create_task(request(number)) for number in range(MAX_REQUESTS)]
        await asyncio.sleep(0)
        assert begun == list(range(MAX_UNDER_WAY))
        with pytest.raises(CallsdError) as refusal:
            async with shares.turn("busy"):
                pass
        assert refusal.value.reason is Reason.QUEUE_FULL
        assert refusal.value.retry_after_seconds == 1.0
        async with shares.turn("other"):
            pass

        requests[-1].cancel()
        gate.set()
        await asyncio.gather(*requests, return_exceptions=True)
        assert begun == list(range(MAX_REQUESTS - 1))
        async with shares.turn("busy"):
            pass
        assert shares._shares == {}

    @pytest.mark.reason("QUEUE_FULL")
    def test_busy_client(self, daemon: StartDaemon) -> None:
        """While one client asks for lists as fast as it can, another one's jobs are taken."""
        one = daemon(config={"jobs": {"max_concurrent_jobs": 1}})
        owner = one.api()
        one.create(owner, "sleep")
        for _ in range(200):
            one.create(owner)
        secret = tokens(one).create("busy", ("jobs.read",))
        apis = [one.api(secret) for _ in range(8)]
        request = ListJobsRequest(page_size=1000)
        asked = [
            api.jobs.ListJobs.future(request, metadata=api.metadata, timeout=60)
            for _ in range(60)
            for api in apis
        ]
        delays = list[float]()
        for _ in range(3):
            began = time.monotonic()
            one.create(owner)
            delays.append(time.monotonic() - began)
        refusals = [call for call in asked if call.exception() is not None]

        assert max(delays) < 10
        assert 0 < len(refusals) <= len(asked) - MAX_REQUESTS
        with refused("QUEUE_FULL", grpc.StatusCode.RESOURCE_EXHAUSTED) as refusal:
            refusals[0].result()
        assert refusal.error.retry_after_seconds == 1.0


class TestHandlers:
    """What answers the requests of a method."""

    async def test_shared(self, tmp_path: Path) -> None:
        """All requests of a method have one handler: thousands that are open hold none each."""

        async def find(details: Any) -> Any:
            return grpc.unary_stream_rpc_method_handler(print) if details.method == "/a/A" else None

        interceptor = RequestInterceptor(TokenFile(tmp_path / "tokens.json"))
        known, unknown = SimpleNamespace(method="/a/A"), SimpleNamespace(method="/a/B")
        first = await interceptor.intercept_service(find, known)

        assert first is not None
        assert await interceptor.intercept_service(find, known) is first
        assert await interceptor.intercept_service(find, unknown) is None


class TestHalfOpen:
    """Calls that do not go on."""

    @pytest.mark.reason("FIELD_INVALID", "TOKEN_MISSING")
    def test_no_message(self, daemon: StartDaemon) -> None:
        """A request that never sends its message ends: at once without a token, soon with one."""
        one = daemon(constants={"callsd_daemon.rpc.interceptor.MESSAGE_SECONDS": 0.5})
        for method in ("GetJob", "WatchJobs"):
            for api, reason in ((one.api(""), "TOKEN_MISSING"), (one.api(), "FIELD_INVALID")):
                call = api.raw(f"/callsd.v1.JobService/{method}")
                with refused(reason):
                    list(call(silent(), timeout=10, metadata=api.metadata))
        api = one.api()
        with refused("FIELD_INVALID"):
            api.raw("/grpc.health.v1.Health/Check")(silent(), timeout=10).__next__()

    @pytest.mark.reason("STREAMS_EXHAUSTED")
    def test_health_watches(self, daemon: StartDaemon) -> None:
        """Who has no token may watch the health in a bounded number of streams."""
        one = daemon(constants={"callsd_daemon.rpc.interceptor.MAX_OPEN_STREAMS": 2})
        with one.channel() as channel:
            stub, request = health(channel), health_pb2.HealthCheckRequest()
            watches = [stub.Watch(request, timeout=30) for _ in range(2)]
            for watch in watches:
                next(watch)
            with refused("STREAMS_EXHAUSTED"):
                next(stub.Watch(request, timeout=30))
            assert stub.Check(request, timeout=5).status == health_pb2.HealthCheckResponse.SERVING
            watches[0].cancel()
            eventually(partial(_opens, stub), "the place is free again")

    def test_connections(self, daemon: StartDaemon) -> None:
        """All connections that the service may have, without a word, leave it half its memory."""
        count, unit = 1000, (ROOT / "systemd" / "callsd.service").read_text()
        (most,) = re.findall(r"^LimitNOFILE=(\d+)$", unit, re.MULTILINE)
        (gibibytes,) = re.findall(r"^MemoryMax=(\d+)G$", unit, re.MULTILINE)
        one = daemon()
        before = footprint(one)
        with ExitStack() as resources:
            for _ in range(count):
                connection = resources.enter_context(socket.socket(socket.AF_UNIX))
                connection.settimeout(10)
                connection.connect(one.address.removeprefix("unix:"))
                connection.sendall(HTTP2_BEGIN)
            eventually(lambda: footprint(one).descriptors > count, "all are open")
            during = footprint(one)
            one.create(one.api())

        each_bytes = (during.resident_bytes - before.resident_bytes) / count
        assert each_bytes * int(most) < int(gibibytes) * GIB / 2


def silent() -> Iterator[bytes]:
    """A client that says nothing."""
    queue.SimpleQueue[None]().get()
    yield b""


def _opens(stub: Any) -> bool:
    try:
        next(stub.Watch(health_pb2.HealthCheckRequest(), timeout=30))
    except grpc.RpcError:
        return False
    return True
