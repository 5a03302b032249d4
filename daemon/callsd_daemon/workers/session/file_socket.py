# SPDX-License-Identifier: Apache-2.0
"""Passes open files to workers of this machine, as descriptors.

A worker has no access to media or models: it shows its token, names a file of its assignment, and
gets a descriptor of that file, open for reading. gRPC cannot carry descriptors.
"""

import asyncio
import contextlib
import functools
import os
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
from google.protobuf.message import DecodeError

from callsd_daemon.domain.errors import CallsdError
from callsd_daemon.files import PASSING_ERRNOS, FilePool
from callsd_daemon.kinds import Opener
from callsd_ipc.v1 import worker_pb2


log = structlog.get_logger(__name__)

MAX_REQUEST_BYTES = 4096
MAX_CONNECTIONS = 64
MAX_OF_ONE_PEER = 8
"""A worker asks for one file after the other; one that took all connections would block others."""

TIMEOUT_SECONDS = 10.0

PEER = struct.Struct("3i")
"""Process, user and group, as SO_PEERCRED has them; see unix(7)."""

Find = Callable[[worker_pb2.ReadFileRequest], Awaitable[Opener | None]]


class FileSocket:
    """One ReadFileRequest per connection; the answer is a descriptor, or an error text."""

    def __init__(self, path: Path, pool: FilePool, find: Find) -> None:
        self.path = path
        self._pool = pool
        self._find = find
        self._tasks: set[asyncio.Task[None]] = set()
        self._peers: Counter[int] = Counter()
        """Open connections of each peer."""
        self._accepting: asyncio.Task[None] | None = None
        self._listener: socket.socket | None = None

    async def open(self) -> None:
        """Begin to listen."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        listener.bind(str(self.path))
        listener.listen(MAX_CONNECTIONS)
        self._listener = listener
        self._accepting = asyncio.create_task(self._accept(listener), name="file socket")

    async def close(self) -> None:
        """Take no more requests."""
        tasks = [*self._tasks, *([self._accepting] if self._accepting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while len(self._tasks) >= MAX_CONNECTIONS:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as problem:
                # The process has no descriptors left for now.
                log.warning("file_socket_blocked", problem=str(problem))
                await asyncio.sleep(1.0)
                continue
            peer = _peer(connection)
            if self._peers[peer] >= MAX_OF_ONE_PEER:
                connection.close()
                continue
            self._peers[peer] += 1
            task = asyncio.create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            # Not within the task: one that is cancelled before it starts would not close it.
            task.add_done_callback(functools.partial(self._close, connection, peer))

    def _close(self, connection: socket.socket, peer: int, _task: asyncio.Task[None]) -> None:
        connection.close()
        self._peers[peer] -= 1
        self._peers += Counter()  # removes peers without connections

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                data = await loop.sock_recv(connection, MAX_REQUEST_BYTES)
                opener = await self._find(worker_pb2.ReadFileRequest.FromString(data))
                if opener is None:
                    connection.send(b"no such file for this worker")
                    return
                descriptor = await self._pool.open(opener)
                try:
                    socket.send_fds(connection, [b"ok"], [descriptor])
                finally:
                    os.close(descriptor)
        except (DecodeError, ConnectionResetError):
            return  # the worker sees a closed connection, and asks again
        except CallsdError as problem:
            _answer(connection, problem.message)
        except OSError as problem:  # the file, a worker that is gone, or the timeout
            if problem.errno in PASSING_ERRNOS:
                log.warning("file_delayed", problem=str(problem))
                return  # it asks again
            _answer(connection, problem.strerror or "no answer in time")


def _peer(connection: socket.socket) -> int:
    """Identifies who connected: by process for our own user, else by user, as a negative number."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size)
    pid, uid, _ = PEER.unpack(credentials)
    return int(pid) if uid == os.geteuid() else -int(uid)


def _answer(connection: socket.socket, text: str) -> None:
    with contextlib.suppress(OSError):
        connection.send(text.encode()[:MAX_REQUEST_BYTES])
