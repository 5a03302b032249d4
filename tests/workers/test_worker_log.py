# SPDX-License-Identifier: Apache-2.0
"""A worker's log, as the daemon keeps it."""

import asyncio
from pathlib import Path

import pytest

from callsd_daemon.files import FilePool
from callsd_daemon.workers.worker_log import CUT_MARK, MAX_OFFSET, WorkerLog
from callsd_ipc.v1 import worker_pb2


MAX_BYTES = 1000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the log is kept."""
    return tmp_path / "log.txt"


@pytest.fixture
def log(path: Path, pool: FilePool) -> WorkerLog:
    """A log of which nothing has arrived."""
    return WorkerLog(path, pool, max_bytes=MAX_BYTES)


async def test_parts(log: WorkerLog, path: Path) -> None:
    """Parts that follow each other are the log, which is nobody else's."""
    await log.open()
    await log.take(0, b"one\n")
    await log.take(4, b"two\n")

    assert path.read_bytes() == b"one\ntwo\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert log.kept == 8


async def test_next_daemon(log: WorkerLog, path: Path, pool: FilePool) -> None:
    """The next daemon asks for what has not arrived yet, and nothing stands there twice."""
    await log.take(0, b"one\n")
    later = WorkerLog(path, pool, max_bytes=MAX_BYTES)
    await later.open()
    assert later.kept == 4
    await later.take(4, b"two\n")

    assert path.read_bytes() == b"one\ntwo\n"


async def test_rest(log: WorkerLog, path: Path) -> None:
    """What a dead worker has left is kept once, whenever the parts come that were on their way."""
    await log.take(0, b"one\n")
    await asyncio.gather(
        log.take_rest(lambda offset, size: b"one\ntwo\n"[offset:]), log.take(4, b"two\n")
    )
    await log.take(0, b"one\ntwo\n")

    assert path.read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("offset", [0, 2, 100])
async def test_gap(log: WorkerLog, path: Path, offset: int) -> None:
    """Where a part is missing, or the worker's log was cut, a line says so; it goes on after it."""
    await log.take(0, b"one\n")
    await log.take(offset, b"two\n")
    await log.take(offset + 4, b"three\n")

    assert path.read_bytes() == b"one\n" + CUT_MARK + b"two\nthree\n"


async def test_too_long(log: WorkerLog, path: Path) -> None:
    """A log that grows without end loses its beginning, says so, and is never longer than it may.

    What is newest is there.
    """
    offset = 0
    for number in range(100):
        line = f"line {number:03} {'.' * 40}\n".encode()
        await log.take(offset, line)
        offset += len(line)
        assert path.stat().st_size <= MAX_BYTES
        assert path.read_bytes().endswith(line)

    assert path.read_bytes().startswith(CUT_MARK)
    assert log.kept == offset


@pytest.mark.parametrize("size", [MAX_BYTES - 1, MAX_BYTES, MAX_BYTES + 1, 64 * 1024])
async def test_long_part(log: WorkerLog, path: Path, size: int) -> None:
    """Of a part that is longer than the whole log may be, the end is kept."""
    data = b"x" * (size - 5) + b" end\n"
    await log.take(0, data)

    kept = path.read_bytes()
    assert len(kept) <= MAX_BYTES
    assert kept.endswith(b"x end\n")
    assert (kept == data) is (size <= MAX_BYTES)
    assert log.kept == size


@pytest.mark.parametrize("offset", [-1, -(2**63), 2**63 - 1])
async def test_nonsense(log: WorkerLog, path: Path, pool: FilePool, offset: int) -> None:
    """Whatever a worker says where its log is, it can be told so, by the next daemon too."""
    await log.take(offset, b"words\n")
    later = WorkerLog(path, pool, max_bytes=MAX_BYTES)
    await later.open()

    assert later.kept == log.kept
    assert 0 <= log.kept <= MAX_OFFSET
    assert worker_pb2.LogKept(offset=log.kept).offset == log.kept


async def test_cannot_be_written(log: WorkerLog, path: Path) -> None:
    """What cannot be written is lost, and nobody fails for it; what comes later is kept."""
    path.mkdir()
    await log.take(0, b"one\n")
    assert log.kept == 4
    path.rmdir()
    await log.take(4, b"two\n")

    assert path.read_bytes() == b"two\n"


async def test_link(log: WorkerLog, path: Path, tmp_path: Path) -> None:
    """A link in its place is not written through."""
    (tmp_path / "other").write_bytes(b"precious")
    path.symlink_to(tmp_path / "other")
    await log.take(0, b"one\n")

    assert (tmp_path / "other").read_bytes() == b"precious"


@pytest.mark.parametrize("written", [b"", b"garbage", b"\xff\xff"])
async def test_half_a_note(log: WorkerLog, path: Path, written: bytes) -> None:
    """A note of how much is kept that a power cut has spoiled counts as none."""
    path.with_name("log.txt.kept").write_bytes(written)
    await log.open()

    assert log.kept == 0
