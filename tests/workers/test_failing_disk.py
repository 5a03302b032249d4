# SPDX-License-Identifier: Apache-2.0
"""Attempts on a disk that fails: what passes is waited out, and what does not is said."""

import asyncio
import errno
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest

from callsd_daemon.domain.errors import CallsdError
from callsd_daemon.domain.jobs import Job, State
from callsd_daemon.domain.recording import RECORDING
from callsd_daemon.files import FilePool
from callsd_daemon.kinds.stored import codec
from callsd_daemon.store.database import Database
from callsd_daemon.workers import conclusion, ending, salvage, starter
from callsd_daemon.workers.conclusion import Conclusion
from callsd_daemon.workers.ending import EndRules
from callsd_daemon.workers.launchers.launcher import (
    Launcher,
    Limits,
    WorkerId,
    WorkerProcess,
)
from callsd_daemon.workers.patient_store import PatientStore
from callsd_daemon.workers.salvage import Salvage
from callsd_daemon.workers.session import messages
from callsd_daemon.workers.session.server import WorkerServer
from callsd_daemon.workers.slot import Endpoint, WorkerSlot
from callsd_daemon.workers.starter import WorkerStarter
from callsd_ipc.names import OUTCOME
from tests.helpers.jobs import NOW, WORKER, make_job, put
from tests.helpers.kinds import KINDS


RULES = EndRules(max_attempts=1, retention=timedelta(days=1))
KILLED = ending.killed("the worker was killed by SIGKILL", signal="SIGKILL")


class Workers:
    """Launcher, server and worker: the first starts meet a disk that fails so."""

    is_local = True
    epoch = "boot"

    def __init__(self) -> None:
        self.failures: list[int] = []
        self.kept: set[str] = set()
        self.started = 0
        self.deaths = 0
        """How many of the workers die before they have told all."""
        self.exited = asyncio.Event()
        self.exited.set()

    async def launch(self, worker: WorkerId, bootstrap: bytes, limits: Limits) -> WorkerProcess:
        """A worker that has ended at once, as soon as the disk does what it is asked."""
        if self.failures:
            number = self.failures.pop()
            raise OSError(number, os.strerror(number))
        self.started += 1
        if self.started > self.deaths:
            self._slot.is_over.set()
        return cast(WorkerProcess, self)

    def detach(self) -> None:
        """Stop watching it."""

    async def sweep(self, worker: WorkerId) -> bool:
        """Nothing is left running."""
        return True

    def leftovers(self, name: str) -> frozenset[str]:
        """The last worker has left an outcome."""
        return frozenset({OUTCOME})

    def give_pieces(self, name: str, source: Path) -> None:
        """There are none."""

    def discard(self, name: str) -> None:
        """There is no directory."""

    def endpoint(self, *, is_local: bool) -> Endpoint:
        """Where nobody dials."""
        return Endpoint(address="unix:nowhere", file_socket="nowhere")

    def keep(self, job_id: str, slot: WorkerSlot) -> None:
        """A worker of this job may come."""
        self._slot = slot
        self.kept.add(job_id)

    def clear(self, job_id: str) -> None:
        """No more."""
        self.kept.discard(job_id)


class Shop:
    """What starts, saves and concludes attempts, over a real store."""

    def __init__(self, directory: Path) -> None:
        self.workers = Workers()
        self.directory = directory
        self.database = Database(directory / "callsd.db", codec())
        store, pool = PatientStore(self.database), FilePool()
        launcher = cast(Launcher, self.workers)
        server = cast(WorkerServer, self.workers)
        self.starter = WorkerStarter(
            store=store,
            server=server,
            launcher=launcher,
            directory=directory,
            pool=pool,
            kinds=KINDS,
            now=lambda: NOW,
            is_stopping=lambda _job_id: False,
        )
        self.salvage = Salvage(
            store=store,
            server=server,
            launcher=launcher,
            starter=self.starter,
            directory=directory,
            pool=pool,
            kinds=KINDS,
        )
        self.conclusion = Conclusion(
            store=store,
            launcher=launcher,
            starter=self.starter,
            directory=directory,
            pool=pool,
            kinds=KINDS,
            now=lambda: NOW,
        )

    async def start(self, job: Job) -> None:
        """Start the job's worker."""
        worker = self.starter.worker_id(job)
        assert worker is not None
        slot = await self.starter.slot(job, "a" * 64)
        await self.starter._launch(job, worker, slot, "token", salvage=None)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """One that tries again at once."""
    for module in (starter, salvage, conclusion):
        monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)
    one = Shop(tmp_path)
    yield one
    one.database.close()


