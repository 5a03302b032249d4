# SPDX-License-Identifier: Apache-2.0
"""Runs one job: from the start of a worker to what the worker's end means for the job."""

import asyncio
import errno
import functools
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import structlog

from callsd_daemon import tokens
from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import (
    Failure,
    Job,
    Outcome,
    Progress,
    State,
    Worker,
)
from callsd_daemon.files import FilePool
from callsd_daemon.kinds import Assignment, Bounds, Kinds
from callsd_daemon.store.database import BLOCKED, Database
from callsd_daemon.store.failpoints import failpoint
from callsd_daemon.store.read_transaction import ReadTransaction
from callsd_daemon.store.transaction import Transaction
from callsd_daemon.workers import ending
from callsd_daemon.workers.attempt import Attempt
from callsd_daemon.workers.captions.attempt import CaptionsAttempt
from callsd_daemon.workers.captions.calls import Calls
from callsd_daemon.workers.delivery import Delivery
from callsd_daemon.workers.ending import EndRules
from callsd_daemon.workers.launchers.launcher import Launcher, WorkerId, WorkerProcess, limits
from callsd_daemon.workers.reports import AttemptObserver
from callsd_daemon.workers.session import messages
from callsd_daemon.workers.session.server import WorkerServer
from callsd_daemon.workers.slot import WorkerSlot
from callsd_daemon.workers.waits import first_of
from callsd_daemon.workers.worker_log import WorkerLog
from callsd_ipc.names import ARTIFACTS, OUTCOME, PIECES, WORKER_LOG


log = structlog.get_logger(__name__)

T = TypeVar("T")

RETRY_SECONDS = 1.0
"""Pause before a result is stored again that could not be: the disk may be full for a while."""

