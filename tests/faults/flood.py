# SPDX-License-Identifier: Apache-2.0
"""What a worker could send that was taken over: anything, and as fast as it is taken.

Messages are filled at random from what the protocol describes, with a seed.
"""

import itertools
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from callsd_ipc.v1 import worker_pb2, worker_pb2_grpc
from callsd_worker.session.bootstrap import hello


NICENESS = 10
"""As of the real thing: what is measured is the daemon's patience, not the machine's."""

SESSIONS = 8
LARGEST_BYTES = 1024 * 1024 - 100
"""What the daemon still takes in one message, or nearly so."""

SILENT_CONNECTIONS = 100
FILE_NAMES = ("media/0", "media/1", "model/", "model/../../owner.token", "/etc/passwd", "", "\0")

_INTEGERS = (0, 1, -1, 7, 2**31 - 1, -(2**31))
_LONG_INTEGERS = (*_INTEGERS, 2**63 - 1, -(2**63))
_NUMBERS = (0.0, -0.0, 0.5, -1.0, 1e308, -1e308, float("inf"), float("-inf"), float("nan"))
_LETTERS = "aZ09 .-_/\n\t\0\x1b\x7f\u00e9\u202e\ufeff\U0001f600"


def fill(message: Message, chance: random.Random, *, depth: int = 3) -> None:
    """Set some fields to anything that they can have."""
    for field in message.DESCRIPTOR.fields:
        if chance.random() < 0.3:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entries = getattr(message, field.name)
            for _ in range(chance.choice((1, 3, 100))):
                entries[_text(chance)] = _text(chance)
        elif field.is_repeated:
            for _ in range(chance.choice((1, 3, 300))):
                _append(getattr(message, field.name), field, chance, depth)
        elif field.message_type is not None:
            if depth:
                getattr(message, field.name).SetInParent()
                fill(getattr(message, field.name), chance, depth=depth - 1)
        else:
            setattr(message, field.name, _value(field, chance))


def _append(values: Any, field: Any, chance: random.Random, depth: int) -> None:
    if field.message_type is None:
        values.append(_value(field, chance))
    elif depth:
        fill(values.add(), chance, depth=depth - 1)


def _value(field: Any, chance: random.Random) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_INT32 | FieldDescriptor.CPPTYPE_ENUM:
            return chance.choice(_INTEGERS)
        case FieldDescriptor.CPPTYPE_INT64:
            return chance.choice(_LONG_INTEGERS)
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return chance.choice(_NUMBERS)
        case FieldDescriptor.CPPTYPE_BOOL:
            return chance.random() < 0.5
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return chance.randbytes(chance.choice((0, 10, 1000)))
        case FieldDescriptor.CPPTYPE_STRING:
            return _text(chance)
        case unknown:
            raise AssertionError(unknown)


def _text(chance: random.Random) -> str:
    return "".join(chance.choices(_LETTERS, k=chance.choice((0, 1, 10, 3000))))


def outcome(told: worker_pb2.Bootstrap, *, seed: str) -> worker_pb2.Outcome:
    """The outcome of work that was done; all that it says besides is nonsense."""
    found = worker_pb2.Outcome()
    chance = random.Random(seed)  # noqa: S311 - no secret
    fill(found.transcription, chance)
    fill(found.recording, chance)
    for _ in range(300):
        fill(found.notices.add(), chance)
    found.generation = told.generation
    found.cpu_seconds, found.wall_seconds = float("nan"), float("inf")
    found.peak_memory_bytes = -(2**63)
    return found


