# SPDX-License-Identifier: Apache-2.0
"""Sees every accepted job through: starts it when it is its turn, and watches over its runner."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

import structlog

from callsd_daemon.domain.admission import Admit, Queue, Refuse
from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import Failure, Job, State
from callsd_daemon.domain.work import Secrets
from callsd_daemon.store.database import Database
from callsd_daemon.store.failpoints import failpoint
from callsd_daemon.store.transaction import Transaction
from callsd_daemon.workers import ending
from callsd_daemon.workers.admission import AdmissionController, Companion, Verdict, record_decision
from callsd_daemon.workers.captions.calls import Calls
from callsd_daemon.workers.runner import JobRunner


log = structlog.get_logger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A job as a verdict has left it, with the token of its worker if it may start now."""

    job: Job
    verdict: Verdict
    token: str = ""


class Supervisor:
    """Owns the tasks of all jobs that are under way.

    All methods belong to one event loop, but for those that take a transaction: these decide and
    write on the store's thread, once for each try to write, and what follows is done afterwards.
    """

    def __init__(
        self,
        *,
        database: Database,
        admission: AdmissionController,
        runner: JobRunner,
        calls: Calls,
        now: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._admission = admission
        self._runner = runner
        self._calls = calls
        self._now = now
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._waiting: dict[str, float] = {}
        """Since when jobs wait here, by the monotonic clock."""
        self._dispatching = asyncio.Lock()
        self._uncut: set[asyncio.Task[Any]] = set()
        self._is_closing = False

    # Accepting

    def place(
        self,
        tx: Transaction,
        job: Job,
        secrets: Secrets | None,
        *,
        may_queue: bool,
        companion: Companion | None = None,
        is_owed: bool = False,
        companion_of: str = "",
    ) -> Placed:
        """Decide about a new job and write it with its secrets, in the caller's transaction.

        For `accept`. A job that is refused is not written; one that is owed is never refused. There
        must be room for its companion, too, for which that is held.
        """
        verdict = self._admission.decide(
            tx,
            job,
            may_queue=may_queue,
            companion=companion,
            is_owed=is_owed,
            companion_of=companion_of,
        )
        if secrets is not None and not isinstance(verdict.decision, Refuse):
            tx.put_secrets(job.id, secrets)
        match verdict.decision:
            case Admit():
                started, token = self._runner.with_worker(job)
                return Placed(job=tx.put(started), verdict=verdict, token=token)
            case Queue(reason=shortage):
                return Placed(job=tx.put(_waiting(job, shortage)), verdict=verdict)
            case Refuse():
                return Placed(job=job, verdict=verdict)

    async def accept(self, place: Callable[[Transaction], Job | Placed]) -> Job | Placed:
        """Write a new job as `place` does, and start its worker if it may start now.

        `place` may return a job that is there already. Raises CallsdError when the job is refused.
        """
        return await self._to_the_end(self._accept(place))

    async def _accept(self, place: Callable[[Transaction], Job | Placed]) -> Job | Placed:
        placed = await self._database.write(place)
        if isinstance(placed, Job):
            return placed
        record_decision(placed.job, placed.verdict)
        if isinstance(placed.verdict.decision, Refuse):
            raise placed.verdict.decision.error()
        failpoint("create.before_reply")
        if placed.token:
            self._watch_over(placed.job, placed.token)
        else:
            self._waiting[placed.job.id] = time.monotonic()
        return placed

    async def dispatch(self) -> None:
        """Start the jobs at the head of the queue for which there is room now."""
        await self._to_the_end(self._dispatch())

    async def _dispatch(self) -> None:
        async with self._dispatching:
            while not self._is_closing:
                # A copy, and the time as it is now: the store's thread only looks at them.
                waiting, now = dict(self._waiting), time.monotonic()
                head = await self._database.write(
                    lambda tx: self.place_next(tx, waiting, now)  # noqa: B023 - awaited here
                )
                if head is None:
                    return
                if head.token:
                    record_decision(head.job, head.verdict)
                    self._watch_over(head.job, head.token)
                elif head.job.is_final:
                    self._waiting.pop(head.job.id, None)
                    ending.count(head.job)
                else:
                    self._waiting.setdefault(head.job.id, now)
                    return

    async def _to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it all, even if the caller is cancelled in the middle of it.

        What is written must be acted upon: when a call's deadline passes between the two, nobody
        else would start the worker, or stop it, until the daemon is restarted.
        """
        task = asyncio.create_task(work)
        self._uncut.add(task)
        task.add_done_callback(self._uncut.discard)
        return await asyncio.shield(task)

    def place_next(
        self, tx: Transaction, waiting: Mapping[str, float], now_seconds: float
    ) -> Placed | None:
        """Decide about the job at the head of the queue, in the caller's transaction.

        `waiting` tells since when jobs wait, as far as that is known.
        """
        job = tx.first_queued()
        if job is None:
            return None
        # Not by the wall clock: somebody may set it.
        waited = now_seconds - waiting.get(job.id, now_seconds)
        verdict = self._admission.decide_next(tx, job, waited_seconds=waited)
        match verdict.decision:
            case Admit():
                started, token = self._runner.with_worker(job)
                return Placed(job=tx.put(started), verdict=verdict, token=token)
            case Refuse(reason=Reason.CANNOT_FIT) as refusal:
                # The machine, or what may be used of it, has shrunk: waiting would not help, and
                # would hold up everyone behind.
                failure = Failure(reason=refusal.reason, message=refusal.message)
                job = job.failed(failure, self._now(), retention=self._runner.end_rules.retention)
                return Placed(job=tx.put(job), verdict=verdict)
            case Refuse(reason=shortage) | Queue(reason=shortage):
                if shortage is not job.waiting_for:
                    job = tx.put(_waiting(job, shortage))
                return Placed(job=job, verdict=verdict)

    # Stopping

    async def stop(self, job_id: str, check: Callable[[Job], None]) -> Job:
        """Ask a job to end; `check` may raise. Returns it as it is then."""
        return await self._to_the_end(self._stop(job_id, check))

    def mark_stopped(self, tx: Transaction, job_id: str, check: Callable[[Job], None]) -> Job:
        """What becomes of a job that shall end, in the caller's transaction."""
        job = tx.find(job_id)
        check(job)
        if job.state is State.QUEUED:
            return tx.put(job.cancelled(self._now(), retention=self._runner.end_rules.retention))
        if job.state in (State.STARTING, State.RUNNING):
            return tx.put(job.stopping(self._now()))
        return job

    async def _stop(self, job_id: str, check: Callable[[Job], None]) -> Job:
        job = await self._database.write(lambda tx: self.mark_stopped(tx, job_id, check))
        self._waiting.pop(job_id, None)
        if job.state is State.STOPPING:
            self._runner.stop(job_id)
        elif job.state is State.CANCELLED:
            ending.count(job)
        return job

    # Life of the daemon

    async def recover(self) -> None:
        """Take up every job that an earlier daemon had begun. Comes before workers are let in."""
        for job in await self._database.read(lambda tx: tx.active()):
            self._runner.expect(job)
            self._watch_over(job, "")

    def pause(self) -> None:
        """Start nothing more of the queue."""
        self._is_closing = True

    async def close(self) -> None:
        """Let go of all workers; they go on, and the next daemon takes them up."""
        self.pause()
        await asyncio.gather(*self._uncut, return_exceptions=True)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._calls.end()

    # Jobs under way

    def _watch_over(self, job: Job, token: str) -> None:
        self._waiting.pop(job.id, None)
        task = asyncio.create_task(self._run_to_completion(job, token), name=f"job {job.id}")
        self._tasks[job.id] = task
        task.add_done_callback(lambda done: self._forget(job.id, done))

    def _forget(self, job_id: str, task: "asyncio.Task[None]") -> None:
        if self._tasks.get(job_id) is task:
            del self._tasks[job_id]
        if not task.cancelled() and (problem := task.exception()) is not None:
            log.error("job_task_failed", job_id=job_id, exc_info=problem)

    async def _run_to_completion(self, job: Job, token: str) -> None:
        again = await self._runner.run(job, token)
        if again is not None:
            self._watch_over(again.job, again.token)
            return
        # Who cannot write now is told by the next tick, which tries again.
        with contextlib.suppress(CallsdError):
            await self.dispatch()


def _waiting(job: Job, reason: Reason | None) -> Job:
    return replace(job, waiting_for=reason)
