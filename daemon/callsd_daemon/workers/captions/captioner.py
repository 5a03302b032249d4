# SPDX-License-Identifier: Apache-2.0
"""Keeps one captioner running for all calls that use its model.

A captioner may die at any time: audio that it has not processed is in the calls' rings, from which
the next one is sent it again.
"""

import asyncio
import contextlib
import functools
import secrets
import time
from collections import deque
from pathlib import Path

import structlog

from callsd_daemon import tokens
from callsd_daemon.domain.captions import Encoding, TrackUpdate
from callsd_daemon.domain.costs import captioner_cost, captions_cost
from callsd_daemon.domain.errors import Reason
from callsd_daemon.domain.jobs import Failure
from callsd_daemon.files import FilePool
from callsd_daemon.kinds import Role
from callsd_daemon.kinds.captions import CaptionerAssignment
from callsd_daemon.metrics import (
    CAPTION_LAG,
    CAPTIONER_COMMANDS,
    CAPTIONER_LOAD,
    CAPTIONERS_LOST,
)
from callsd_daemon.workers.captions.call import Call
from callsd_daemon.workers.captions.link import (
    CaptionerCommand,
    CaptionerStatus,
    CloseTrack,
    EndSpeech,
    Link,
    OpenTrack,
    Sound,
)
from callsd_daemon.workers.captions.speaker import Chunk, Speaker
from callsd_daemon.workers.launchers.launcher import (
    Launcher,
    Limits,
    WorkerId,
    WorkerProcess,
    limits,
)
from callsd_daemon.workers.session import messages
from callsd_daemon.workers.session.server import WorkerServer
from callsd_daemon.workers.slot import captioner_name
from callsd_daemon.workers.waits import first_of, until
from callsd_daemon.workers.worker_log import WorkerLog
from callsd_ipc.names import WORKER_LOG


log = structlog.get_logger(__name__)

LOAD_TIMEOUT_SECONDS = 60.0
"""Loading a model takes a second or two, and longer from a slow disk."""

SILENCE_TIMEOUT_SECONDS = 15.0
"""A captioner reports once a second; one that is silent for so long hangs."""

MAX_DEATHS = 5
DEATHS_SECONDS = 60.0
"""After so many deaths in so short a time no further one is started."""

RESTART_PAUSES_SECONDS = (0.0, 0.0, 0.5, 1.0, 2.0)
"""Before the first, second … restart within that time."""

TICK_SECONDS = 1.0