def running(kind: str) -> Job:
    """A job that a worker is at."""
    return make_job(kind=kind, state=State.RUNNING, attempt=1, worker=WORKER, start_time=NOW)


class TestStart:
    """A disk that fails while a worker is started."""

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EMFILE])
    async def test_batch(self, shop: Shop, number: int) -> None:
        """A transcription that was accepted waits for the disk."""
        shop.workers.failures += [number] * 3
        await shop.start(running("transcription"))
        assert shop.workers.started == 1

    async def test_live(self, shop: Shop) -> None:
        """A recording does not: its call would go on without it, and nobody would know."""
        shop.workers.failures.append(errno.ENOSPC)
        with pytest.raises(CallsdError, match="could not be started"):
            await shop.start(running(RECORDING))

    async def test_bound(self, shop: Shop) -> None:
        """Nobody waits for ever."""
        shop.workers.failures += [errno.EIO] * 1_000_000
        with pytest.raises(CallsdError, match="could not be started"):
            await shop.start(running("transcription"))


class TestSalvage:
    """A disk that fails while it is saved what a worker has left."""

    async def test_passing(self, shop: Shop) -> None:
        """An error at its start delays it, and costs no recording."""
        job = running(RECORDING)
        await shop.database.write(put(job))
        shop.workers.failures += [errno.EIO, errno.ENOSPC]

        await shop.salvage.save(job, KILLED, RULES, NOW)

        assert (shop.workers.started, shop.workers.kept) == (1, set())

    @pytest.mark.parametrize(("deaths", "started"), [(2, 3), (100, 3)])
    async def test_deaths(self, shop: Shop, deaths: int, started: int) -> None:
        """When the worker that brings it dies another one does it, but not for ever."""
        job = running(RECORDING)
        await shop.database.write(put(job))
        shop.workers.deaths = deaths

        await shop.salvage.save(job, KILLED, RULES, NOW)

        assert (shop.workers.started, shop.workers.kept) == (started, set())

    async def test_lasting(self, shop: Shop) -> None:
        """What is no matter of the disk ends it at once, and no worker is waited for any more."""
        job = running(RECORDING)
        await shop.database.write(put(job))
        shop.workers.failures += [errno.EACCES] * 2

        await shop.salvage.save(job, KILLED, RULES, NOW)

        assert (shop.workers.started, shop.workers.kept) == (0, set())
        assert len(shop.workers.failures) == 1


class TestConclusion:
    """A disk that does not give an outcome back."""

    @pytest.fixture
    def errors(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """So reading the outcome fails; the last one stays."""
        left: list[int] = []

        def read(path: Path, max_bytes: int) -> bytes:
            number = left.pop(0) if len(left) > 1 else left[0]
            raise OSError(number, os.strerror(number), str(path))

        monkeypatch.setattr(messages, "read_regular", read)
        return left

    async def test_broken(
        self, shop: Shop, errors: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One that stays unreadable counts as none after a while: the job ends."""
        job = running("transcription")
        await shop.database.write(put(job))
        errors.append(errno.EIO)
        monkeypatch.setattr(conclusion, "RETRY_SECONDS", 0.1)

        await shop.conclusion.conclude(job, KILLED, RULES, end_time=NOW)

        ended = await shop.database.read(lambda tx: tx.get(job.id))
        assert ended is not None
        assert ended.failure == KILLED

    async def test_scarce(
        self, shop: Shop, errors: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What the system lacks is waited for, however long: the outcome may be good."""
        monkeypatch.setattr(type(KINDS["transcription"]), "salvage_seconds", 0.0)
        job = running("transcription")
        await shop.database.write(put(job))
        # The last one says that there is none.
        errors += [errno.EMFILE, errno.ENOSPC, errno.EMFILE, errno.ENOENT]

        await shop.conclusion.conclude(job, KILLED, RULES, end_time=NOW)

        assert errors == [errno.ENOENT]