def _reports(
    told: worker_pb2.Bootstrap, chance: random.Random, is_over: Callable[[], bool]
) -> Iterator[worker_pb2.SessionRequest]:
    yield worker_pb2.SessionRequest(hello=hello(told, is_assigned=chance.random() < 0.5))
    for number in itertools.count(1):
        if is_over():
            return
        request = worker_pb2.SessionRequest()
        match number % 8:
            case 0:
                request.status.phase = "x" * LARGEST_BYTES
            case 1:
                request.log.offset = chance.choice(_LONG_INTEGERS)
                request.log.data = chance.randbytes(LARGEST_BYTES)
            case 2:
                fill(request.outcome, chance)
                # One that is taken for what it says would end the flood.
                request.outcome.generation = told.generation
                request.outcome.artifacts.add(file_name="transcript.vtt", size_bytes=7)
            case 3 if chance.random() < 0.01:
                request.status.phase = "x" * 2 * LARGEST_BYTES  # more than is allowed
            case _:
                fill(getattr(request, chance.choice(("hello", "status", "log"))), chance)
        yield request


class _Flood:
    def __init__(self, told: worker_pb2.Bootstrap, end: float, seed: str) -> None:
        self._told = told
        self._end = end
        self._seed = seed

    def is_over(self) -> bool:
        return time.monotonic() > self._end

    def run(self, work: Callable[[worker_pb2_grpc.WorkerServiceStub, random.Random], None]) -> None:
        """Do it again and again, on a connection of its own each time."""
        chance = random.Random(f"{self._seed} {threading.current_thread().name}")  # noqa: S311
        options = [("grpc.use_local_subchannel_pool", 1)]
        while not self.is_over():
            with grpc.insecure_channel(self._told.endpoint, options) as channel:
                try:
                    work(worker_pb2_grpc.WorkerServiceStub(channel), chance)
                except grpc.RpcError:
                    time.sleep(0.01)

    def report(self, stub: worker_pb2_grpc.WorkerServiceStub, chance: random.Random) -> None:
        call = stub.Session(_reports(self._told, chance, self.is_over), timeout=self._left())
        for _ in call:
            pass

    def read(self, stub: worker_pb2_grpc.WorkerServiceStub, chance: random.Random) -> None:
        request = worker_pb2.ReadFileRequest(
            hello=hello(self._told), name=chance.choice(FILE_NAMES)
        )
        for _ in stub.ReadFile(request, timeout=self._left()):
            pass

    def send(self, stub: worker_pb2_grpc.WorkerServiceStub, chance: random.Random) -> None:
        start = worker_pb2.SendFileStart(
            hello=hello(self._told),
            file_name=chance.choice(("transcript.vtt", "../outcome.binpb", _text(chance))),
            offset=chance.choice(_LONG_INTEGERS),
        )
        data = worker_pb2.SendFileRequest(data=chance.randbytes(LARGEST_BYTES))
        first = worker_pb2.SendFileRequest(start=start)
        stub.SendFile(itertools.chain([first], itertools.repeat(data)), timeout=self._left())

    def ask_for_files(self) -> None:
        """What is no request at all, and connections on which nothing is asked."""
        chance = random.Random(self._seed)  # noqa: S311 - no secret
        held: list[socket.socket] = []
        while not self.is_over():
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            connection.settimeout(0.1)
            try:
                connection.connect(self._told.file_socket)
                if chance.random() < 0.5:
                    connection.send(chance.randbytes(chance.choice((1, 100, 4096, 60_000))))
            except OSError:
                time.sleep(0.01)
            held.append(connection)
            if len(held) > SILENT_CONNECTIONS:
                held.pop(0).close()

    def _left(self) -> float:
        return max(0.1, self._end - time.monotonic())


def run(told: worker_pb2.Bootstrap, *, seconds: float, seed: str) -> None:
    """Flood the daemon for so long."""
    os.nice(NICENESS)
    flood = _Flood(told, time.monotonic() + seconds, seed)
    work: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
        *[(flood.run, (flood.report,))] * SESSIONS,
        *[(flood.run, (flood.read,))] * 2,
        *[(flood.run, (flood.send,))] * 2,
        (flood.ask_for_files, ()),
    ]
    threads = [
        threading.Thread(target=target, args=arguments, name=f"flood {number}", daemon=True)
        for number, (target, arguments) in enumerate(work)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 5)
