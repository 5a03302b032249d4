# SPDX-License-Identifier: Apache-2.0
"""Files as descriptors, on real sockets."""

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Self

import pytest

from callsd_daemon.files import FilePool
from callsd_daemon.workers.session import file_socket as module
from callsd_daemon.workers.session.file_socket import MAX_REQUEST_BYTES, FileSocket
from callsd_daemon.workers.session.server import WorkerServer
from callsd_daemon.workers.slot import WorkerSlot
from callsd_ipc.v1 import worker_pb2

from .conftest import JOB, SOUND, hello, read


WAIT_SECONDS = 10.0


class Caller:
    """A worker's end of one connection."""

    def __init__(self, server: WorkerServer) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(WAIT_SECONDS)
        self._path = server.endpoint(is_local=True).file_socket

    def __enter__(self) -> Self:
        self._socket.connect(self._path)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def say(self, data: bytes) -> None:
        """Send something."""
        self._socket.send(data)

    def ask(self, name: str, **changes: object) -> None:
        """Ask for a file."""
        request = worker_pb2.ReadFileRequest(hello=hello(**changes), name=name)
        self.say(request.SerializeToString())

    async def answer(self) -> tuple[bytes, list[int]]:
        """What is said, with the descriptors that came; nothing: it was hung up."""
        data, descriptors, _, _ = await asyncio.to_thread(
            socket.recv_fds, self._socket, MAX_REQUEST_BYTES, 4
        )
        return data, descriptors


async def answer(server: WorkerServer, name: str, **changes: object) -> tuple[bytes, list[int]]:
    """What one request is answered with."""
    with Caller(server) as caller:
        caller.ask(name, **changes)
        return await caller.answer()


async def test_handed_over(server: WorkerServer) -> None:
    """The worker with the token is handed the file that it names, one descriptor, to read."""
    said, descriptors = await answer(server, "media/0")

    assert said == b"ok"
    (descriptor,) = descriptors
    flags = Path(f"/proc/self/fdinfo/{descriptor}").read_text().split("flags:\t")[1].split()[0]
    assert int(flags, 8) & 3 == 0
    assert read(descriptor) == SOUND


async def test_replaced_afterwards(server: WorkerServer, media: Path, tmp_path: Path) -> None:
    """What was handed over stays that file, whatever becomes of its path."""
    _, (descriptor,) = await answer(server, "media/0")
    (tmp_path / "secret").write_bytes(b"secret")
    media.unlink()
    media.symlink_to(tmp_path / "secret")

    assert read(descriptor) == SOUND


@pytest.mark.parametrize(
    "changes", [{"token": "another"}, {"token": ""}, {"generation": 1}, {"job_id": "other"}]
)
async def test_strangers(server: WorkerServer, changes: dict[str, object]) -> None:
    """Who does not hold the token gets no descriptor, whatever it asks for."""
    for name in ("media/0", "media/1"):
        assert await answer(server, name, **changes) == (b"no such file for this worker", [])


@pytest.mark.parametrize("name", ["", "media/1", "media/../media/0", "/etc/passwd", "../maya.ogg"])
async def test_not_its_own(server: WorkerServer, name: str) -> None:
    """A worker gets what its assignment names, and no path means anything."""
    assert await answer(server, name) == (b"no such file for this worker", [])


async def test_gone(server: WorkerServer, media: Path) -> None:
    """A file that is gone, or no file any more, is told as that."""
    media.unlink()
    assert await answer(server, "media/0") == (b"No such file or directory", [])
    media.mkdir()
    assert await answer(server, "media/0") == (b"not a plain file", [])


async def test_not_ready(server: WorkerServer, slot: WorkerSlot) -> None:
    """A worker whose slot is not ready yet is hung up on without an answer: it asks again."""
    server.clear(JOB)
    server.expect(JOB)
    assert await answer(server, "media/0") == (b"", [])

    server.keep(JOB, slot)
    _, (descriptor,) = await answer(server, "media/0")
    assert read(descriptor) == SOUND


@pytest.mark.parametrize("data", [b"\xff" * 100, b"\x0a\xff", b"\xff" * (2 * MAX_REQUEST_BYTES)])
async def test_garbage(server: WorkerServer, data: bytes) -> None:
    """What is no request ends its connection, and nobody else's."""
    with Caller(server) as caller:
        caller.say(data)
        assert await caller.answer() == (b"", [])

    _, (descriptor,) = await answer(server, "media/0")
    assert read(descriptor) == SOUND


async def test_silence(server: WorkerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who connects and says nothing is told so after a while, and hung up on."""
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.05)
    with Caller(server) as caller:
        assert await caller.answer() == (b"no answer in time", [])
        assert await caller.answer() == (b"", [])


async def test_gone_before_the_answer(server: WorkerServer) -> None:
    """Who hangs up at once does no harm."""
    for said in (False, True):
        with Caller(server) as caller:
            if said:
                caller.ask("media/0")
    _, (descriptor,) = await answer(server, "media/0")

    assert read(descriptor) == SOUND


async def test_too_many(server: WorkerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """More connections than are served at once wait, and are served when one of those ends."""
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)
    with Caller(server) as first, Caller(server) as second, Caller(server) as third:
        for number, caller in enumerate((second, third)):
            # The one after the silent first one is served, as long as there is room for it.
            caller.ask("media/0")
            if number == 0:
                _, (descriptor,) = await second.answer()
                assert read(descriptor) == SOUND
        _, (descriptor,) = await third.answer()
        assert read(descriptor) == SOUND

        with Caller(server) as silent, Caller(server) as late:
            late.ask("media/0")
            waiting = asyncio.create_task(late.answer())
            # What the silent ones keep busy is all there is: nothing comes while both are there.
            done, _ = await asyncio.wait([waiting], timeout=0.1)
            assert not done
            first.say(b"\xff")
            _, (descriptor,) = await waiting
            assert read(descriptor) == SOUND
            silent.say(b"\xff")


async def test_close(runtime: Path, pool: FilePool) -> None:
    """Closing leaves no socket open, of connections that nobody has looked at yet neither."""

    async def find(request: worker_pb2.ReadFileRequest) -> None:
        """Nothing is found."""

    files = FileSocket(runtime / "files.sock", pool, find)
    before = {path.name for path in Path("/proc/self/fd").iterdir()}
    for turns in range(4):
        await files.open()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
            caller.connect(str(files.path))
            for _ in range(turns):
                await asyncio.sleep(0)
            await files.close()
            with contextlib.suppress(ConnectionResetError):  # it was not accepted yet
                assert await asyncio.to_thread(caller.recv, 10) == b""

    after = {path.name for path in Path("/proc/self/fd").iterdir()}
    assert len(after) <= len(before) + 1
