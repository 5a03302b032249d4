# SPDX-License-Identifier: Apache-2.0
"""Connects a captioner's session to its `Captioner`: commands one way, reports the other."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from callsd_daemon.domain.captions import Encoding, TrackUpdate
from callsd_daemon.domain.jobs import Failure
from callsd_daemon.kinds import Opener
from callsd_daemon.kinds.captions import CaptionerAssignment
from callsd_daemon.workers.captions.speaker import Chunk
from callsd_daemon.workers.worker_log import WorkerLog


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
        self._changed = asyncio.Event()
        self.is_closed = False
        """Set at the end; later reports are ignored."""

    async def files(self) -> Mapping[str, Opener]:
        """What the captioner may read."""
        return self.work.files

    def send(self, command: CaptionerCommand) -> None:
        """Queue a command; the queue is bounded by the audio that calls accept."""
        self._commands.append(command)
        self._changed.set()

    def close(self) -> None:
        """Take no more commands."""
        self.is_closed = True
        self._changed.set()

    async def batches(self) -> AsyncIterator[list[CaptionerCommand]]:
        """All commands in order, some at a time, until the link is closed."""
        while True:
            await self._changed.wait()
            if self.is_closed:
                return
            if all(isinstance(command, Sound) for command in self._commands):
                await asyncio.sleep(GATHER_SECONDS)
            self._changed.clear()
            batch = list(self._commands)
            self._commands.clear()
            yield batch
