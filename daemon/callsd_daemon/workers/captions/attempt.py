# SPDX-License-Identifier: Apache-2.0
"""A captions job: open to sound until it is stopped, then its files are written."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from callsd_daemon.domain.captions import SAMPLE_RATE_HZ
from callsd_daemon.domain.errors import Reason
from callsd_daemon.domain.jobs import Failure, Job, Progress
from callsd_daemon.workers.attempt import Listener
from callsd_daemon.workers.captions.call import Call
from callsd_daemon.workers.captions.calls import Calls
from callsd_daemon.workers.captions.captioner import Captioner
from callsd_daemon.workers.captions.link import WriteFiles
from callsd_daemon.workers.ending import ARTIFACTS
from callsd_daemon.workers.waits import first_of, until


TICK_SECONDS = 0.5
KEEP_TICKS = 2
"""How often positions are written down: once a second. So much longer clients keep their sound."""

PROGRESS_TICKS = 10
"""How often the job's progress is: each time is a transaction."""

DRAIN_SECONDS = 15.0
"""How long the last words may take; longer only while the captioner gets on with them."""

WRITE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRules:
    """The administrator's settings for the life of captions jobs."""

    abandoned_seconds: float


class CaptionsAttempt:
    """Sees one captions job through. `stop()` may be called at any time."""

    def __init__(
        self, job: Job, calls: Calls, directory: Path, rules: CallRules, listener: Listener
    ) -> None:
        self._job = job
        self._calls = calls
        self._directory = directory
        self._rules = rules
        self._listener = listener
        self._stop = asyncio.Event()
        self.sessions: tuple[int, ...] = ()
        """Of its own it has no process."""

    def stop(self) -> None:
        """The call is over: work off what has come, and write the files."""
        self._stop.set()

    async def run(self, *, ran_seconds: float | None, max_seconds: float) -> Failure | None:
        """Until the files are written, or it is clear that there will be no more captions.

        When this is cancelled, the job stays as it is, and the next daemon goes on with it.
        """
        spec = self._job.captions
        assert spec is not None
        call, captioner = await self._calls.open(self._job.id, spec, self._directory)
        began = time.monotonic() - (ran_seconds or 0.0)
        try:
            failure = await self._listen(call, captioner, began + max_seconds, ran_seconds)
            if failure is None:
                failure = await self._finish(call, captioner, time.monotonic() - began)
            if failure is not None:
                call.note(f"failed: {failure.message}")
            return failure
        finally:
            self._calls.close(call, captioner)

    async def _listen(
        self, call: Call, captioner: Captioner, end_seconds: float, ran_seconds: float | None
    ) -> Failure | None:
        is_running, ticks = ran_seconds is not None, 0
        while not self._stop.is_set():
            if captioner.failed.is_set():
                return captioner.failure
            if not is_running and captioner.ready.is_set():
                is_running = True
                await self._listener.running()
            if time.monotonic() > end_seconds:
                call.note("the job's max_duration is over")
                return None
            if call.abandoned_seconds > self._rules.abandoned_seconds:
                call.note(f"nobody has sent sound for {self._rules.abandoned_seconds:g} s")
                return None
            call.tick()
            ticks += 1
            if ticks % KEEP_TICKS == 0:
                call.keep()
                await asyncio.to_thread(call.sync)
            if is_running and ticks % PROGRESS_TICKS == 0:
                await self._listener.progress(_progress(call))
            events = [self._stop, captioner.failed]
            if not is_running:
                events.append(captioner.ready)
            await first_of(events, TICK_SECONDS)
        return None

    async def _finish(
        self, call: Call, captioner: Captioner, wall_seconds: float
    ) -> Failure | None:
        call.refuse_sound()
        (self._directory / ARTIFACTS).mkdir(exist_ok=True)
        patience = time.monotonic() + DRAIN_SECONDS
        heard = -1
        while not call.is_drained and time.monotonic() < patience:
            if captioner.failed.is_set():
                return captioner.failure
            if call.processed_samples > heard:
                heard, patience = call.processed_samples, time.monotonic() + DRAIN_SECONDS
            call.pause_all()
            await until(call.acks, TICK_SECONDS)
            call.acks.clear()
        if not call.is_drained:
            call.note("the last words were given up: they took too long")
        call.keep()
        await asyncio.to_thread(call.sync)
        finals = await asyncio.to_thread(call.finals, 0, call.board.last_sequence)
        order = WriteFiles(
            job_id=self._job.id,
            generation=self._job.attempt,
            directory=self._directory,
            finals=tuple(finals),
            result=call.result(finals),
            cpu_seconds=call.cpu_seconds,
            wall_seconds=wall_seconds,
        )
        if await captioner.write(order, WRITE_SECONDS):
            return None
        return captioner.failure or Failure(
            reason=Reason.WORKER_UNRESPONSIVE,
            message=f"the files were not written within {WRITE_SECONDS:g} s; the captions are "
            "kept: `callsd captions watch` shows them",
        )


def _progress(call: Call) -> Progress:
    return Progress(
        phase="degraded" if call.degraded else "listening",
        processed_seconds=call.processed_samples / SAMPLE_RATE_HZ,
        total_seconds=call.received_samples / SAMPLE_RATE_HZ,
        real_time_factor=call.real_time_factor,
    )
