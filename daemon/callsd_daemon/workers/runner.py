# SPDX-License-Identifier: Apache-2.0
"""Runs one job: from the start of a worker to what the worker's end means for the job."""

import functools
import secrets
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import structlog

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import Failure, Job, Outcome, Progress, State
from callsd_daemon.files import FilePool
from callsd_daemon.kinds import Kinds
from callsd_daemon.store.database import Database
from callsd_daemon.store.failpoints import failpoint
from callsd_daemon.store.transaction import Transaction
from callsd_daemon.workers import ending
from callsd_daemon.workers.attempt import Attempt
from callsd_daemon.workers.captions.attempt import CaptionsAttempt
from callsd_daemon.workers.captions.calls import Calls
from callsd_daemon.workers.captions.captured import captioned
from callsd_daemon.workers.conclusion import Conclusion, Grant
from callsd_daemon.workers.ending import EndRules
from callsd_daemon.workers.launchers.launcher import Launcher, WorkerId
from callsd_daemon.workers.patient_store import PatientStore
from callsd_daemon.workers.reports import AttemptObserver
from callsd_daemon.workers.salvage import Salvage
from callsd_daemon.workers.session.server import WorkerServer
from callsd_daemon.workers.starter import WorkerStarter


log = structlog.get_logger(__name__)


