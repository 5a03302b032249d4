# SPDX-License-Identifier: Apache-2.0
"""What is done again and again: look at the machine, move the queue, remove what is too old."""

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import ParamSpec

import structlog

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import Job
from callsd_daemon.domain.recording import Picture, is_silent
from callsd_daemon.kinds import Kinds
from callsd_daemon.media.uploads import Uploads
from callsd_daemon.metrics import (
    CAPACITY,
    EVENT_LOOP_LAG,
    JOBS_ACTIVE,
    JOBS_QUEUED,
    RECORDING_DISK_FREE,
    RECORDING_DRIFT,
    RECORDINGS,
    RECORDINGS_SILENT,
)
from callsd_daemon.store.database import BLOCKED, Database
from callsd_daemon.store.read_transaction import ReadTransaction
from callsd_daemon.store.transaction import Transaction
from callsd_daemon.workers import leftovers
from callsd_daemon.workers.admission import AdmissionController
from callsd_daemon.workers.captions.calls import Calls
from callsd_daemon.workers.launchers.launcher import Launcher
from callsd_daemon.workers.supervisor import Supervisor


log = structlog.get_logger(__name__)

P = ParamSpec("P")

TICK_SECONDS = 1.0
SWEEP_SECONDS = 30.0
SWEEP_JOBS = 100
SWEEP_IDS = 5000
"""Ids of jobs that are read at once: some 10 ms."""


class Housekeeper:
    """Runs for as long as the daemon does."""

    def __init__(
        self,
        *,
        database: Database,
        kinds: Kinds,
        admission: AdmissionController,
        supervisor: Supervisor,
        calls: Calls,
        uploads: Uploads,
        launcher: Launcher,
        directory: Path,
        now: Callable[[], datetime],
    ) -> None:
        """`directory` holds the jobs' directories."""
        self._database = database
        self._kinds = kinds
        self._admission = admission
        self._supervisor = supervisor
        self._calls = calls
        self._uploads = uploads
        self._launcher = launcher
        self._directory = directory
        self._now = now

    async def run(self) -> None:
        """Once a second: look at the machine, and move the queue. Now and then: sweep."""
        swept = 0.0
        told: Reason | None = None
        while True:
            before = time.monotonic()
            await asyncio.sleep(TICK_SECONDS)
            EVENT_LOOP_LAG.observe(time.monotonic() - before - TICK_SECONDS)
            try:
                await self._admission.sample()
                await self._supervisor.dispatch()
                await self._measure()
                if time.monotonic() - swept > SWEEP_SECONDS:
                    swept = time.monotonic()
                    await self._sweep()
                told = None
            except Exception as problem:
                # The next tick tries again: a full disk may have room by then.
                if isinstance(problem, CallsdError) and problem.reason in BLOCKED:
                    if problem.reason is not told:
                        told = problem.reason
                        log.warning("tick_delayed", reason=told, problem=problem.message)
                elif isinstance(problem, OSError):
                    log.warning("tick_delayed", problem=str(problem))
                else:
                    log.exception("tick_failed")

    async def _measure(self) -> None:
        queued, running, accounts, active = await self._database.read(
            lambda tx: (
                tx.queue_length(),
                tx.running(),
                self._admission.accounts(tx),
                tx.active(),
            )
        )
        JOBS_QUEUED.set(queued)
        for kind in self._kinds:
            JOBS_ACTIVE.labels(kind=kind).set(running.get(kind, 0))
        for name, account in accounts.items():
            for part in ("total", "headroom", "reserved", "external", "available"):
                CAPACITY.labels(resource=name, account=part).set(getattr(account, part))
        _measure_recordings(active)

    async def _sweep(self) -> None:
        """Remove jobs and uploads whose time is up, and directories that belong to no job."""
        jobs = self._directory

        def expire(tx: Transaction) -> list[str]:
            expired = [job.id for job in tx.expired(self._now(), SWEEP_JOBS)]
            for job_id in expired:
                tx.delete(job_id)
            return expired

        await self._database.write(expire)
        needed = await self._database.read(lambda tx: needed_uploads(tx, self._kinds))
        await _remove(self._uploads.remove_expired, self._now(), needed)
        # Directories first, jobs second: one that is made in between belongs to a job.
        found = await asyncio.to_thread(os.listdir, jobs)
        workers = await asyncio.to_thread(self._launcher.names)
        known = await self._ids()
        ended = await self._database.read(
            lambda tx: [job for name in workers if (job := tx.get(name)) and job.is_final]
        )
        for name in set(found) - known:
            await asyncio.to_thread(shutil.rmtree, jobs / name, ignore_errors=True)
        for name in workers - known - self._calls.names():
            await _remove(self._launcher.discard, name)
        # Of these a daemon died before it had done so.
        for job in ended:
            kind = self._kinds[job.kind]
            await _remove(leftovers.discard, job, kind, jobs / job.id, self._launcher)

    async def _ids(self) -> set[str]:
        """The ids of all jobs, read in parts: others that read wait for one part at most."""
        known, last = set[str](), ""
        while part := await self._database.read(
            partial(ReadTransaction.ids, after=last, limit=SWEEP_IDS)
        ):
            known |= part
            last = max(part)
        return known


async def _remove(work: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Remove something on a thread; one directory that cannot be used does not keep the others."""
    try:
        await asyncio.to_thread(work, *args, **kwargs)
    except OSError as problem:
        log.warning("tick_delayed", problem=str(problem))


def needed_uploads(tx: ReadTransaction, kinds: Kinds) -> frozenset[str]:
    """Ids of the uploads that jobs need which have not ended."""
    needed = (kinds[job.kind].uploads(job.spec) for job in tx.unfinished())
    return frozenset[str]().union(*needed)


def _measure_recordings(jobs: Iterable[Job]) -> None:
    """Tell of the recordings that go on, without naming one: alerts need no more."""
    now = [job.progress.recording for job in jobs if job.progress.recording is not None]
    for picture in Picture:
        RECORDINGS.labels(picture=picture).set(sum(one.picture is picture for one in now))
    RECORDINGS_SILENT.set(sum(is_silent(one.audio_level_db) for one in now))
    RECORDING_DRIFT.set(max((abs(one.drift_ms) / 1000 for one in now), default=0.0))
    if now:
        RECORDING_DISK_FREE.set(min(one.disk_free_bytes for one in now))
