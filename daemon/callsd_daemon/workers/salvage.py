# SPDX-License-Identifier: Apache-2.0
"""Saves what a worker has left that is gone.

This is done by a worker that does only this, in the directory of the one that is gone.
"""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import structlog

from callsd_daemon.domain.jobs import Failure, Job
from callsd_daemon.files import FilePool
from callsd_daemon.kinds import Kinds
from callsd_daemon.workers import ending
from callsd_daemon.workers.ending import EndRules
from callsd_daemon.workers.launchers.launcher import Launcher
from callsd_daemon.workers.patient_store import PatientStore
from callsd_daemon.workers.session.server import WorkerServer
from callsd_daemon.workers.starter import WorkerStarter
from callsd_daemon.workers.waits import first_of
from callsd_ipc.names import OUTCOME, PIECES


log = structlog.get_logger(__name__)


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
        now: Callable[[], datetime],
    ) -> None:
        """`directory` holds the jobs' directories."""
        self._store = store
        self._server = server
        self._launcher = launcher
        self._starter = starter
        self._directory = directory
        self._pool = pool
        self._kinds = kinds
        self._now = now

    async def save(self, job: Job, failure: Failure, rules: EndRules) -> None:
        """Have an outcome that a worker has left brought to us, and what was recorded saved.

        The latter when no other worker will go on with the recording. Whatever comes of it, the
        attempt is concluded: nothing is raised.
        """
        try:
            await self._save(job, failure, rules)
        except Exception:
            log.exception("salvage_failed", job_id=job.id)

    async def _save(self, job: Job, failure: Failure, rules: EndRules) -> None:
        directory, kind = self._directory / job.id, self._kinds[job.kind]
        worker = self._starter.worker_id(job)
        if worker is None or await self._pool.run(ending.taken_over, job, directory) is not None:
            return
        await self._launcher.sweep(worker)
        current = await self._store.read(lambda tx: tx.get(job.id))
        left = await self._pool.run(self._launcher.leftovers, job.id)
        if (directory / PIECES).is_dir() and left is not None:
            left |= {PIECES}
        is_last = current is not None and not self._is_retried(current, failure, rules)
        wanted = {OUTCOME} | ({PIECES} if kind.leaves_pieces and is_last else set())
        if current is None or (left is not None and not wanted & left):
            return
        log.info("salvage", job_id=job.id, reason=failure.reason)
        slot, process = await self._starter.start_salvage(job, worker, failure)
        try:
            await first_of((slot.is_over, process.exited), kind.salvage_seconds)
        finally:
            process.detach()
            self._server.clear(job.id)

    def _is_retried(self, job: Job, failure: Failure, rules: EndRules) -> bool:
        is_at_end = self._kinds[job.kind].is_at_end(job, ending.ran_seconds(job, self._now()))
        return not is_at_end and ending.is_retried(job, failure, rules)
