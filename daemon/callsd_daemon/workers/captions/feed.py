# SPDX-License-Identifier: Apache-2.0
"""What viewers of a call are shown.

Viewers have no queues. Each is sent the current state: finals by number, and the newest interim of
each speaker. A slow viewer sees fewer interims and costs nothing.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Generic, TypeVar

from callsd_daemon.domain.captions import Words


RECENT_FINALS = 512
RECENT_EVENTS = 128


class EventType(StrEnum):
    """Something that viewers should know."""

    SPEECH_BEGIN = "speech_begin"
    SPEECH_END = "speech_end"
    DEGRADED = "degraded"
    RECOVERED = "recovered"
    AUDIO_SKIPPED = "audio_skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What happened, to which speaker (empty: to the call), and when."""

    type: EventType
    speaker: str = ""
    sample: int = 0
    detail: str = ""
    skipped_samples: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """Words as viewers see them; `sequence` is 0 for those that may change."""

    sequence: int
    speaker: str
    display_name: str
    words: Words


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStatus:
    """The state of a call at one moment; sent with everything that is published."""

    processed_sample: int = 0
    lag_seconds: float = 0.0
    real_time_factor: float = 0.0


C = TypeVar("C", Caption, Event)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Published(Generic[C]):
    """A caption or an event with the time at which it was published; equal to itself only."""

    version: int
    content: C
    status: CallStatus
    publish_time: datetime


class CaptionFeed:
    """Belongs to one event loop."""

    def __init__(self, status: Callable[[], CallStatus], *, last_sequence: int) -> None:
        """`last_sequence`: number of the last final caption that was published before."""
        self.version = 0
        """Counts everything that is published."""
        self.last_sequence = last_sequence
        """Number of the last final caption; they are numbered from 1 without gap."""
        self.ended = asyncio.Event()
        """Set when nothing more will be published."""
        self._status = status
        self._finals: deque[Published[Caption]] = deque(maxlen=RECENT_FINALS)
        self._events: deque[Published[Event]] = deque(maxlen=RECENT_EVENTS)
        self._interims: dict[str, Published[Caption]] = {}
        self._changed = asyncio.Event()

    def add_event(self, event: Event) -> None:
        """Publish an event."""
        self._events.append(self._published(event))

    def add_caption(self, caption: Caption) -> None:
        """Publish a caption; an interim one replaces its speaker's last one."""
        speaker = caption.speaker
        if not caption.sequence:
            self._interims[speaker] = self._published(caption)
            return
        shown = self._interims.get(speaker)
        if shown is not None and shown.content.words.segment <= caption.words.segment:
            del self._interims[speaker]
        self._finals.append(self._published(caption))
        self.last_sequence = caption.sequence

    def withdraw(self) -> None:
        """Replace all interims by empty ones: their words will never become final."""
        for shown in list(self._interims.values()):
            words = shown.content.words
            if words.text:
                empty = replace(words, revision=words.revision + 1, text="")
                self.add_caption(replace(shown.content, words=empty))

    def close(self) -> None:
        """Publish nothing more."""
        self.ended.set()
        self.wake()

    def after(self, sequence: int, version: int) -> list[Published[Caption] | Published[Event]]:
        """What is new for a viewer that has finals up to `sequence`, and the rest up to `version`.

        Finals that are no longer in memory are left out.
        """
        behind = min(max(0, self.last_sequence - sequence), len(self._finals))
        found: list[Published[Caption] | Published[Event]] = []
        found += itertools.islice(self._finals, len(self._finals) - behind, None)
        found += (item for item in self._events if item.version > version)
        found += (item for item in self._interims.values() if item.version > version)
        return sorted(found, key=lambda item: item.version)

    @property
    def first_in_memory(self) -> int:
        """The oldest final caption that `after` returns."""
        return self._finals[0].content.sequence if self._finals else self.last_sequence + 1

    async def wait(self, seconds: float) -> bool:
        """Wait for something new; False when there was nothing."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def wake(self) -> None:
        """Wake all viewers."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _published(self, content: C) -> Published[C]:
        self.version += 1
        return Published(
            version=self.version,
            content=content,
            status=self._status(),
            publish_time=datetime.now(UTC),
        )