SCARCE_ERRNOS = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What the system lacks for a while, and what says nothing about the job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A job as it is written for its next worker, with the token of that one if there is one."""

    job: Job
    token: str = ""


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
        self._database = database
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
        self._outcomes: dict[str, Outcome] = {}
        """Of attempts that left none in a file, until they are written down."""

    def with_worker(self, job: Job) -> tuple[Job, str]:
        """The job as it is when it gets its next worker, and that worker's token."""
        token = secrets.token_urlsafe(32)
        worker = Worker(token_sha256=tokens.digest(token), epoch=self._launcher.epoch)
        return job.starting(worker, self._now()), token

    def expect(self, job: Job) -> None:
        """An earlier daemon has begun this job, and it will be run soon."""
        if job.state is State.STOPPING:
            self._stopping.add(job.id)
        if not self._is_shared(job):
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
        try:
            failure = await self._attempt(job, token)
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
        if job.id not in self._told:
            await self._surely_salvage(job, failure)
        self._told.discard(job.id)
        again = await self._surely_conclude(job, failure)
        self._outcomes.pop(job.id, None)
        if again is None:
            self._stopping.discard(job.id)
        return again

    async def _attempt(self, job: Job, token: str) -> Failure:
        """Run the worker, or go on with the one that runs, to its end.

        Returns what to make of that end, should the worker have left no outcome.
        """
        assert job.worker is not None
        directory = self._directory / job.id
        if self._is_shared(job):
            # Its captioner ends with the daemon and is started again, on this boot or the next.
            captions = CaptionsAttempt(job, self._calls, directory, self._observer(job))
            verdict = await self._run(job, captions)
            if captions.outcome is not None:
                self._outcomes[job.id] = captions.outcome
            return verdict or ending.killed("the files were not written")
        worker = self._worker_id(job)
        slot = await self._slot(job, job.worker.token_sha256)
        if token:
            # Before it is started: what cannot be done is told at once.
            await self._patiently(job, slot.assignment)
        self._server.keep(job.id, slot)
        adopted = None if token else await self._adopt(worker)
        process = await self._launch(job, token) if token else adopted
        if process is None and job.worker.epoch not in ("", self._launcher.epoch):
            return Failure(reason=Reason.HOST_REBOOT, message="the machine was restarted")
        if process is None:
            end = await self._launcher.last_end(worker)
            return ending.death(end, None, message="the worker died while callsd was not running")
        kind = self._kinds[job.kind]
        attempt = Attempt(slot, process, kind.bounds, self._observer(job), is_batch=kind.is_batch)
        try:
            return await self._run(job, attempt) or ending.death(process.end, slot.progress)
        finally:
            if process.exited.is_set():
                await slot.log.take_rest(functools.partial(self._launcher.read_log, job.id))
            if slot.is_over.is_set():
                self._told.add(job.id)

    async def _adopt(self, worker: WorkerId) -> WorkerProcess | None:
        """The worker if it lives; nothing is decided about it while nobody can be asked."""
        while True:
            try:
                return await self._launcher.adopt(worker)
            except OSError as problem:
                log.warning("adoption_delayed", worker=worker.name, problem=str(problem))
                await asyncio.sleep(RETRY_SECONDS)

    def _observer(self, job: Job) -> AttemptObserver:
        async def tick() -> None:
            await self._bound_log(job)

        return AttemptObserver(
            running=lambda: self._running(job.id),
            progress=lambda progress: self._progress(job.id, progress),
            tick=tick,
        )

    async def _slot(self, job: Job, token_sha256: str) -> WorkerSlot:
        """A place for the worker with this token, in the job's own directory."""
        directory = self._directory / job.id
        try:
            await self._pool.run(lambda: (directory / ARTIFACTS).mkdir(parents=True, exist_ok=True))
        except OSError as problem:
            raise _not_started(problem) from problem
        worker_log = WorkerLog(
            directory / WORKER_LOG, self._pool, max_bytes=self._bounds(job).max_log_bytes
        )
        await worker_log.open()

        async def resolve() -> Assignment:
            kept = await self._look_up(lambda tx: tx.secrets(job))
            return await self._pool.run(self._kinds[job.kind].assignment, job, job.spec, kept)

        return WorkerSlot(
            resolve,
            delivery=Delivery(
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

    async def _run(self, job: Job, attempt: Attempt | CaptionsAttempt) -> Failure | None:
        self._attempts[job.id] = attempt
        if job.id in self._stopping:
            attempt.stop()
        ran, is_starting = self._ran_seconds(job), job.state is State.STARTING
        if isinstance(attempt, Attempt) and not is_starting and job.attempt == 1:
            age = await attempt.process.age_seconds()
            if age is not None and abs(ran - age) > self._bounds(job).start_timeout_seconds:
                ran = age  # somebody has set the wall clock meanwhile
        try:
            return await attempt.run(
                ran_seconds=None if is_starting else ran,
                # One that is started again has less time left.
                max_seconds=self._kinds[job.kind].longest_seconds(job, job.spec)
                - (ran if is_starting else 0.0),
            )
        finally:
            del self._attempts[job.id]

    async def _launch(
        self, job: Job, token: str, *, salvage: Failure | None = None
    ) -> WorkerProcess:
        """Raises CallsdError when the worker cannot be started."""
        worker, kind = self._worker_id(job), self._kinds[job.kind]
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
            raise _not_started(problem) from problem
        failpoint("worker.after_spawn")
        return process

    async def _patiently(self, job: Job, work: Callable[[], Awaitable[T]]) -> T:
        """Do it, and try again for as long as the system lacks descriptors or processes."""
        deadline = time.monotonic() + self._bounds(job).start_timeout_seconds
        while True:
            try:
                return await work()
            except OSError as problem:
                is_given_up = job.id in self._stopping or time.monotonic() > deadline
                if problem.errno not in SCARCE_ERRNOS or is_given_up:
                    raise
                log.warning("worker_delayed", job_id=job.id, problem=str(problem))
                await asyncio.sleep(RETRY_SECONDS)

    def _ran_seconds(self, job: Job) -> float:
        """How long a job has run under earlier daemons and with earlier workers."""
        if job.start_time is None:
            return 0.0
        return max(0.0, (self._now() - job.start_time).total_seconds())

    async def _running(self, job_id: str) -> None:
        def mark(tx: Transaction) -> None:
            job = tx.get(job_id)
            if job is not None and job.state is State.STARTING:
                tx.put(job.running(self._now()))

        await self._store(mark)
        failpoint("worker.running")

    async def _progress(self, job_id: str, progress: Progress) -> None:
        def mark(tx: Transaction) -> None:
            job = tx.get(job_id)
            if job is not None and job.is_active:
                tx.put(job.with_progress(progress, self._now()))

        await self._store(mark)

    # The end of an attempt

    async def _surely_salvage(self, job: Job, failure: Failure) -> None:
        """Whatever comes of it, the job is concluded."""
        try:
            await self._salvage(job, failure)
        except Exception:
            log.exception("salvage_failed", job_id=job.id)

    async def _salvage(self, job: Job, failure: Failure) -> None:
        """Have an outcome that a worker has left brought to us, and what was recorded saved.

        The latter when no other worker will go on with the recording. This is done by a worker that
        does only this, in the directory of the one that is gone.
        """
        if self._is_shared(job) or await self._outcome(job) is not None:
            return
        kind = self._kinds[job.kind]
        await self._launcher.sweep(self._worker_id(job))
        current = await self._look_up(lambda tx: tx.get(job.id))
        left = await self._pool.run(self._launcher.leftovers, job.id)
        if (self._directory / job.id / PIECES).is_dir() and left is not None:
            left |= {PIECES}
        is_last = current is not None and not self._is_retried(current, failure)
        wanted = {OUTCOME} | ({PIECES} if kind.leaves_pieces and is_last else set())
        if current is None or (left is not None and not wanted & left):
            return
        log.info("salvage", job_id=job.id, reason=failure.reason)
        token = secrets.token_urlsafe(32)
        slot = await self._slot(job, tokens.digest(token))
        self._server.keep(job.id, slot)
        process = await self._launch(job, token, salvage=failure)
        try:
            await first_of((slot.is_over, process.exited), kind.salvage_seconds)
        finally:
            process.detach()
            self._server.clear(job.id)

    def _is_retried(self, job: Job, failure: Failure) -> bool:
        is_at_end = self._kinds[job.kind].is_at_end(job, self._ran_seconds(job))
        return not is_at_end and ending.is_retried(job, failure, self.end_rules)

    async def _surely_conclude(self, job: Job, failure: Failure) -> Grant | None:
        """Nobody else would, until the daemon is restarted."""
        while True:
            try:
                return await self._conclude(job, failure)
            except Exception:
                log.exception("conclusion_failed", job_id=job.id)
                await asyncio.sleep(RETRY_SECONDS)

    async def _conclude(self, job: Job, failure: Failure) -> Grant | None:
        """Write down how the attempt ended, which releases the reservation: nothing may be left.

        Live work that another worker goes on with keeps it: returns what that one is given.
        """
        if not self._is_shared(job) and not await self._launcher.sweep(self._worker_id(job)):
            log.error("processes_left", job_id=job.id)
        outcome, kind = await self._outcome(job), self._kinds[job.kind]

        def write(tx: Transaction) -> tuple[Grant, bool] | None:
            current = tx.get(job.id)
            if current is None or not current.is_active or current.attempt != job.attempt:
                return None
            token = ""
            settled = ending.settle(current, outcome, failure, self._now(), self.end_rules)
            if settled.state is State.QUEUED and not kind.is_batch:
                settled, token = self.with_worker(settled)
            grant = Grant(job=tx.put(settled), token=token)
            return grant, ending.is_lost(current, outcome, failure)

        written = await self._store(write)
        failpoint("job.concluded")
        if written is None:
            return None
        grant, is_lost = written
        if is_lost:
            ending.count_lost(job, failure)
        if grant.job.is_final:
            await self._pool.run(
                ending.discard, grant.job, kind, self._directory / job.id, self._launcher
            )
            ending.count(grant.job)
        return grant if grant.token else None

    async def _outcome(self, job: Job) -> Outcome | None:
        """What was taken over from the attempt; None if there is nothing, or a file is missing."""
        directory = self._directory / job.id
        outcome = self._outcomes.get(job.id) or await self._pool.run(
            messages.read_outcome, directory, job.attempt
        )
        if outcome is None or not await self._pool.run(ending.is_whole, outcome, directory):
            return None
        return outcome

    async def _bound_log(self, job: Job) -> None:
        """Keep a worker that floods its log from filling the disk."""
        try:
            await self._pool.run(self._launcher.bound_log, job.id, self._bounds(job).max_log_bytes)
        except OSError as problem:
            log.warning("log_not_bounded", job_id=job.id, problem=str(problem))

    def _bounds(self, job: Job) -> Bounds:
        return self._kinds[job.kind].bounds

    def _is_shared(self, job: Job) -> bool:
        """Whether the job has no worker of its own."""
        return self._kinds[job.kind].role is None

    def _worker_id(self, job: Job) -> WorkerId:
        """By what the launcher knows the worker of this attempt."""
        role = self._kinds[job.kind].role
        assert job.worker is not None
        assert role is not None
        tag = f"{job.id}:{job.attempt}:{job.worker.token_sha256[:16]}"
        return WorkerId(name=job.id, tag=tag, role=role)

    async def _store(self, work: Callable[[Transaction], T]) -> T:
        return await _surely(lambda: self._database.write(work))

    async def _look_up(self, work: Callable[[ReadTransaction], T]) -> T:
        return await _surely(lambda: self._database.read(work))


async def _surely(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask the store until it answers: no job ends because the disk is full or the file is held."""
    while True:
        try:
            return await ask()
        except CallsdError as problem:
            if problem.reason not in BLOCKED:
                raise
            # No bug of ours: no traceback.
            log.error("store_blocked", reason=problem.reason, problem=problem.message)  # noqa: TRY400
            await asyncio.sleep(RETRY_SECONDS)


def _not_started(problem: OSError) -> CallsdError:
    is_full = problem.errno in (errno.ENOSPC, errno.EDQUOT)
    return CallsdError(
        Reason.DISK_FULL if is_full else Reason.WORKER_KILLED,
        f"the worker could not be started: {problem}",
    )
