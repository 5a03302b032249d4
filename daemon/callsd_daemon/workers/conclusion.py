# SPDX-License-Identifier: Apache-2.0
"""Writes down how an attempt ended, which releases what the job held or starts the next attempt."""

import asyncio
import errno
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog

from callsd_daemon.domain.jobs import Failure, Job, Outcome, State
from callsd_daemon.files import FilePool
from callsd_daemon.kinds import Kinds
from callsd_daemon.store.failpoints import failpoint
from callsd_daemon.store.transaction import Transaction
from callsd_daemon.workers import ending, leftovers
from callsd_daemon.workers.ending import EndRules
from callsd_daemon.workers.launchers.launcher import Launcher
from callsd_daemon.workers.patient_store import PatientStore
from callsd_daemon.workers.starter import WorkerStarter


log = structlog.get_logger(__name__)

RETRY_SECONDS = 1.0
"""Pause before a conclusion is tried again that has failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A job as it is written for its next worker, with the token of that one if there is one."""

    job: Job
    token: str = ""


class Conclusion:
    """The last step of every attempt."""

    def __init__(
        self,
        *,
        store: PatientStore,
        launcher: Launcher,
        starter: WorkerStarter,
        directory: Path,
        pool: FilePool,
        kinds: Kinds,
        now: Callable[[], datetime],
    ) -> None:
        """`directory` holds the jobs' directories."""
        self._store = store
        self._launcher = launcher
        self._starter = starter
        self._directory = directory
        self._pool = pool
        self._kinds = kinds
        self._now = now

    async def conclude(
        self,
        job: Job,
        failure: Failure,
        rules: EndRules,
        *,
        end_time: datetime,
        made: Outcome | None = None,
    ) -> Grant | None:
        """Conclude an attempt by its outcome, or by `failure` if there is none.

        Its worker has ended at `end_time`; `made` is the outcome of an attempt that leaves none in
        a file. Live work that another worker goes on with keeps its reservation: returns what that
        one is given. Does not give up: nobody else would do it, until the daemon is restarted. Only
        an outcome that the disk does not give back counts as none after a while.
        """
        deadline = time.monotonic() + self._kinds[job.kind].salvage_seconds
        while True:
            try:
                return await self._conclude(
                    job, failure, rules, end_time, made=made, deadline=deadline
                )
            except OSError as problem:
                # The disk, or what the system lacks for a while.
                log.warning("conclusion_delayed", job_id=job.id, problem=str(problem))
            except Exception:
                log.exception("conclusion_failed", job_id=job.id)
            await asyncio.sleep(RETRY_SECONDS)

    async def _conclude(
        self,
        job: Job,
        failure: Failure,
        rules: EndRules,
        end_time: datetime,
        *,
        made: Outcome | None,
        deadline: float,
    ) -> Grant | None:
        # The reservation is released: nothing may be left that uses it.
        worker = self._starter.worker_id(job)
        if worker is not None and not await self._launcher.sweep(worker):
            log.error("processes_left", job_id=job.id)
        directory, kind = self._directory / job.id, self._kinds[job.kind]
        outcome = await self._taken_over(job, made, deadline)

        def write(tx: Transaction) -> tuple[Grant, bool] | None:
            current = tx.get(job.id)
            if current is None or not current.is_active or current.attempt != job.attempt:
                return None
            token = ""
            is_at_end = kind.is_at_end(current, ending.ran_seconds(current, end_time))
            settled = ending.settle(
                current, outcome, failure, self._now(), rules, is_at_end=is_at_end
            )
            if settled.state is State.QUEUED and not kind.is_batch:
                settled, token = self._starter.with_worker(settled)
            grant = Grant(job=tx.put(settled), token=token)
            return grant, ending.is_lost(current, outcome, failure)

        written = await self._store.write(write)
        failpoint("job.concluded")
        if written is None:
            return None
        grant, is_lost = written
        if is_lost:
            ending.count_lost(job, failure)
        if grant.job.is_final:
            ending.count(grant.job)
            await self._pool.run(leftovers.discard, grant.job, kind, directory, self._launcher)
        return grant if grant.token else None

    async def _taken_over(self, job: Job, made: Outcome | None, deadline: float) -> Outcome | None:
        try:
            return await self._pool.run(leftovers.taken_over, job, self._directory / job.id, made)
        except OSError as problem:
            # A full disk is emptied some day; what a broken one has lost does not come back.
            if problem.errno != errno.EIO or time.monotonic() < deadline:
                raise
            log.error("outcome_unreadable", job_id=job.id, problem=str(problem))  # noqa: TRY400 - no bug of ours
            return None