class JobRunner:
    """Takes jobs from worker to worker to their ends. All methods belong to one event loop."""

    def __init__(
        self,
        *,
        database: Database,
        server: WorkerServer,
        launcher: Launcher,
        directory: Path,
        pool: FilePool,
        kinds: Kinds,
        calls: Calls,
        now: Callable[[], datetime],
        end_rules: EndRules,
    ) -> None:
        """`directory` holds the jobs' directories.

        `kinds` and `end_rules` may be replaced while the daemon runs; an attempt keeps those it
        began with.
        """
        self._store = PatientStore(database)
        self._server = server
        self._launcher = launcher
        self._directory = directory
        self._pool = pool
        self._kinds = kinds
        self._calls = calls
        self._now = now
        self.end_rules = end_rules
        self._attempts: dict[str, Attempt | CaptionsAttempt] = {}
        self._stopping: set[str] = set()
        self._told: set[str] = set()
        """Jobs whose workers have told all there is: nothing is left to be brought."""
        self._starter = WorkerStarter(
            store=self._store,
            server=server,
            launcher=launcher,
            directory=directory,
            pool=pool,
            kinds=kinds,
            now=now,
            is_stopping=lambda job_id: job_id in self._stopping,
        )
        self._salvage = Salvage(
            store=self._store,
            server=server,
            launcher=launcher,
            starter=self._starter,
            directory=directory,
            pool=pool,
            kinds=kinds,
        )
        self._conclusion = Conclusion(
            store=self._store,
            launcher=launcher,
            starter=self._starter,
            directory=directory,
            pool=pool,
            kinds=kinds,
            now=now,
        )

    def with_worker(self, job: Job) -> tuple[Job, str]:
        """The job as it is when it gets its next worker, and that worker's token."""
        return self._starter.with_worker(job)

    def expect(self, job: Job) -> None:
        """An earlier daemon has begun this job, and it will be run soon."""
        if job.state is State.STOPPING:
            self._stopping.add(job.id)
        if self._kinds[job.kind].role is not None:
            self._server.expect(job.id)

    def stop(self, job_id: str) -> None:
        """Have the job end, now or as soon as it is run."""
        self._stopping.add(job_id)
        if job_id in self._attempts:
            self._attempts[job_id].stop()

    async def run(self, job: Job, token: str) -> Grant | None:
        """Run one worker to its end, from its start or, without a token, its adoption.

        Returns what the next worker is given, if one goes on with the job at once. When this is
        cancelled the worker goes on by itself.
        """
        made: Outcome | None = None
        try:
            worker = self._starter.worker_id(job)
            if worker is None:
                failure, made = await self._caption(job)
            else:
                failure = await self._work(job, worker, token)
        except CallsdError as refusal:
            failure = Failure(
                reason=refusal.reason, message=refusal.message, metadata=refusal.metadata
            )
        except Exception:
            error_id = secrets.token_hex(4)
            log.exception("attempt_failed", job_id=job.id, error_id=error_id)
            failure = Failure(
                reason=Reason.INTERNAL,
                message=f"a bug in callsd; please report it with the log around {error_id}",
                metadata={"error_id": error_id},
            )
        self._server.clear(job.id)
        # Salvage takes its time: what is decided by how long the job has run is decided for now.
        end_time = self._now()
        if job.id not in self._told:
            await self._salvage.save(job, failure, self.end_rules, end_time)
        self._told.discard(job.id)
        again = await self._conclusion.conclude(
            job, failure, self.end_rules, end_time=end_time, made=made
        )
        if again is None:
            self._stopping.discard(job.id)
        return again

    async def _caption(self, job: Job) -> tuple[Failure, Outcome | None]:
        """Run a job that has no worker of its own; returns how it ended, as `_work` does.

        Its captioner ends with the daemon and is started again, on this boot or the next.
        """
        attempt = CaptionsAttempt(job, self._calls, self._directory / job.id, self._observer(job))
        verdict = await self._see_through(job, attempt)
        return verdict or ending.killed("the files were not written"), attempt.outcome

    async def _work(self, job: Job, worker: WorkerId, token: str) -> Failure:
        """Run the worker, or go on with the one that runs, to its end.

        Returns what to make of that end, should the worker have left no outcome.
        """
        assert job.worker is not None
        slot = await self._starter.slot(job, job.worker.token_sha256)
        if token:
            process = await self._starter.start(job, worker, slot, token)
        else:
            adopted = await self._starter.adopt(job, worker, slot)
            if adopted is None and job.worker.epoch not in ("", self._launcher.epoch):
                return Failure(reason=Reason.HOST_REBOOT, message="the machine was restarted")
            if adopted is None:
                end = await self._launcher.last_end(worker)
                return ending.death(
                    end, None, message="the worker died while callsd was not running"
                )
            process = adopted
        kind = self._kinds[job.kind]
        attempt = Attempt(slot, process, kind.bounds, self._observer(job), is_batch=kind.is_batch)
        try:
            async with captioned(self._calls, job, self._directory / job.id, slot):
                verdict = await self._see_through(job, attempt)
            return verdict or ending.death(process.end, slot.progress)
        finally:
            if process.exited.is_set():
                await slot.log.take_rest(functools.partial(self._launcher.read_log, job.id))
            if slot.is_over.is_set():
                self._told.add(job.id)

    async def _see_through(self, job: Job, attempt: Attempt | CaptionsAttempt) -> Failure | None:
        """Run an attempt within the time that its job has left, and have it stopped if asked."""
        self._attempts[job.id] = attempt
        if job.id in self._stopping:
            attempt.stop()
        kind, is_starting = self._kinds[job.kind], job.state is State.STARTING
        ran = ending.ran_seconds(job, self._now())
        if isinstance(attempt, Attempt) and not is_starting and job.attempt == 1:
            age = await attempt.process.age_seconds()
            if age is not None and abs(ran - age) > kind.bounds.start_timeout_seconds:
                ran = age  # somebody has set the wall clock meanwhile
        try:
            return await attempt.run(
                ran_seconds=None if is_starting else ran,
                # One that is started again has less time left.
                max_seconds=kind.longest_seconds(job, job.spec) - (ran if is_starting else 0.0),
            )
        finally:
            del self._attempts[job.id]

    # What happens in an attempt

    def _observer(self, job: Job) -> AttemptObserver:
        return AttemptObserver(
            running=lambda: self._running(job.id),
            progress=lambda progress: self._progress(job.id, progress),
            tick=lambda: self._bound_log(job),
        )

    async def _running(self, job_id: str) -> None:
        def mark(tx: Transaction) -> None:
            job = tx.get(job_id)
            if job is not None and job.state is State.STARTING:
                tx.put(job.running(self._now()))

        await self._store.write(mark)
        failpoint("worker.running")

    async def _progress(self, job_id: str, progress: Progress) -> None:
        def mark(tx: Transaction) -> None:
            job = tx.get(job_id)
            if job is not None and job.is_active:
                tx.put(job.with_progress(progress, self._now()))

        await self._store.write(mark)

    async def _bound_log(self, job: Job) -> None:
        """Keep a worker that floods its log from filling the disk."""
        max_bytes = self._kinds[job.kind].bounds.max_log_bytes
        try:
            await self._pool.run(self._launcher.bound_log, job.id, max_bytes)
        except OSError as problem:
            log.warning("log_not_bounded", job_id=job.id, problem=str(problem))
