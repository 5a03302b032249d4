# SPDX-License-Identifier: Apache-2.0
"""Where a captioner's session and its supervisor meet: orders one way, reports the other."""

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
"""Sound is handed on in parcels: each message costs both processes more than what is in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTrack:
    """A speaker's sound will come, from `start_sample` on."""

    track: int
    job_id: str
    language: str
    encoding: Encoding
    start_sample: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """Some sound of a track."""

    track: int
    chunk: Chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class EndSpeech:
    """A speaker says no more for now: work off all that is there."""

    track: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseTrack:
    """A speaker is forgotten."""

    track: int


CaptionerCommand = OpenTrack | Sound | EndSpeech | CloseTrack


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionerStatus:
    """How a captioner is."""

    load: float
    lag_seconds: float
    degraded: str
    real_time_factor: float
    cpu_seconds: dict[str, float]
    """Processor time by job, since this captioner began."""
    peak_memory_bytes: int
    engine: str
    """Name of the engine in use; empty from a captioner that does not say."""


class CaptionerObserver(Protocol):
    """Who is told what a captioner reports."""

    def on_status(self, status: CaptionerStatus) -> None:
        """It is alive, and its model is loaded."""

    def on_update(self, track: int, update: TrackUpdate) -> None:
        """It has heard something."""

    def on_failure(self, failure: Failure) -> None:
        """It cannot go on, and another one could not either."""


class Link:
    """One captioner process, kept for the one that holds its token."""

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
        self._orders: deque[CaptionerCommand] = deque()
        self._changed = asyncio.Event()
        self.is_closed = False
        """Set when it is over: what is still reported does not count any more."""

    async def files(self) -> Mapping[str, Opener]:
        """What the captioner may read."""
        return self.work.files

    def send(self, order: CaptionerCommand) -> None:
        """Have an order carried out; bounded by what calls let in."""
        self._orders.append(order)
        self._changed.set()

    def close(self) -> None:
        """No more orders."""
        self.is_closed = True
        self._changed.set()

    async def batches(self) -> AsyncIterator[list[CaptionerCommand]]:
        """Orders in the order they were given, some at a time, until the link is closed."""
        while True:
            await self._changed.wait()
            if self.is_closed:
                return
            if all(isinstance(order, Sound) for order in self._orders):
                await asyncio.sleep(GATHER_SECONDS)
            self._changed.clear()
            batch = list(self._orders)
            self._orders.clear()
            yield batch