class Captioner:
    """Belongs to one event loop; `run` keeps the process alive."""

    def __init__(
        self,
        work: CaptionerAssignment,
        *,
        server: WorkerServer,
        launcher: Launcher,
        directory: Path,
        pool: FilePool,
        tag: str,
        max_log_bytes: int,
    ) -> None:
        """`directory` is for its log; by `tag` a later daemon finds its processes."""
        self.ready = asyncio.Event()
        """Set while a captioner runs and has loaded the model."""
        self.failure: Failure | None = None
        """Why no captioner can serve this model."""
        self.failed = asyncio.Event()
        self._process: WorkerProcess | None = None
        self._work = work
        self._server = server
        self._launcher = launcher
        self._directory = directory
        self._pool = pool
        self._max_log_bytes = max_log_bytes
        self._name = captioner_name(work.model)
        self._worker = WorkerId(name=self._name, tag=tag, role=Role.CAPTIONER)
        self._link: Link | None = None
        self._generation = 0
        self._last_report = 0.0
        self._calls: dict[str, Call] = {}
        self._tracks: dict[int, tuple[Call, Speaker]] = {}
        self._numbers: dict[Speaker, int] = {}
        self._next_track = 1
        self._costs: dict[str, float] = {}
        self._closing = asyncio.Event()

    # Calls

    def add(self, call: Call) -> None:
        """Serve a call."""
        self._calls[call.job_id] = call

    def remove(self, call: Call) -> None:
        """Stop serving a call."""
        self._calls.pop(call.job_id, None)
        for speaker in call.speakers.values():
            track = self._numbers.pop(speaker, None)
            if track is not None:
                del self._tracks[track]
                self._send(CloseTrack(track=track))

    def send_audio(self, call: Call, speaker: Speaker, chunk: Chunk) -> None:
        """Send a chunk of audio to the captioner."""
        track = self._numbers.get(speaker)
        if track is None:
            track = self._open(call, speaker)
        self._send(Sound(track=track, chunk=chunk))

    def end_speech(self, speaker: Speaker) -> None:
        """Tell the captioner that a speaker has stopped talking."""
        if speaker in self._numbers:
            self._send(EndSpeech(track=self._numbers[speaker]))

    def has_room(self) -> bool:
        """Whether calls may send more audio; without a captioner it waits in their rings."""
        return self._link is None or self._link.has_room

    def _open(self, call: Call, speaker: Speaker) -> int:
        track = self._next_track
        self._next_track += 1
        self._numbers[speaker] = track
        self._tracks[track] = (call, speaker)
        self._send(
            OpenTrack(
                track=track,
                job_id=call.job_id,
                language=call.spec.language,
                encoding=call.encoding or Encoding.S16LE,
                start_sample=speaker.processed_sample,
            )
        )
        return track

    def _send(self, command: CaptionerCommand) -> None:
        # Without a link nothing is lost: the next captioner is sent the rings.
        if self._link is not None:
            self._link.send(command)

    # Reports

    def on_status(self, status: CaptionerStatus) -> None:
        """The captioner is alive, and its model is loaded."""
        self._last_report = time.monotonic()
        CAPTIONER_LOAD.labels(model=self._work.model).set(status.load)
        CAPTION_LAG.labels(model=self._work.model).set(status.lag_seconds)
        if self._link is not None:
            CAPTIONER_COMMANDS.labels(model=self._work.model).set(self._link.waiting)
        if not self.ready.is_set():
            log.info("captioner_ready", model=self._work.model)
            self.ready.set()
        for call in self._calls.values():
            cost = status.cpu_seconds.get(call.job_id, 0.0)
            call.cpu_seconds += max(0.0, cost - self._costs.get(call.job_id, 0.0))
            call.real_time_factor = status.real_time_factor
            call.engine = status.engine or call.engine
            call.peak_memory_bytes = max(call.peak_memory_bytes, status.peak_memory_bytes)
            call.degrade(status.degraded)
            # Of a call that was held back for the others' sake nothing else may come.
            call.update_room()
        self._costs = status.cpu_seconds

    def on_update(self, track: int, update: TrackUpdate) -> None:
        """The captioner has recognised something."""
        self._last_report = time.monotonic()
        if track in self._tracks:
            call, speaker = self._tracks[track]
            call.apply(speaker, update)

    def on_failure(self, failure: Failure) -> None:
        """The captioner cannot go on, and another one could not either."""
        self.failure = failure

    # Life

    async def run(self) -> None:
        """Start captioners until `close`, or until none can serve this model."""
        deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        # One that an earlier daemon has left is of no use without its session.
        await self._launcher.sweep(self._worker)
        while not self._closing.is_set() and self.failure is None:
            try:
                reason = await self._one_life()
            except OSError as problem:
                reason = f"it could not be started: {problem}"
            if self._closing.is_set() or self.failure is not None:
                break
            now = time.monotonic()
            recent = sum(now - died < DEATHS_SECONDS for died in deaths)
            deaths.append(now)
            CAPTIONERS_LOST.labels(model=self._work.model).inc()
            log.warning("captioner_lost", model=self._work.model, reason=reason, recent=recent)
            for call in self._calls.values():
                call.interrupted(reason)
            if recent + 1 >= MAX_DEATHS:
                self.failure = Failure(
                    reason=Reason.CRASH_LOOP,
                    message=f"{MAX_DEATHS} captioners were lost within {DEATHS_SECONDS:g} s, last: "
                    f"{reason}; look at {self._directory / WORKER_LOG}",
                )
                break
            await until(self._closing, RESTART_PAUSES_SECONDS[recent])
        if self.failure is not None:
            log.error("captioner_failed", model=self._work.model, reason=self.failure.reason)
        for gauge in (CAPTION_LAG, CAPTIONER_COMMANDS, CAPTIONER_LOAD):
            with contextlib.suppress(KeyError):
                gauge.remove(self._work.model)
        self.failed.set()

    def close(self) -> None:
        """End the process. A `Captioner` is not started again."""
        self._closing.set()

    async def _one_life(self) -> str:
        """Run one process from start to end; returns why it ended."""
        self._generation += 1
        token = secrets.token_urlsafe(32)
        await self._pool.run(lambda: self._directory.mkdir(parents=True, exist_ok=True))
        worker_log = WorkerLog(
            self._directory / WORKER_LOG, self._pool, max_bytes=self._max_log_bytes
        )
        await worker_log.open()
        link = Link(
            self._work,
            self,
            log=worker_log,
            generation=self._generation,
            token_sha256=tokens.digest(token),
        )
        self._server.keep_captioner(self._name, link)
        process = await self._launcher.launch(
            self._worker,
            messages.bootstrap(
                name=self._name,
                role=Role.CAPTIONER,
                generation=self._generation,
                token=token,
                endpoint=self._server.endpoint(is_local=self._launcher.is_local),
            ),
            self._limits(),
        )
        self._process, self._link, self._costs = process, link, {}
        try:
            self._send_rings()
            link.exempt()
            return await self._watch(process)
        finally:
            self.ready.clear()
            self._process, self._link = None, None
            self._server.clear_captioner(self._name)
            link.close()
            process.detach()
            await asyncio.shield(self._end(worker_log))

    async def _end(self, worker_log: WorkerLog) -> None:
        """Kill what is left of the process, and take the rest of its log."""
        await self._launcher.sweep(self._worker)
        await worker_log.take_rest(functools.partial(self._launcher.read_log, self._name))

    def _limits(self) -> Limits:
        """What the process may use, given the calls that it serves now."""
        costs = (captions_cost(call.spec, ()) for call in self._calls.values())
        return limits(sum(costs, captioner_cost(self._work.model)), is_batch=False)

    def _send_rings(self) -> None:
        self._tracks.clear()
        self._numbers.clear()
        for call in self._calls.values():
            for speaker in call.speakers.values():
                for chunk in speaker.ring:
                    self.send_audio(call, speaker, chunk)
                if speaker.is_asked_to_end:
                    self.end_speech(speaker)

    async def _watch(self, process: WorkerProcess) -> str:
        started = self._last_report = time.monotonic()
        held = self._limits()
        while not process.exited.is_set():
            if self._closing.is_set():
                return "it was closed"
            now = time.monotonic()
            if not self.ready.is_set() and now - started > LOAD_TIMEOUT_SECONDS:
                return f"its model was not loaded within {LOAD_TIMEOUT_SECONDS:g} s"
            if self.ready.is_set() and now - self._last_report > SILENCE_TIMEOUT_SECONDS:
                return f"it did not report for {SILENCE_TIMEOUT_SECONDS:g} s"
            with contextlib.suppress(OSError):  # it may just have ended
                await self._pool.run(self._launcher.bound_log, self._name, self._max_log_bytes)
                if held != (held := self._limits()):
                    await self._launcher.adjust(self._worker, held)
            await first_of((process.exited, self._closing), TICK_SECONDS)
        if process.end.is_out_of_memory:
            return "it used more memory than allowed"
        if process.end.signal:
            return f"it was killed by {process.end.signal}"
        return f"it ended with exit code {process.end.exit_code}"
