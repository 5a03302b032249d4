# SPDX-License-Identifier: Apache-2.0
"""Updates on their way to the daemon. Waiting updates of a track are merged, so they never pile up.

Kept of each track: the newest interim, all finals, and every change between speech and silence.
"""

import threading
import time
from collections import deque
from dataclasses import dataclass, replace

from callsd_worker.captioner.words import TrackUpdate, Words


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingUpdate:
    """An update of a track as it is sent."""

    track: int
    update: TrackUpdate
    skipped_samples: int
    """Audio that never came or could not be decoded, since the update before."""


class Outbox:
    """Filled by any thread, emptied by one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # Tracks in the order of their oldest updates.
        self._waiting: dict[int, deque[OutgoingUpdate]] = {}
        self.is_closed = False

    def put(self, update: OutgoingUpdate) -> None:
        """Queue an update, or merge it into one that waits; never blocks."""
        with self._changed:
            waiting = self._waiting.setdefault(update.track, deque())
            joined = _joined(waiting[-1], update) if waiting else None
            if joined is None:
                waiting.append(update)
            else:
                waiting[-1] = joined
            self._changed.notify()

    def forget(self, track: int) -> None:
        """Drop what waits of a track."""
        with self._changed:
            self._waiting.pop(track, None)

    def take(self, until_seconds: float) -> OutgoingUpdate | None:
        """Wait for the next update; None after `until_seconds` (monotonic), or after `close`."""
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
            update = waiting.popleft()
            if waiting:
                # Behind the other tracks: each has its turn.
                self._waiting[track] = waiting
            return update

    def close(self) -> None:
        """Wake the thread in `take`; it waits no more."""
        with self._changed:
            self.is_closed = True
            self._changed.notify_all()


def _joined(older: OutgoingUpdate, newer: OutgoingUpdate) -> OutgoingUpdate | None:
    """Both merged into one, or None if that would hide a change."""
    old, new = older.update, newer.update
    if old.is_drained or (old.speech is not None and new.speech is not None):
        return None
    return OutgoingUpdate(
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
    """An interim that was not sent yet, unless its words have become final meanwhile."""
    if interim is None or any(final.segment >= interim.segment for final in newer.finals):
        return None
    return interim
