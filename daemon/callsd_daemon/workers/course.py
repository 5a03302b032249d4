# SPDX-License-Identifier: Apache-2.0
"""The course of one job, from the start of a worker to what its end means."""

import asyncio
import errno
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
from callsd_daemon.domain.jobs import BATCH_KINDS, Failure, Job, Progress, State, Worker
from callsd_daemon.domain.recording import PageSecrets
from callsd_daemon.host import processes
from callsd_daemon.store.database import BLOCKED, Database
from callsd_daemon.store.failpoints import failpoint
from callsd_daemon.store.reading import Reading
from callsd_daemon.store.transaction import Transaction
from callsd_daemon.workers import ending
from callsd_daemon.workers.attempt import Attempt, Bounds, Listener
from callsd_daemon.workers.captions.attempt import CallRules, CaptionsAttempt
from callsd_daemon.workers.captions.calls import Calls
from callsd_daemon.workers.ending import ARTIFACTS, EndRules
from callsd_daemon.workers.launchers.launcher import Launcher, limits_of
from callsd_daemon.workers.process import JOB_LOG, Process, sweep
from callsd_daemon.workers.seat import Assignment, Seat
from callsd_daemon.workers.session import messages
from callsd_daemon.workers.session.door import Door
from callsd_daemon.workers.waits import until


log = structlog.get_logger(__name__)

T = TypeVar("T")

RETRY_SECONDS = 1.0
"""Pause before a result is stored again that could not be: the disk may be full for a while."""

OVERTIME_SECONDS = 60.0
"""For all that a recording does besides recording; then it is told to end."""

DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})

