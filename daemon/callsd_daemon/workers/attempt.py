# SPDX-License-Identifier: Apache-2.0
"""One attempt at a job: from a worker's start, or its adoption, to the end of its processes."""

import asyncio
import signal
import time

import structlog

from callsd_daemon.domain.errors import Reason
from callsd_daemon.domain.jobs import Failure
from callsd_daemon.kinds import Bounds
from callsd_daemon.workers.launchers.launcher import WorkerProcess
from callsd_daemon.workers.reports import AttemptObserver, Reports
from callsd_daemon.workers.slot import WorkerSlot
from callsd_daemon.workers.waits import first_of, until


log = structlog.get_logger(__name__)

TICK_SECONDS = 1.0
"""How often progress is stored, and limits are checked."""

TERM_SECONDS = 2.0
DUMP_SECONDS = 0.5
STACK_DUMP_SIGNAL = signal.SIGUSR1
"""On this a worker writes the stacks of all its threads into its log."""


class Attempt:
    """Watches over one worker. `stop()` may be called at any time, from the same event loop."""

    def __init__(
        self,
        slot: WorkerSlot,
        process: WorkerProcess,
        bounds: Bounds,
        observer: AttemptObserver,
        *,
        is_batch: bool,
    ) -> None:
        """At `max_seconds` live work stops, and succeeds; batch work fails."""
        self.process = process
        self._is_batch = is_batch
        self._slot = slot
        self._bounds = bounds
        self._observer = observer
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Ask the worker to finish and exit; may be repeated."""
        self._stop.set()

    async def run(self, *, ran_seconds: float | None, max_seconds: float) -> Failure | None:
        """Watch the worker to its end; returns a Failure if the daemon ended it.

        `ran_seconds` is how long the job has been RUNNING already, None when it has not begun.
        When this is cancelled, the worker goes on by itself.
        """
        try:
            async with Reports(self._observer, is_running=ran_seconds is not None) as reports:
                verdict = await self._watch(reports, ran_seconds, max_seconds)
            await self._end(verdict)
        except asyncio.CancelledError:
            self.process.detach()
            raise
        return verdict

    async def _watch(
        self, reports: Reports, ran_seconds: float | None, max_seconds: float
    ) -> Failure | None:
        started = time.monotonic()
        began = None if ran_seconds is None else started - ran_seconds
        while not self.process.exited.is_set() and not self._stop.is_set():
            now = time.monotonic()
            if self._slot.refusal is not None:
                raise self._slot.refusal
            if began is None and self._slot.arrived.is_set():
                began = now
            if began is None and now - started > self._bounds.start_timeout_seconds:
                return Failure(
                    reason=Reason.WORKER_START_TIMEOUT,
                    message=f"the worker did not report within "
                    f"{self._bounds.start_timeout_seconds:g} s: look at the job's log",
                )
            silence = now - max(self._slot.last_heard, started)
            if began is not None and silence > self._bounds.silence_timeout_seconds:
                return Failure(
                    reason=Reason.WORKER_UNRESPONSIVE,
                    message=f"the worker said nothing for {silence:.0f} s: look at the job's log",
                )
            is_at_end = began is not None and now - began > max_seconds
            if is_at_end and not self._is_batch:
                return None
            if is_at_end:
                return Failure(
                    reason=Reason.MAX_DURATION_EXCEEDED,
                    message="the job ran longer than its max_duration: raise it, or give the job "
                    "more threads or a smaller model",
                )
            if began is not None:
                reports.tell(self._slot.progress)
            await self._observer.tick()
            events = [self.process.exited, self._stop]
            if began is None:
                events.append(self._slot.arrived)
            await first_of(events, TICK_SECONDS)
        return None

    async def _end(self, verdict: Failure | None) -> None:
        """The ladder: ask, terminate, have the stacks written down, kill."""
        hopeless = verdict is not None and verdict.reason is Reason.WORKER_UNRESPONSIVE
        grace = 0.0 if hopeless else self._bounds.stop_grace_seconds
        self._slot.request_stop(grace)
        if await until(self.process.exited, grace):
            return
        for number, patience in (
            (signal.SIGTERM, TERM_SECONDS),
            (STACK_DUMP_SIGNAL, DUMP_SECONDS),
        ):
            await self.process.send(number)
            if await until(self.process.exited, patience):
                return
        log.warning("worker_killed", generation=self._slot.generation)
        await self.process.send(signal.SIGKILL)
        await until(self.process.exited, TERM_SECONDS)
