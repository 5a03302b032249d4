# SPDX-License-Identifier: Apache-2.0
"""A captions job: open to sound until it is stopped, then its files are written."""

import asyncio
import errno
import time
from pathlib import Path

import structlog

from callsd_daemon.domain.captions import CAPTIONS, SAMPLE_RATE_HZ, CaptionsSpec
from callsd_daemon.domain.errors import Reason
from callsd_daemon.domain.jobs import Failure, Job, Outcome, Progress, Usage
from callsd_daemon.store.failpoints import failpoint
from callsd_daemon.workers.attempt import AttemptObserver
from callsd_daemon.workers.captions.call import Call
from callsd_daemon.workers.captions.calls import Calls
from callsd_daemon.workers.captions.captioner import Captioner
from callsd_daemon.workers.captions.files import Written, write_files
from callsd_daemon.workers.waits import first_of, until


log = structlog.get_logger(__name__)

TICK_SECONDS = 0.5
KEEP_TICKS = 2
"""How often positions are written down: once a second. So much longer clients keep their sound."""

PROGRESS_TICKS = 10
"""How often the job's progress is: each time is a transaction."""

DRAIN_SECONDS = 15.0
"""How long the last words may take; longer only while the captioner gets on with them."""

WRITE_SECONDS = 60.0
"""How long a disk that takes no files is tried again: somebody may be making room."""

RETRY_SECONDS = 1.0


class CaptionsAttempt:
    """Sees one captions job through. `stop()` may be called at any time."""

    def __init__(self, job: Job, calls: Calls, directory: Path, observer: AttemptObserver) -> None:
        assert isinstance(job.spec, CaptionsSpec)
        self._job = job
        self._spec = job.spec
        self._calls = calls
        self._directory = directory
        self._observer = observer
        self._stop = asyncio.Event()
        self.outcome: Outcome | None = None
        """How the call ended, once it has come to its end; no worker leaves one."""

    def stop(self) -> None:
        """The call is over: work off what has come, and write the files."""
        self._stop.set()

    async def run(self, *, ran_seconds: float | None, max_seconds: float) -> Failure | None:
        """Until the files are written, or it is clear that there will be no more captions.

        When this is cancelled, the job stays as it is, and the next daemon goes on with it.
        """
        call, captioner = await self._calls.open(self._job.id, self._spec, self._directory)
        began = time.monotonic() - (ran_seconds or 0.0)
        try:
            failure = await self._listen(call, captioner, began + max_seconds, ran_seconds)
            if failure is None:
                self.outcome = await self._finish(call, captioner, time.monotonic() - began)
                failure = self.outcome.failure
            if failure is not None:
                call.note(f"failed: {failure.message}")
            return failure
        finally:
            self._calls.close(call, captioner)

    async def _listen(
        self, call: Call, captioner: Captioner, end_seconds: float, ran_seconds: float | None
    ) -> Failure | None:
        is_running, ticks = ran_seconds is not None, 0
        abandoned_seconds = self._calls.kind().abandoned_seconds
        while not self._stop.is_set():
            if captioner.failed.is_set():
                return captioner.failure
            if not is_running and captioner.ready.is_set():
                is_running = True
                await self._observer.running()
            if time.monotonic() > end_seconds:
                call.note("the job's max_duration is over")
                return None
            if call.abandoned_seconds > abandoned_seconds:
                call.note(f"nobody has sent sound for {abandoned_seconds:g} s")
                return None
            call.tick()
            ticks += 1
            if ticks % KEEP_TICKS == 0:
                call.keep()
                await asyncio.to_thread(call.sync)
            if is_running and ticks % PROGRESS_TICKS == 0:
                await self._observer.progress(_progress(call))
            events = [self._stop, captioner.failed]
            if not is_running:
                events.append(captioner.ready)
            await first_of(events, TICK_SECONDS)
        return None

    async def _finish(self, call: Call, captioner: Captioner, wall_seconds: float) -> Outcome:
        call.refuse_sound()
        failure = await self._drain(call, captioner)
        written: Written | None = None
        if failure is None:
            try:
                written = await self._write(call)
            except OSError as problem:
                failure = _unwritten(problem)
        return Outcome(
            failure=failure,
            artifacts=written.artifacts if written else (),
            results=(
                {
                    CAPTIONS: call.result(
                        caption_count=written.caption_count, word_count=written.word_count
                    )
                }
                if written
                else {}
            ),
            usage=Usage(
                cpu_seconds=call.cpu_seconds,
                peak_memory_bytes=call.peak_memory_bytes,
                wall_seconds=wall_seconds,
            ),
        )

    async def _drain(self, call: Call, captioner: Captioner) -> Failure | None:
        """Have what has come worked off."""
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
        return None

    async def _write(self, call: Call) -> Written:
        """Write the files; raises OSError when the disk does not take them within WRITE_SECONDS.

        A daemon that dies before the job's end is written down leaves it to the next one, which
        finds the same captions and writes the same files over these.
        """
        deadline = time.monotonic() + WRITE_SECONDS
        while True:
            try:
                return await self._write_once(call)
            except OSError as problem:
                if time.monotonic() > deadline:
                    raise
                log.warning("captions_unwritten", job_id=self._job.id, problem=str(problem))
            await asyncio.sleep(RETRY_SECONDS)

    async def _write_once(self, call: Call) -> Written:
        if not call.keep():
            raise OSError(errno.ENOSPC, "there are captions that wait for room on the disk")
        await asyncio.to_thread(call.sync)
        failpoint("captions.before_files")
        async with self._calls.writing:
            written = await asyncio.to_thread(write_files, self._directory, engine=call.engine)
        failpoint("captions.after_files")
        return written


def _unwritten(problem: OSError) -> Failure:
    kept = "the captions are kept: `callsd captions watch` shows them"
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure(
            reason=Reason.DISK_FULL,
            message=f"the disk is full, and the files were not written: free some space; {kept}",
        )
    return Failure(
        reason=Reason.INTERNAL, message=f"the files could not be written: {problem}; {kept}"
    )


def _progress(call: Call) -> Progress:
    return Progress(
        phase="degraded" if call.degraded else "listening",
        processed_seconds=call.processed_samples / SAMPLE_RATE_HZ,
        total_seconds=call.received_samples / SAMPLE_RATE_HZ,
        real_time_factor=call.real_time_factor,
    )
