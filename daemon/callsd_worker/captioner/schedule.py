# SPDX-License-Identifier: Apache-2.0
"""Which track gets the next pass, over all calls: final words first, then the oldest voice."""

from collections.abc import Hashable
from typing import Generic, TypeVar

from callsd_worker.captioner.track import Track


Key = TypeVar("Key", bound=Hashable)

LARGEST_BATCH = 2
"""Windows that are recognised together. They share one run over the decoder's weights."""

LONGEST_WAIT_SECONDS = 0.5
"""Stalled audio is noticed at least this often."""


class Schedule(Generic[Key]):
    """All tracks that one captioner serves. The caller holds a lock."""

    def __init__(self) -> None:
        self._tracks: dict[Key, Track] = {}

    def add(self, key: Key, track: Track) -> None:
        self._tracks[key] = track

    def remove(self, key: Key) -> None:
        """Remove a track. A pass of it that is under way may still be settled."""
        self._tracks.pop(key, None)

    def next(self, now_seconds: float) -> tuple[tuple[Key, Track], ...]:
        """Tracks whose passes are to be made now, together: at most `LARGEST_BATCH`."""
        ready = []
        for key, track in self._tracks.items():
            track.notice_stall(now_seconds)
            due = track.due()
            if due is not None and due.ready_seconds <= now_seconds:
                ready.append(((not due.is_final, due.deadline_seconds), key, track))
        ready.sort(key=lambda item: item[0])
        return tuple((key, track) for _, key, track in ready[:LARGEST_BATCH])

    def wait_seconds(self, now_seconds: float) -> float:
        """How long until a pass is due, if no more audio comes."""
        dues = (track.due() for track in self._tracks.values())
        earliest = min((due.ready_seconds for due in dues if due is not None), default=None)
        if earliest is None:
            return LONGEST_WAIT_SECONDS
        return min(max(earliest - now_seconds, 0.0), LONGEST_WAIT_SECONDS)

    def lag_seconds(self, now_seconds: float) -> float:
        """Age of the oldest voice that is not in words yet."""
        since = [
            at
            for at in (track.unrecognised_since_seconds for track in self._tracks.values())
            if at is not None
        ]
        return now_seconds - min(since) if since else 0.0
