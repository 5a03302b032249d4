# SPDX-License-Identifier: Apache-2.0
"""Gives a job its worker: its token, its slot, its process, new or adopted."""

import asyncio
import errno
import secrets
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import structlog

from callsd_daemon import tokens
from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import Failure, Job, Worker
from callsd_daemon.files import PASSING_ERRNOS, SCARCE_ERRNOS, FilePool
from callsd_daemon.kinds import Assignment, Kinds
from callsd_daemon.store.failpoints import failpoint
from callsd_daemon.workers.launchers.launcher import Launcher, WorkerId, WorkerProcess, limits
from callsd_daemon.workers.patient_store import PatientStore
from callsd_daemon.workers.session import messages
from callsd_daemon.workers.session.server import WorkerServer
from callsd_daemon.workers.slot import WorkerSlot
from callsd_daemon.workers.takeover import Takeover
from callsd_daemon.workers.worker_log import WorkerLog
from callsd_ipc.names import ARTIFACTS, OUTCOME, PIECES, WORKER_LOG


log = structlog.get_logger(__name__)

T = TypeVar("T")

RETRY_SECONDS = 1.0
"""Pause before something is tried again for which the system lacked means."""


class WorkerStarter:
    """Starts the workers of jobs that have one of their own, and finds those that run."""

    def __init__(
        self,
        *,
        store: PatientStore,
        server: WorkerServer,
        launcher: Launcher,
        directory: Path,
        pool: FilePool,
        kinds: Kinds,
        now: Callable[[], datetime],
        is_stopping: Callable[[str], bool],
    ) -> None:
        """`directory` holds the jobs' directories.

        `is_stopping` tells whether a job shall end: then nothing is tried again for it.
        """
        self._store = store
        self._server = server
        self._launcher = launcher
        self._directory = directory
        self._pool = pool
        self._kinds = kinds
        self._now = now
        self._is_stopping = is_stopping

    def with_worker(self, job: Job) -> tuple[Job, str]:
        """The job as it is when it gets its next worker, and that worker's token."""
        token = secrets.token_urlsafe(32)
        worker = Worker(token_sha256=tokens.digest(token), epoch=self._launcher.epoch)
        return job.starting(worker, self._now()), token

    def worker_id(self, job: Job) -> WorkerId | None:
        """By what the launcher knows the worker of this attempt; None if it has none of its own."""
        role = self._kinds[job.kind].role
        if role is None:
            return None
        assert job.worker is not None
        tag = f"{job.id}:{job.attempt}:{job.worker.token_sha256[:16]}"
        return WorkerId(name=job.id, tag=tag, role=role)

    async def slot(self, job: Job, token_sha256: str) -> WorkerSlot:
        """A place for the worker with this token, in the job's own directory."""
        directory = self._directory / job.id
        try:
            await self._patiently(job, lambda: self._pool.run(_make, directory / ARTIFACTS))
        except OSError as problem:
            raise _not_started(job, problem) from problem
        worker_log = WorkerLog(
            directory / WORKER_LOG,
            self._pool,
            max_bytes=self._kinds[job.kind].bounds.max_log_bytes,
        )
        await worker_log.open()

        async def resolve() -> Assignment:
            kept, after = await self._store.read(
                lambda tx: (tx.secrets(job), {one: tx.get(one) for one in job.after_jobs})
            )
            known = {job_id: first for job_id, first in after.items() if first is not None}
            return await self._pool.run(
                self._kinds[job.kind].assignment, job, job.spec, kept, known
            )

        return WorkerSlot(
            resolve,
            takeover=Takeover(
                directory,
                self._pool,
                lambda file, target: self._launcher.take(job.id, file, target),
                artifacts=ARTIFACTS,
                outcome=OUTCOME,
            ),
            log=worker_log,
            generation=job.attempt,
            token_sha256=token_sha256,
        )

    async def start(
        self, job: Job, worker: WorkerId, slot: WorkerSlot, token: str
    ) -> WorkerProcess:
        """A new worker that does the job; raises CallsdError when it cannot be started."""
        # Before it is started: what cannot be done is told at once.
        try:
            await self._patiently(job, slot.assignment)
        except OSError as problem:
            raise _not_started(job, problem) from problem
        return await self._launch(job, worker, slot, token, salvage=None)

    async def start_salvage(
        self, job: Job, worker: WorkerId, failure: Failure
    ) -> tuple[WorkerSlot, WorkerProcess]:
        """A new worker that only brings what the one has left that ended by `failure`.

        Raises CallsdError when it cannot be started.
        """
        token = secrets.token_urlsafe(32)
        slot = await self.slot(job, tokens.digest(token))
        return slot, await self._launch(job, worker, slot, token, salvage=failure)

    async def adopt(self, job: Job, worker: WorkerId, slot: WorkerSlot) -> WorkerProcess | None:
        """The worker if it lives; nothing is decided about it while nobody can be asked."""
        self._server.keep(job.id, slot)
        while True:
            try:
                return await self._launcher.adopt(worker)
            except OSError as problem:
                log.warning("adoption_delayed", worker=worker.name, problem=str(problem))
                await asyncio.sleep(RETRY_SECONDS)

    async def _launch(
        self, job: Job, worker: WorkerId, slot: WorkerSlot, token: str, *, salvage: Failure | None
    ) -> WorkerProcess:
        self._server.keep(job.id, slot)
        kind = self._kinds[job.kind]
        bootstrap = messages.bootstrap(
            name=worker.name,
            role=worker.role,
            generation=job.attempt,
            token=token,
            endpoint=self._server.endpoint(is_local=self._launcher.is_local),
            salvage=salvage,
        )
        failpoint("worker.before_spawn")
        try:
            if kind.leaves_pieces:
                await self._pool.run(
                    self._launcher.give_pieces, job.id, self._directory / job.id / PIECES
                )
            process = await self._patiently(
                job,
                lambda: self._launcher.launch(
                    worker, bootstrap, limits(job.reservation, is_batch=kind.is_batch)
                ),
            )
        except OSError as problem:
            raise _not_started(job, problem) from problem
        failpoint("worker.after_spawn")
        return process

    async def _patiently(self, job: Job, work: Callable[[], Awaitable[T]]) -> T:
        """Do it, and try again for as long as the system lacks descriptors or processes.

        Batch work also waits for the disk; live work would miss what it is for, and is told.
        """
        kind = self._kinds[job.kind]
        waited_for = PASSING_ERRNOS if kind.is_batch else SCARCE_ERRNOS
        deadline = time.monotonic() + kind.bounds.start_timeout_seconds
        while True:
            try:
                return await work()
            except OSError as problem:
                is_given_up = self._is_stopping(job.id) or time.monotonic() > deadline
                if problem.errno not in waited_for or is_given_up:
                    raise
                log.warning("worker_delayed", job_id=job.id, problem=str(problem))
                await asyncio.sleep(RETRY_SECONDS)


def _make(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)


def _not_started(job: Job, problem: OSError) -> CallsdError:
    log.error("worker_not_started", job_id=job.id, problem=str(problem))
    is_full = problem.errno in (errno.ENOSPC, errno.EDQUOT)
    return CallsdError(
        Reason.DISK_FULL if is_full else Reason.WORKER_KILLED,
        f"the worker could not be started: {problem}",
    )
