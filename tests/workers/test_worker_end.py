# SPDX-License-Identifier: Apache-2.0
"""The worker's end of the corridor, at the real server: inputs, session, and takeover."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from callsd_daemon.files import FilePool
from callsd_daemon.kinds.transcription import TranscriptionAssignment
from callsd_daemon.workers.session.server import WorkerServer
from callsd_daemon.workers.slot import WorkerSlot
from callsd_ipc.names import OUTCOME
from callsd_ipc.v1 import worker_pb2
from callsd_worker.session import client, inputs
from callsd_worker.session.client import Session
from callsd_worker.session.inputs import InputError, Inputs, RefusedInputError
from callsd_worker.session.outcome import write_artifact, write_outcome
from callsd_worker.speech.errors import SpeechError
from tests.helpers.waiting import eventually

from .conftest import GENERATION, JOB, SOUND, TOKEN, WEIGHTS, read


WAIT_SECONDS = 20.0
TEXT = b"what was said " * 100_000
"""More than one part of a file."""


@pytest.fixture
def bootstrap(runtime: Path) -> worker_pb2.Bootstrap:
    """What the worker was told when it was started."""
    return worker_pb2.Bootstrap(
        job_id=JOB,
        generation=GENERATION,
        token=TOKEN,
        role=worker_pb2.ROLE_TRANSCRIBER,
        endpoint=f"unix:{runtime / 'door.sock'}",
        file_socket=str(runtime / "files.sock"),
    )


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The worker's own directory."""
    own = tmp_path / "worker"
    own.mkdir()
    monkeypatch.chdir(own)
    monkeypatch.setattr(inputs, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(client, "REDIAL_SECONDS", 0.05)
    return own


class TestInputs:
    """The files that an assignment names."""

    @pytest.fixture(params=["descriptors", "session"])
    def found(
        self, own: Path, bootstrap: worker_pb2.Bootstrap, request: pytest.FixtureRequest
    ) -> Inputs:
        """A worker's inputs, handed over or sent."""
        if request.param == "session":
            bootstrap.file_socket = ""
        return Inputs(bootstrap, own)

    @pytest.fixture
    async def pins(self, slot: WorkerSlot) -> list[worker_pb2.FilePin]:
        """The files of the model, as the assignment has them."""
        assignment = await slot.assignment()
        assert isinstance(assignment, TranscriptionAssignment)
        (file,) = assignment.model_files
        return [worker_pb2.FilePin(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256)]

    async def test_media(self, server: WorkerServer, found: Inputs, media: Path) -> None:
        """A track is read from the file that was meant when it was asked for."""
        descriptor = await asyncio.to_thread(found.open, "media/0")
        media.with_name("other").write_bytes(b"other")
        media.with_name("other").replace(media)

        assert read(descriptor) == SOUND

    async def test_model(
        self,
        server: WorkerServer,
        found: Inputs,
        pins: list[worker_pb2.FilePin],
        model: Path,
        own: Path,
    ) -> None:
        """A model lies under its names in the worker's directory, also once it is pulled anew."""
        place = await asyncio.to_thread(found.model, "model", pins)
        model.unlink()

        assert place == own / "inputs" / "model"
        assert (place / "ggml" / "model.bin").read_bytes() == WEIGHTS

    async def test_changed_model(
        self, server: WorkerServer, found: Inputs, pins: list[worker_pb2.FilePin], model: Path
    ) -> None:
        """A model that is not what it was when it was verified is refused before it is loaded."""
        model.write_bytes(WEIGHTS[::-1])

        with pytest.raises(SpeechError, match="changed since it was verified"):
            await asyncio.to_thread(found.model, "model", pins)

    @pytest.mark.parametrize("name", ["media/7", "../media/0"])
    async def test_refused(self, server: WorkerServer, found: Inputs, name: str) -> None:
        """What the daemon does not hand over is not asked for again."""
        with pytest.raises(RefusedInputError, match=r"^no such file for this worker$"):
            await asyncio.wait_for(asyncio.to_thread(found.open, name), WAIT_SECONDS)

    async def test_gone(self, server: WorkerServer, found: Inputs, media: Path) -> None:
        """A file that is not there any more is refused as such."""
        media.unlink()
        with pytest.raises(RefusedInputError, match="No such file"):
            await asyncio.wait_for(asyncio.to_thread(found.open, "media/0"), WAIT_SECONDS)

    async def test_daemon_is_away(
        self, found: Inputs, runtime: Path, pool: FilePool, slot: WorkerSlot
    ) -> None:
        """A daemon that is started again is waited for, until it keeps a slot for the worker."""
        asking = asyncio.create_task(asyncio.to_thread(found.open, "media/0"))
        server = WorkerServer(runtime, pool)
        server.expect(JOB)
        await server.open()
        assert not asking.done()
        server.keep(JOB, slot)
        descriptor = await asyncio.wait_for(asking, WAIT_SECONDS)
        await server.close()

        assert read(descriptor) == SOUND

    async def test_away_for_good(self, found: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody waits for ever."""
        monkeypatch.setattr(inputs, "PATIENCE_SECONDS", 0.05)
        with pytest.raises(InputError):
            await asyncio.to_thread(found.open, "media/0")


class TestSession:
    """From the first report to the verdict."""

    @pytest.fixture
    async def session(self, own: Path, bootstrap: worker_pb2.Bootstrap) -> AsyncIterator[Session]:
        """A worker's session."""
        session = Session(bootstrap)
        yield session
        session._settled.set()
        session.report(worker_pb2.Status())
        if session._thread.is_alive():
            await asyncio.to_thread(session._thread.join, WAIT_SECONDS)
        session._sender.shutdown()

    async def start(self, session: Session) -> bool:
        """Dial."""
        return await asyncio.to_thread(session.start, WAIT_SECONDS)

    async def deliver(self, session: Session) -> None:
        """Bring the outcome."""
        await asyncio.wait_for(asyncio.to_thread(session.deliver), WAIT_SECONDS)

    def make(self, own: Path) -> None:
        """Do the work."""
        artifact = write_artifact(own, "words.txt", "text/plain", TEXT)
        write_outcome(own, GENERATION, artifacts=[artifact])

    async def test_work(self, server: WorkerServer, session: Session, slot: WorkerSlot) -> None:
        """A worker is given its work, and what it reports arrives."""
        assert await self.start(session)
        assert session.assignment is not None
        assert session.assignment.transcription.model_name == "base"
        session.report(worker_pb2.Status(phase="transcribing", fraction=0.5))
        await asyncio.to_thread(
            eventually,
            lambda: slot.progress is not None and slot.progress.phase == "transcribing",
            "the report has arrived",
        )

        assert slot.progress is not None
        assert slot.progress.fraction == 0.5

    async def test_delivered(
        self, server: WorkerServer, session: Session, slot: WorkerSlot, own: Path, directory: Path
    ) -> None:
        """Files, outcome and the whole log are with the daemon when the worker ends."""
        await self.start(session)
        self.make(own)
        (own / "log.txt").write_bytes(b"last words\n")
        await self.deliver(session)

        assert (directory / "artifacts" / "words.txt").read_bytes() == TEXT
        assert (directory / OUTCOME).read_bytes() == (own / OUTCOME).read_bytes()
        assert (directory / "log.txt").read_bytes() == b"last words\n"
        assert slot.is_over.is_set()

    async def test_another_daemon(
        self,
        server: WorkerServer,
        session: Session,
        runtime: Path,
        pool: FilePool,
        new_slot: Callable[[], WorkerSlot],
    ) -> None:
        """A worker whose daemon is started again dials the new one, which finds it at work."""
        await self.start(session)
        await server.close()
        slot, another = new_slot(), WorkerServer(runtime, pool)
        another.keep(JOB, slot)
        await another.open()
        await asyncio.wait_for(slot.arrived.wait(), WAIT_SECONDS)

        assert slot._assignment is None
        self.make(session.directory)
        await self.deliver(session)
        assert slot.is_over.is_set()
        await another.close()

    async def test_log_of_a_salvage(
        self, server: WorkerServer, session: Session, slot: WorkerSlot, own: Path, directory: Path
    ) -> None:
        """A worker that only brings what another one has left tells what is new of the log."""
        (own / "log.txt").write_bytes(b"one\ntwo\n")
        await slot.log.take(0, b"one\n")
        self.make(own)
        await self.deliver(session)

        assert (directory / "log.txt").read_bytes() == b"one\ntwo\n"
        assert (directory / "artifacts" / "words.txt").read_bytes() == TEXT

    async def test_nothing_saved(
        self, server: WorkerServer, session: Session, slot: WorkerSlot
    ) -> None:
        """A worker that has found nothing says so, and ends."""
        await self.deliver(session)
        await asyncio.wait_for(slot.is_over.wait(), WAIT_SECONDS)

    async def test_not_wanted(self, server: WorkerServer, session: Session, own: Path) -> None:
        """A worker that the daemon does not want ends its work, and does not deliver it."""
        server.clear(JOB)
        assert not await self.start(session)
        assert session.should_stop()
        self.make(own)
        await self.deliver(session)

        assert (own / OUTCOME).exists()

    async def test_told_to_stop(
        self, server: WorkerServer, session: Session, slot: WorkerSlot
    ) -> None:
        """A worker that is told to end knows it."""
        await self.start(session)
        assert not session.should_stop()
        slot.request_stop(1.0)
        await asyncio.to_thread(eventually, session.should_stop, "the worker knows it")

    async def test_nobody_there(
        self, session: Session, own: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker that was told to end does not wait long for a daemon that is away.

        What it has made stays for the worker that brings it later.
        """
        monkeypatch.setattr(client, "FAREWELL_SECONDS", 0.1)
        session.request_stop()
        self.make(own)
        await self.deliver(session)

        assert (own / OUTCOME).exists()
        assert (own / "artifacts" / "words.txt").read_bytes() == TEXT
