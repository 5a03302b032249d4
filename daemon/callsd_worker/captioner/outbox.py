# SPDX-License-Identifier: Apache-2.0
"""TrackUpdate on its way out. What waits is brought together, so that it never piles up.

Of each track the newest interim, all finals, and every change of speech: as much as people say.
"""

import threading
import time
from collections import deque
from dataclasses import dataclass, replace

from callsd_worker.captioner.words import TrackUpdate, Words


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackNews:
    """TrackUpdate of one track as it is told."""

    track: int
    update: TrackUpdate
    skipped_samples: int
    """Sound that never came or could not be decoded, since the update before."""


class Outbox:
    """Filled by any thread, emptied by one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # Tracks in the order in which their oldest updates came.
        self._waiting: dict[int, deque[TrackNews]] = {}
        self.is_closed = False

    def put(self, told: TrackNews) -> None:
        """Have an update told; never waits."""
        with self._changed:
            waiting = self._waiting.setdefault(told.track, deque())
            joined = _joined(waiting[-1], told) if waiting else None
            if joined is None:
                waiting.append(told)
            else:
                waiting[-1] = joined
            self._changed.notify()

    def forget(self, track: int) -> None:
        """Nothing more is told of a track."""
        with self._changed:
            self._waiting.pop(track, None)

    def take(self, until_seconds: float) -> TrackNews | None:
        """The next update; None when there is none until then, or `close` was called.

        `until_seconds` is by the monotonic clock.
        """
        with self._changed:
            while not (self._waiting or self.is_closed):
                left_seconds = until_seconds - time.monotonic()
                if left_seconds <= 0:
                    return None
                self._changed.wait(left_seconds)
            if not self._waiting:
                return None
            track = next(iter(self._waiting))
            waiting = self._waiting.pop(track)
            told = waiting.popleft()
            if waiting:
                # Behind the other tracks: each has its turn.
                self._waiting[track] = waiting
            return told

    def close(self) -> None:
        """Wake whoever takes; nothing is waited for any more."""
        with self._changed:
            self.is_closed = True
            self._changed.notify_all()


def _joined(older: TrackNews, newer: TrackNews) -> TrackNews | None:
    """Both in one, or None if that would hide something."""
    old, new = older.update, newer.update
    if old.is_drained or (old.speech is not None and new.speech is not None):
        return None
    return TrackNews(
        track=newer.track,
        update=replace(
            new,
            finals=old.finals + new.finals,
            interim=new.interim if new.interim is not None else _still_shown(old.interim, new),
            speech=new.speech if new.speech is not None else old.speech,
        ),
        skipped_samples=older.skipped_samples + newer.skipped_samples,
    )


def _still_shown(interim: Words | None, newer: TrackUpdate) -> Words | None:
    """An interim that was not told yet, unless its words have become final meanwhile."""
    if interim is None or any(final.segment >= interim.segment for final in newer.finals):
        return None
    return interim
