# SPDX-License-Identifier: Apache-2.0
"""A worker's job, files and slot, and the server that it talks to."""

import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from callsd_daemon.files import FilePool, open_regular
from callsd_daemon.kinds import Assignment, ModelFile
from callsd_daemon.kinds.transcription import TranscriptionAssignment
from callsd_daemon.tokens import digest
from callsd_daemon.workers.launchers.local import Directories
from callsd_daemon.workers.session.server import WorkerServer
from callsd_daemon.workers.slot import WorkerSlot
from callsd_daemon.workers.takeover import Take, Takeover
from callsd_daemon.workers.worker_log import WorkerLog
from callsd_ipc.names import ARTIFACTS, OUTCOME
from callsd_ipc.v1 import worker_pb2
from tests.helpers.jobs import SPEC


JOB, GENERATION, TOKEN = "job", 2, "the-token"
SOUND = b"sound " * 100_000
WEIGHTS = b"weights " * 50_000


def hello(**changes: object) -> worker_pb2.Hello:
    """How the worker presents itself that the slot is kept for, but for `changes`."""
    said = {"job_id": JOB, "generation": GENERATION, "token": TOKEN, "protocol_version": 2}
    return worker_pb2.Hello(**(said | changes))  # type: ignore[arg-type]


@pytest.fixture
def pool() -> Iterator[FilePool]:
    """The daemon's threads for files."""
    pool = FilePool()
    yield pool
    pool.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The job's directory."""
    (tmp_path / "job" / ARTIFACTS).mkdir(parents=True)
    return tmp_path / "job"


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    """Where a worker's finished files lie on this disk."""
    folder = tmp_path / "workers" / "job" / "artifacts"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def take(tmp_path: Path) -> Take:
    """As a launcher of this machine does it."""
    (tmp_path / "trash").mkdir()
    directories = Directories(tmp_path / "workers", tmp_path / "trash", mode=0o700)
    return lambda file, target: directories.take("job", file, target)


@pytest.fixture
def new_takeover(directory: Path, pool: FilePool) -> Callable[[Take], Takeover]:
    """A takeover into the job's directory, as each daemon makes its own."""
    return lambda take: Takeover(
        directory, pool, take, artifacts="artifacts", outcome="outcome.binpb"
    )


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """The track that the job reads."""
    (tmp_path / "maya.ogg").write_bytes(SOUND)
    return tmp_path / "maya.ogg"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The file that the job's model consists of."""
    (tmp_path / "model.bin").write_bytes(WEIGHTS)
    return tmp_path / "model.bin"


@pytest.fixture
def new_slot(directory: Path, pool: FilePool, media: Path, model: Path) -> Callable[[], WorkerSlot]:
    """Slots for the worker of the job, which shares no disk with the daemon."""
    file = ModelFile(
        path="ggml/model.bin",
        size_bytes=len(WEIGHTS),
        sha256=hashlib.sha256(WEIGHTS).hexdigest(),
        open=lambda: open_regular(model),
    )

    async def resolve() -> Assignment:
        return TranscriptionAssignment(
            spec=SPEC, media=(lambda: open_regular(media),), model_files=(file,), threads=1
        )

    return lambda: WorkerSlot(
        resolve,
        takeover=Takeover(
            directory, pool, lambda file, target: False, artifacts=ARTIFACTS, outcome=OUTCOME
        ),
        log=WorkerLog(directory / "log.txt", pool, max_bytes=2**20),
        generation=GENERATION,
        token_sha256=digest(TOKEN),
    )


@pytest.fixture
def slot(new_slot: Callable[[], WorkerSlot]) -> WorkerSlot:
    """One of them."""
    return new_slot()


@pytest.fixture
def runtime() -> Iterator[Path]:
    """Where the sockets lie; their paths must be short."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


@pytest.fixture
async def server(runtime: Path, pool: FilePool, slot: WorkerSlot) -> AsyncIterator[WorkerServer]:
    """An open server, behind which the slot is kept."""
    server = WorkerServer(runtime, pool)
    server.keep(JOB, slot)
    await server.open()
    yield server
    await server.close()


def read(descriptor: int) -> bytes:
    """All of a file that was handed over."""
    with os.fdopen(descriptor, "rb") as file:
        return file.read()
