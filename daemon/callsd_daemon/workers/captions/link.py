# SPDX-License-Identifier: Apache-2.0
"""Connects a captioner's session to its `Captioner`: commands one way, reports the other."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from callsd_daemon.domain.captions import Encoding, TrackUpdate
from callsd_daemon.domain.jobs import Failure
from callsd_daemon.kinds import Opener
from callsd_daemon.kinds.captions import CaptionerAssignment
from callsd_daemon.workers.captions.speaker import Chunk
from callsd_daemon.workers.worker_log import WorkerLog


log = structlog.get_logger(__name__)

FULL_COMMANDS = 100_000
"""When so many wait for a captioner its calls have to wait, too: what 130 people say in 15 s, after
which a captioner that says nothing is replaced."""

MAX_COMMANDS = 2 * FULL_COMMANDS
"""That wait at most, besides the rings that a captioner is sent at its start. Until it is full each
call may send one more request, of 1,000 pieces."""

BATCH_COMMANDS = 1_000
"""That are taken at once: what is left waits here, where it is counted."""

GATHER_SECONDS = 0.02
"""Audio of so long goes into one message: a message costs both processes more than its content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTrack:
    """Audio of a speaker will follow, from `start_sample` on."""

    track: int
    job_id: str
    language: str
    encoding: Encoding
    start_sample: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """Audio of a track."""

    track: int
    chunk: Chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class EndSpeech:
    """A speaker has stopped talking: process all audio now."""

    track: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseTrack:
    """No more audio of this speaker comes; forget the track."""

    track: int


CaptionerCommand = OpenTrack | Sound | EndSpeech | CloseTrack


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionerStatus:
    """What a captioner reports once a second."""

    load: float
    lag_seconds: float
    degraded: str
    real_time_factor: float
    cpu_seconds: dict[str, float]
    """Processor time by job, since this captioner started."""
    peak_memory_bytes: int
    engine: str
    """Name of the engine in use; empty from captioners of older releases."""


class CaptionerObserver(Protocol):
    """Receives what a captioner reports."""

    def on_status(self, status: CaptionerStatus) -> None:
        """The captioner is alive, and its model is loaded."""

    def on_update(self, track: int, update: TrackUpdate) -> None:
        """The captioner has recognised something."""

    def on_failure(self, failure: Failure) -> None:
        """The captioner cannot go on, and another one could not either."""


class Link:
    """The place of one captioner process, which shows the token to take it."""

    def __init__(
        self,
        work: CaptionerAssignment,
        observer: CaptionerObserver,
        *,
        log: WorkerLog,
        generation: int,
        token_sha256: str,
    ) -> None:
        self.work = work
        self.observer = observer
        self.log = log
        self.generation = generation
        self.token_sha256 = token_sha256
        self._commands: deque[CaptionerCommand] = deque()
        self._ring_commands = 0
        self._changed = asyncio.Event()
        self.is_closed = False
        """Set at the end; later reports are ignored."""

    async def files(self) -> Mapping[str, Opener]:
        """What the captioner may read."""
        return self.work.files

    @property
    def waiting(self) -> int:
        """How many commands wait for the captioner."""
        return len(self._commands)

    @property
    def has_room(self) -> bool:
        """Whether calls may send more audio."""
        return self.waiting < FULL_COMMANDS

    def send(self, command: CaptionerCommand) -> None:
        """Queue a command.

        A captioner that takes none ends, and what is sent to it is dropped: the next one is sent
        the rings.
        """
        if self.waiting >= MAX_COMMANDS + self._ring_commands and not self.is_closed:
            log.error("captioner_overrun", model=self.work.model, commands=self.waiting)
            self.close()
        if not self.is_closed:
            self._commands.append(command)
            self._changed.set()

    def exempt(self) -> None:
        """What waits now are the rings, which are bounded by what calls may keep in them."""
        self._ring_commands = self.waiting

    def close(self) -> None:
        """Take no more commands, and forget those that wait."""
        self.is_closed = True
        self._commands.clear()
        self._changed.set()

    async def batches(self) -> AsyncIterator[list[CaptionerCommand]]:
        """All commands in order, some at a time, until the link is closed."""
        while True:
            await self._changed.wait()
            if self.is_closed:
                return
            if self.waiting < BATCH_COMMANDS and all(
                isinstance(command, Sound) for command in self._commands
            ):
                await asyncio.sleep(GATHER_SECONDS)
            count = min(self.waiting, BATCH_COMMANDS)
            batch = [self._commands.popleft() for _ in range(count)]
            if not self._commands and not self.is_closed:
                self._changed.clear()
            yield batch
