# SPDX-License-Identifier: Apache-2.0
"""What a worker could send that was taken over: anything, and as fast as it is taken.

The messages are those of a pool that `flood_pool.py` has drawn. Here they are only put in order, by
a seed: nothing is made up while the daemon waits for the next one.
"""

import base64
import contextlib
import functools
import itertools
import json
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from callsd_ipc.v1 import worker_pb2
from callsd_worker.session.bootstrap import hello


NICENESS = 10
"""As of the real thing: what is measured is the daemon's patience, not the machine's."""

STREAMS = 8
SILENT_CONNECTIONS = 100
LENGTHS = (0, 1, 10, 100, 1000, 10**9)
"""So many messages in one stream, unless it is ended earlier."""

LARGEST_BYTES = 1024 * 1024
"""In one message, as the daemon takes it."""

SMALL_BYTES = 2000

OPTIONS = [("grpc.use_local_subchannel_pool", 1)]
SERVICE = "/callsd_ipc.v1.WorkerService/"
KINDS: dict[str, type[Message]] = {
    "Session": worker_pb2.SessionRequest,
    "Caption": worker_pb2.CaptionRequest,
    "ReadFile": worker_pb2.ReadFileRequest,
    "SendFile": worker_pb2.SendFileRequest,
}


class Pool:
    """Messages to send, as bytes: those that say who sends them as drawn, and as from us."""

    def __init__(self, path: Path, told: worker_pb2.Bootstrap) -> None:
        found = {
            name: [base64.b64decode(one) for one in ones]
            for name, ones in json.loads(path.read_text()).items()
        }
        self.outcome: bytes = found["outcome"][0]
        self.nonsense: Sequence[bytes] = found["bytes"]
        self.messages: dict[str, Sequence[bytes]] = {}
        self.beginnings: dict[str, Sequence[bytes]] = {}
        """Those that are let in."""
        for name, kind in KINDS.items():
            ours = [_as_ours(kind.FromString(one), told) for one in found[name]]
            self.beginnings[name] = [one for one in ours if one]
            self.messages[name] = [*found[name], *self.beginnings[name]]


def _as_ours(message: Message, told: worker_pb2.Bootstrap) -> bytes:
    """The same with our own proof; empty where there is no place for one."""
    match message:
        case worker_pb2.SessionRequest() | worker_pb2.CaptionRequest() if (
            message.WhichOneof("report") == "hello"
        ):
            place = message.hello
        case worker_pb2.ReadFileRequest():
            place = message.hello
        case worker_pb2.SendFileRequest() if message.HasField("start"):
            place = message.start.hello
        case _:
            return b""
    place.CopyFrom(hello(told, is_assigned=place.is_assigned))
    return message.SerializeToString()


def _goes_on(message: bytes) -> bool:
    """Whether a captioner's session goes on after this: it is not too long, and not the end."""
    report = worker_pb2.CaptionRequest.FromString(message).WhichOneof("report")
    return len(message) <= LARGEST_BYTES and report != "failure"


class _Flood:
    def __init__(self, told: worker_pb2.Bootstrap, pool: Pool, end: float, seed: str) -> None:
        self.sent: Counter[str] = Counter()
        self._told = told
        self._pool = pool
        self._end = end
        self._seed = seed
        self._counting = threading.Lock()

    def is_over(self) -> bool:
        return time.monotonic() > self._end

    def call(self, method: str) -> None:
        """Call it again and again, on a connection of its own each time."""
        chance = self._chance()
        while not self.is_over():
            with grpc.insecure_channel(self._told.endpoint, OPTIONS) as channel:
                messages: Any = self._messages(method, chance)
                call: Any = channel.stream_stream(SERVICE + method)
                if method == "ReadFile":
                    messages, call = next(messages), channel.unary_stream(SERVICE + method)
                try:
                    for _ in call(messages, timeout=self._left()):
                        pass
                except grpc.RpcError:
                    time.sleep(0.01)

    def caption(self) -> None:
        """Report what is let in, in one session: with it ends what a captioner says."""
        chance = self._chance()
        messages = [one for one in self._pool.messages["Caption"] if _goes_on(one)]
        small = [one for one in messages if len(one) <= SMALL_BYTES]

        def reports() -> Iterator[bytes]:
            yield self._pool.beginnings["Caption"][0]
            while not self.is_over():
                # The daemon counts by bytes: of large ones alone it would read a few in a second.
                one = chance.choice(small if chance.random() < 0.99 else messages)
                yield self._counted("Caption", one)

        with (
            contextlib.suppress(grpc.RpcError),
            grpc.insecure_channel(self._told.endpoint, OPTIONS) as channel,
        ):
            call: Any = channel.stream_stream(f"{SERVICE}Caption")
            for _ in call(reports(), timeout=self._left()):
                pass

    def _messages(self, method: str, chance: random.Random) -> Iterator[bytes]:
        yield self._counted(method, chance.choice(self._beginnings(method, chance)))
        messages = list(self._pool.messages[method])
        chance.shuffle(messages)
        for one in itertools.islice(itertools.cycle(messages), chance.choice(LENGTHS)):
            if self.is_over():
                return
            yield self._counted(method, one)

    def _beginnings(self, method: str, chance: random.Random) -> Sequence[bytes]:
        if (drawn := chance.random()) < 0.8:
            return self._pool.beginnings[method]
        return self._pool.messages[method] if drawn < 0.95 else self._pool.nonsense

    def _counted(self, method: str, message: bytes) -> bytes:
        with self._counting:
            self.sent[method] += 1
            self.sent["bytes"] += len(message)
        return message

    def ask_for_files(self) -> None:
        """What is a request or is none, and connections on which nothing is asked."""
        chance = self._chance()
        requests = [*self._pool.messages["ReadFile"], *self._pool.nonsense]
        held: list[socket.socket] = []
        while not self.is_over():
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            connection.settimeout(0.1)
            try:
                connection.connect(self._told.file_socket)
                if chance.random() < 0.5:
                    connection.send(self._counted("files", chance.choice(requests)[:60_000]))
            except OSError:
                time.sleep(0.01)
            held.append(connection)
            if len(held) > SILENT_CONNECTIONS:
                held.pop(0).close()

    def _chance(self) -> random.Random:
        return random.Random(f"{self._seed} {threading.current_thread().name}")  # noqa: S311

    def _left(self) -> float:
        return max(0.1, self._end - time.monotonic())


def run(told: worker_pb2.Bootstrap, pool: Pool, *, seconds: float, seed: str) -> Counter[str]:
    """Flood the daemon for so long; returns how much was sent of what, and how many bytes."""
    os.nice(NICENESS)
    flood = _Flood(told, pool, time.monotonic() + seconds, seed)
    methods = ["Session"] * STREAMS + ["Caption", "ReadFile", "SendFile"] * 2
    work: list[Callable[[], None]] = [flood.ask_for_files]
    if told.role == worker_pb2.ROLE_CAPTIONER:
        methods = ["Session", "ReadFile", "SendFile"] * 2
        work.append(flood.caption)
    work += [functools.partial(flood.call, method) for method in methods]
    threads = [
        threading.Thread(target=target, name=f"flood {number}", daemon=True)
        for number, target in enumerate(work)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 5)
    return flood.sent