SCARCE_ERRNOS = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What the system lacks for a while, and what says nothing about the job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The administrator's settings for the life of jobs."""

    bounds: Bounds
    recording_bounds: Bounds
    end: EndRules
    calls: CallRules


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A job as it is written for its next worker, with the token of that one if there is one."""

    job: Job
    token: str = ""


class Course:
    """Takes jobs from worker to worker to their ends. All methods belong to one event loop."""

    def __init__(
        self,
        *,
        database: Database,
        door: Door,
        launcher: Launcher,
        directory: Path,
        resolve: Callable[[Job, PageSecrets], Assignment],
        calls: Calls,
        now: Callable[[], datetime],
        rules: Rules,
    ) -> None:
        """`directory` holds the jobs' directories; `resolve` blocks, and raises CallsdError."""
        self._database = database
        self._door = door
        self._launcher = launcher
        self._directory = directory
        self._resolve = resolve
        self._calls = calls
        self._now = now
        self.rules = rules
        """May be replaced while the daemon runs; an attempt keeps those it began with."""
        self._boot_id = processes.boot_id()
        self._attempts: dict[str, Attempt | CaptionsAttempt] = {}
        self._stopping: set[str] = set()

    def with_worker(self, job: Job) -> tuple[Job, str]:
        """The job as it is when it gets its next worker, and that worker's token."""
        token = secrets.token_urlsafe(32)
        worker = Worker(token_sha256=tokens.digest(token), boot_id=self._boot_id)
        return job.starting(worker, self._now()), token

    def expect(self, job: Job) -> None:
        """An earlier daemon has begun this job, and it will be run soon."""
        if job.state is State.STOPPING:
            self._stopping.add(job.id)
        if job.captions is None:
            self._door.expect(job.id)

    def stop(self, job_id: str) -> None:
        """Have the job end, now or as soon as it is run."""
        self._stopping.add(job_id)
        if job_id in self._attempts:
            self._attempts[job_id].stop()

    def sessions(self) -> dict[int, str]:
        """Process sessions of the workers that run, with their jobs; captioners have none."""
        jobs = {
            session: job_id
            for job_id, attempt in self._attempts.items()
            for session in attempt.sessions
        }
        return jobs | dict.fromkeys(self._calls.sessions(), "")

    async def run(self, job: Job, token: str) -> Grant | None:
        """See one worker through, from its start or, without a token, its adoption.

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
        self._door.clear(job.id)
        if job.recording is not None:
            await self._salvage(job, failure)
        again = await self._surely_conclude(job, failure)
        if again is None:
            self._stopping.discard(job.id)
        return again

    async def _attempt(self, job: Job, token: str) -> Failure:
        """Run the worker, or go on with the one that runs, to its end.

        Returns what to make of that end, should the worker have left no outcome.
        """
        assert job.worker is not None
        listener = Listener(
            running=lambda: self._running(job.id),
            progress=lambda progress: self._progress(job.id, progress),
        )
        directory = self._directory / job.id
        if job.captions is not None:
            # Its captioner ends with the daemon and is started again, on this boot or the next.
            captions = CaptionsAttempt(job, self._calls, directory, self.rules.calls, listener)
            verdict = await self._run(job, captions)
            return verdict or ending.killed("the files were not written")
        mark = _mark(job, job.worker)
        if not token and job.worker.boot_id != self._boot_id:
            return Failure(reason=Reason.HOST_REBOOT, message="the machine was restarted")
        page_secrets = await self._look_up(lambda books: books.secrets(job.id))
        assignment = await self._patiently(
            job.id, lambda: asyncio.to_thread(self._resolve, job, page_secrets)
        )
        seat = Seat(assignment, generation=job.attempt, token_sha256=job.worker.token_sha256)
        self._door.keep(job.id, seat)
        adopted = None if token else self._launcher.adopt(mark, directory)
        process = await self._launch(job, mark, token) if token else adopted
        if process is None:
            end = await self._launcher.last_end(directory)
            return ending.death(end, None, message="the worker died while callsd was not running")
        bounds = self.rules.bounds if job.recording is None else self.rules.recording_bounds
        attempt = Attempt(seat, process, directory / JOB_LOG, bounds, listener)
        return await self._run(job, attempt) or ending.death(process.end, seat.progress)

    async def _run(self, job: Job, attempt: Attempt | CaptionsAttempt) -> Failure | None:
        self._attempts[job.id] = attempt
        if job.id in self._stopping:
            attempt.stop()
        ran, is_starting = self._ran_seconds(job), job.state is State.STARTING
        if isinstance(attempt, Attempt) and not is_starting and job.attempt == 1:
            age = processes.age_seconds(attempt.process.pid)
            if abs(ran - age) > self.rules.bounds.start_timeout_seconds:
                ran = age  # somebody has set the wall clock meanwhile
        try:
            return await attempt.run(
                ran_seconds=None if is_starting else ran,
                # One that is started again has less time left.
                max_seconds=_longest_seconds(job) - (ran if is_starting else 0.0),
            )
        finally:
            del self._attempts[job.id]

    async def _launch(
        self, job: Job, mark: str, token: str, *, salvage: Failure | None = None
    ) -> Process:
        directory = self._directory / job.id
        bootstrap = messages.bootstrap(
            job_id=job.id,
            generation=job.attempt,
            token=token,
            socket=self._door.socket,
            directory=directory,
            salvage=salvage,
        )
        failpoint("worker.before_spawn")
        try:
            (directory / ARTIFACTS).mkdir(parents=True, exist_ok=True)
            process = await self._patiently(
                job.id,
                lambda: self._launcher.launch(mark, bootstrap, directory, limits_of(job)),
            )
        except OSError as problem:
            raise CallsdError(
                Reason.DISK_FULL if problem.errno in DISK_FULL_ERRNOS else Reason.WORKER_KILLED,
                f"the worker could not be started: {problem}",
            ) from problem
        failpoint("worker.after_spawn")
        return process

    async def _patiently(self, job_id: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do it, and try again for as long as the system lacks descriptors or processes."""
        deadline = time.monotonic() + self.rules.bounds.start_timeout_seconds
        while True:
            try:
                return await work()
            except OSError as problem:
                is_given_up = job_id in self._stopping or time.monotonic() > deadline
                if problem.errno not in SCARCE_ERRNOS or is_given_up:
                    raise
                log.warning("worker_delayed", job_id=job_id, problem=str(problem))
                await asyncio.sleep(RETRY_SECONDS)

    def _ran_seconds(self, job: Job) -> float:
        """How long a job has run under earlier daemons and with earlier workers."""
        if job.start_time is None:
            return 0.0
        return max(0.0, (self._now() - job.start_time).total_seconds())

    async def _running(self, job_id: str) -> None:
        def mark(books: Transaction) -> None:
            job = books.get(job_id)
            if job is not None and job.state is State.STARTING:
                books.put(job.running(self._now()))

        await self._store(mark)
        failpoint("worker.running")

    async def _progress(self, job_id: str, progress: Progress) -> None:
        def mark(books: Transaction) -> None:
            job = books.get(job_id)
            if job is not None and job.is_active:
                books.put(job.with_progress(progress, self._now()))

        await self._store(mark)

    # The end of an attempt

    async def _salvage(self, job: Job, failure: Failure) -> None:
        """Have what was recorded made into a file, when nobody else will do it.

        This is done by a worker that does only this, under the name of the one that is gone.
        """
        assert job.worker is not None
        directory, mark = self._directory / job.id, _mark(job, job.worker)
        await sweep(mark)
        current = await self._look_up(lambda books: books.get(job.id))
        if (
            current is None
            or self._is_retried(current, failure)
            or await asyncio.to_thread(messages.read_outcome, directory, job.attempt) is not None
        ):
            return
        log.info("salvage", job_id=job.id, reason=failure.reason)
        try:
            process = await self._launch(job, mark, secrets.token_urlsafe(32), salvage=failure)
        except CallsdError as problem:
            log.error("salvage_failed", job_id=job.id, reason=problem.reason)  # noqa: TRY400
            return
        try:
            await until(process.exited, self.rules.recording_bounds.stop_grace_seconds)
        finally:
            process.detach()

    def _is_retried(self, job: Job, failure: Failure) -> bool:
        is_at_end = job.recording is not None and (
            self._ran_seconds(job) >= job.max_duration_seconds
        )
        return not is_at_end and ending.is_retried(job, failure, self.rules.end)

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
        assert job.worker is not None
        if not await sweep(_mark(job, job.worker)):
            log.error("processes_left", job_id=job.id)
        directory = self._directory / job.id
        outcome = await asyncio.to_thread(messages.read_outcome, directory, job.attempt)
        if outcome is not None and not await asyncio.to_thread(ending.is_whole, outcome, directory):
            outcome = None

        def write(books: Transaction) -> tuple[Grant, bool] | None:
            current = books.get(job.id)
            if current is None or not current.is_active or current.attempt != job.attempt:
                return None
            token = ""
            settled = ending.settle(current, outcome, failure, self._now(), self.rules.end)
            if settled.state is State.QUEUED and settled.kind not in BATCH_KINDS:
                settled, token = self.with_worker(settled)
            grant = Grant(job=books.put(settled), token=token)
            return grant, ending.is_lost(current, outcome, failure)

        written = await self._store(write)
        if written is None:
            return None
        grant, is_lost = written
        if is_lost:
            ending.count_lost(job, failure)
        if grant.job.is_final:
            ending.count(grant.job)
        return grant if grant.token else None

    async def _store(self, work: Callable[[Transaction], T]) -> T:
        return await _surely(lambda: self._database.write(work))

    async def _look_up(self, work: Callable[[Reading], T]) -> T:
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


def _longest_seconds(job: Job) -> float:
    """How long a job may run. A recording ends by itself, counted from when it has begun."""
    if job.recording is None:
        return job.max_duration_seconds
    return job.max_duration_seconds + job.recording.ready_timeout_seconds + OVERTIME_SECONDS


def _mark(job: Job, worker: Worker) -> str:
    """By what the processes of this attempt are known."""
    return f"{job.id}:{job.attempt}:{worker.token_sha256[:16]}"
