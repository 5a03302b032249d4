# SPDX-License-Identifier: Apache-2.0
"""A captions job: takes audio until it is stopped, then writes its files."""

import asyncio
import errno
import time
from pathlib import Path

import structlog

from callsd_daemon.domain.captions import CAPTIONS, SAMPLE_RATE_HZ, CaptionsSpec
from callsd_daemon.domain.errors import Reason
from callsd_daemon.domain.jobs import Failure, Job, Outcome, Progress, Usage
from callsd_daemon.files import DISK_ERRNOS
from callsd_daemon.store.failpoints import failpoint
from callsd_daemon.workers.captions.call import Call
from callsd_daemon.workers.captions.calls import Calls
from callsd_daemon.workers.captions.captioner import Captioner
from callsd_daemon.workers.captions.files import Written, write_files
from callsd_daemon.workers.reports import AttemptObserver, Reports
from callsd_daemon.workers.waits import first_of, until


log = structlog.get_logger(__name__)

TICK_SECONDS = 0.5
KEEP_TICKS = 2
"""How often positions are saved: once a second. Clients keep their audio for so much longer."""

PROGRESS_TICKS = 10
"""How often the job's progress is stored; each time takes a transaction."""

DRAIN_SECONDS = 15.0
"""How long the captioner may make no progress on the last audio."""

WRITE_SECONDS = 60.0
"""How long writing the files is retried: somebody may be freeing space."""

RETRY_SECONDS = 1.0


class CaptionsAttempt:
    """Runs one captions job to its end. `stop()` may be called at any time."""

    def __init__(self, job: Job, calls: Calls, directory: Path, observer: AttemptObserver) -> None:
        assert isinstance(job.spec, CaptionsSpec)
        self._job = job
        self._spec = job.spec
        self._calls = calls
        self._directory = directory
        self._observer = observer
        self._stop = asyncio.Event()
        self.outcome: Outcome | None = None
        """How the job ended; the daemon makes it itself, as no worker leaves one."""

    def stop(self) -> None:
        """End the call: have the audio received so far processed, and write the files."""
        self._stop.set()

    async def run(self, *, ran_seconds: float | None, max_seconds: float) -> Failure | None:
        """Run until the files are written, or no captioner can serve the call any more.

        When this is cancelled, the job stays as it is, and the next daemon continues it.
        """
        call, captioner = await self._calls.open(self._job.id, self._spec, self._directory)
        began = time.monotonic() - (ran_seconds or 0.0)
        try:
            is_running = ran_seconds is not None
            async with Reports(self._observer, is_running=is_running) as reports:
                failure = await self._listen(
                    reports, call, captioner, began + max_seconds, is_running=is_running
                )
            if failure is None:
                self.outcome = await self._finish(call, captioner, time.monotonic() - began)
                failure = self.outcome.failure
            if failure is not None:
                call.note(f"failed: {failure.message}")
            return failure
        finally:
            self._calls.close(call, captioner)

    async def _listen(
        self,
        reports: Reports,
        call: Call,
        captioner: Captioner,
        end_seconds: float,
        *,
        is_running: bool,
    ) -> Failure | None:
        ticks = 0
        abandoned_seconds = self._calls.kind().abandoned_seconds
        while not self._stop.is_set():
            if captioner.failed.is_set():
                return captioner.failure
            if not is_running and captioner.ready.is_set():
                is_running = True
                reports.tell(None)
            if time.monotonic() > end_seconds:
                call.note("the job's max_duration is over")
                return None
            if call.abandoned_seconds > abandoned_seconds:
                call.note(f"nobody has sent sound for {abandoned_seconds:g} s")
                return None
            call.tick()
            ticks += 1
            if ticks % KEEP_TICKS == 0:
                call.save_positions()
                await asyncio.to_thread(call.sync)
            if is_running and ticks % PROGRESS_TICKS == 0:
                reports.tell(_progress(call))
            events = [self._stop, captioner.failed]
            if not is_running:
                events.append(captioner.ready)
            await first_of(events, TICK_SECONDS)
        return None

    async def _finish(self, call: Call, captioner: Captioner, wall_seconds: float) -> Outcome:
        call.close_input()
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
        """Wait until all audio is processed."""
        patience = time.monotonic() + DRAIN_SECONDS
        processed = -1
        while not call.is_drained and time.monotonic() < patience:
            if captioner.failed.is_set():
                return captioner.failure
            if call.processed_samples > processed:
                processed, patience = call.processed_samples, time.monotonic() + DRAIN_SECONDS
            call.pause_all()
            await until(call.acks, TICK_SECONDS)
            call.acks.clear()
        if not call.is_drained:
            call.note("the last audio was given up: the captioner made no progress on it")
        return None

    async def _write(self, call: Call) -> Written:
        """Write the files; raises OSError when that has failed for WRITE_SECONDS.

        If the daemon dies before the job's end is stored, the next one writes the same files again.
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
        if not call.save_positions():
            raise OSError(errno.ENOSPC, "captions wait for space on the disk")
        await asyncio.to_thread(call.sync)
        failpoint("captions.before_files")
        async with self._calls.writing:
            written = await asyncio.to_thread(write_files, self._directory, engine=call.engine)
        failpoint("captions.after_files")
        return written


def _unwritten(problem: OSError) -> Failure:
    kept = "the captions are kept: `callsd captions watch` shows them"
    if problem.errno in DISK_ERRNOS:
        return Failure(
            reason=Reason.DISK_FULL,
            message=f"the disk is full or fails ({problem.strerror}), and the files were not "
            f"written: free some space; {kept}",
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
