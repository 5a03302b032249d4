# SPDX-License-Identifier: Apache-2.0
"""Saves what a worker has left that is gone.

This is done by a worker that does only this, in the directory of the one that is gone.
"""

import asyncio
import time
from datetime import datetime
from pathlib import Path

import structlog

from callsd_daemon.domain.errors import CallsdError
from callsd_daemon.domain.jobs import Failure, Job
from callsd_daemon.files import PASSING_ERRNOS, FilePool
from callsd_daemon.kinds import Kinds
from callsd_daemon.workers import ending, leftovers
from callsd_daemon.workers.ending import EndRules
from callsd_daemon.workers.launchers.launcher import Launcher
from callsd_daemon.workers.patient_store import PatientStore
from callsd_daemon.workers.session.server import WorkerServer
from callsd_daemon.workers.starter import WorkerStarter
from callsd_daemon.workers.waits import first_of, until
from callsd_ipc.names import OUTCOME, PIECES


log = structlog.get_logger(__name__)

RETRY_SECONDS = 1.0
"""Pause before it is looked again what there is, if the disk did not say."""

MAX_WORKERS = 3
"""How many are started for it, one after the other, when they die over it."""


class Salvage:
    """Between the end of a worker that did not tell all and the conclusion of its attempt."""

    def __init__(
        self,
        *,
        store: PatientStore,
        server: WorkerServer,
        launcher: Launcher,
        starter: WorkerStarter,
        directory: Path,
        pool: FilePool,
        kinds: Kinds,
    ) -> None:
        """`directory` holds the jobs' directories."""
        self._store = store
        self._server = server
        self._launcher = launcher
        self._starter = starter
        self._directory = directory
        self._pool = pool
        self._kinds = kinds

    async def save(self, job: Job, failure: Failure, rules: EndRules, end_time: datetime) -> None:
        """Have an outcome that a worker has left brought to us, and what was recorded saved.

        The latter when no other worker will go on with the recording. Whatever comes of it, the
        attempt is concluded: nothing is raised. `end_time` is that of the worker's end.
        """
        deadline = time.monotonic() + self._kinds[job.kind].salvage_seconds
        deaths = 0
        while True:
            try:
                if await self._save(job, failure, rules, end_time):
                    return
                deaths += 1
                log.warning("salvage_lost", job_id=job.id, deaths=deaths)
                if deaths == MAX_WORKERS:
                    return
            except (OSError, CallsdError) as problem:
                # What the starter raises has the error of the disk as its cause.
                errno = getattr(problem.__cause__ or problem, "errno", None)
                is_passing = errno in PASSING_ERRNOS and time.monotonic() < deadline
                event = "salvage_delayed" if is_passing else "salvage_failed"
                log.error(event, job_id=job.id, problem=str(problem))  # noqa: TRY400 - no bug of ours
                if not is_passing:
                    return
            except Exception:
                log.exception("salvage_failed", job_id=job.id)
                return
            await asyncio.sleep(RETRY_SECONDS)

    async def _save(self, job: Job, failure: Failure, rules: EndRules, end_time: datetime) -> bool:
        """Whether it is done, as far as it can be; False: the worker that did it is lost."""
        directory, kind = self._directory / job.id, self._kinds[job.kind]
        worker = self._starter.worker_id(job)
        if worker is None or await self._pool.run(leftovers.taken_over, job, directory) is not None:
            return True
        await self._launcher.sweep(worker)
        current = await self._store.read(lambda tx: tx.get(job.id))
        if current is None:
            return True
        left = await self._pool.run(self._launcher.leftovers, job.id)
        if (directory / PIECES).is_dir() and left is not None:
            left |= {PIECES}
        is_at_end = kind.is_at_end(current, ending.ran_seconds(current, end_time))
        is_last = not ending.is_retried(current, failure, rules, is_at_end=is_at_end)
        wanted = {OUTCOME} | ({PIECES} if kind.leaves_pieces and is_last else set())
        if left is not None and not wanted & left:
            return True
        log.info("salvage", job_id=job.id, reason=failure.reason)
        try:
            slot, process = await self._starter.start_salvage(job, worker, failure)
            try:
                await first_of((slot.is_over, process.exited), kind.salvage_seconds)
                # Its last word may be on the way.
                return not process.exited.is_set() or await until(slot.is_over, RETRY_SECONDS)
            finally:
                process.detach()
        finally:
            self._server.clear(job.id)
