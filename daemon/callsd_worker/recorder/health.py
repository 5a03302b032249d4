# SPDX-License-Identifier: Apache-2.0
"""How a recording is: whether its picture moves, whether anything is heard, how far it is.

Told by the encoder's threads, read by the one that reports.
"""

import math
import threading
import time
from array import array
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from callsd_worker.recorder.encoder import LEVEL_RATE_HZ, Written


STILL_SECONDS = 10.0
RATE_SECONDS = 5.0
"""Over how long the rate of changes is taken."""

BLANK_CONTRAST = 8
"""Of 255: a picture in which no two pixels differ by more shows nothing."""

LEVEL_BLOCKS = 20
"""Blocks of sound in the second whose loudness is told."""

LEVEL_STEP = 3
"""Of so many samples one is looked at: loudness needs no more."""

DRIFT_WEIGHT = 0.01
"""Of the newest block in the average: about five seconds' worth."""

DRIFT_SETTLE_SECONDS = 10.0
"""After this the average is what others are compared with."""

SILENCE_DB = -120.0
FULL_SCALE = 32_768.0


class Picture(StrEnum):
    """What the picture looks like."""

    UNKNOWN = ""
    MOVING = "moving"
    STILL = "still"
    BLANK = "blank"


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """One look at a recording. Levels in dB below full scale."""

    frame_count: int
    changed_frame_rate: float
    audio_level_db: float
    picture: Picture
    still_seconds: float
    drift_ms: float
    """How far sound has moved ahead of the picture since the piece began."""
    recorded_seconds: float
    size_bytes: int


class Monitor:
    """Keeps what is known of the piece that is being recorded, and the sums of those before."""

    def __init__(self, fps: int) -> None:
        self._fps = fps
        self._lock = threading.Lock()
        self._before = Written()
        self._now = Written()
        self._picture = b""
        self._changes: deque[float] = deque()
        self._changed_at = time.monotonic()
        self._levels: deque[float] = deque(maxlen=LEVEL_BLOCKS)
        self._drift = _Drift(fps)

    def begin_piece(self) -> None:
        """A new piece is recorded from here on."""
        with self._lock:
            self._before = _sum(self._before, self._now)
            self._now = Written()
            self._picture = b""
            self._changes.clear()
            self._changed_at = time.monotonic()
            self._levels.clear()
            self._drift = _Drift(self._fps)

    def take_written(self, written: Written) -> None:
        """The encoder says how far it is."""
        with self._lock:
            self._now = written

    def take_picture(self, picture: bytes) -> None:
        """One recorded picture, in grey pixels."""
        now = time.monotonic()
        with self._lock:
            self._drift.pictures += 1
            if picture == self._picture:
                return
            is_first = not self._picture
            self._picture = picture
            if not is_first:
                self._changes.append(now)
                self._changed_at = now
                self._forget(now)

    def take_sound(self, sound: bytes) -> None:
        """A twentieth of a second of recorded sound, s16le."""
        samples = array("h", sound)[::LEVEL_STEP]
        power = sum(sample * sample for sample in samples) / len(samples)
        with self._lock:
            self._levels.append(power)
            self._drift.take_sound(len(sound) / 2 / LEVEL_RATE_HZ)

    def look(self) -> Health:
        """How things are now."""
        now = time.monotonic()
        with self._lock:
            self._forget(now)
            total = _sum(self._before, self._now)
            still = now - self._changed_at if self._picture else 0.0
            return Health(
                frame_count=total.frames,
                changed_frame_rate=len(self._changes) / RATE_SECONDS,
                audio_level_db=_level_db(self._levels),
                picture=self._state(still),
                still_seconds=still,
                drift_ms=self._drift.milliseconds,
                recorded_seconds=total.seconds,
                size_bytes=total.size_bytes,
            )

    def _state(self, still_seconds: float) -> Picture:
        if not self._picture:
            return Picture.UNKNOWN
        if max(self._picture) - min(self._picture) <= BLANK_CONTRAST:
            return Picture.BLANK
        return Picture.STILL if still_seconds > STILL_SECONDS else Picture.MOVING

    def _forget(self, now: float) -> None:
        while self._changes and self._changes[0] < now - RATE_SECONDS:
            self._changes.popleft()


class _Drift:
    """Compares how much sound and how many pictures were recorded."""

    def __init__(self, fps: int) -> None:
        self.pictures = 0
        self._fps = fps
        self._sound_seconds = 0.0
        self._ahead_seconds: float | None = None
        self._first_seconds: float | None = None

    def take_sound(self, seconds: float) -> None:
        self._sound_seconds += seconds
        if not self.pictures:
            return  # There is no picture to compare with (yet).
        ahead = self._sound_seconds - self.pictures / self._fps
        # Both arrive in pieces: what counts is where they are on the average.
        if self._ahead_seconds is None:
            self._ahead_seconds = ahead
        self._ahead_seconds += DRIFT_WEIGHT * (ahead - self._ahead_seconds)
        if self._first_seconds is None and self._sound_seconds > DRIFT_SETTLE_SECONDS:
            self._first_seconds = self._ahead_seconds

    @property
    def milliseconds(self) -> float:
        if self._first_seconds is None or self._ahead_seconds is None:
            return 0.0
        return (self._ahead_seconds - self._first_seconds) * 1000


def _level_db(powers: Iterable[float]) -> float:
    blocks = list(powers)
    power = sum(blocks) / len(blocks) if blocks else 0.0
    return max(10 * math.log10(power / FULL_SCALE**2), SILENCE_DB) if power else SILENCE_DB


def _sum(one: Written, other: Written) -> Written:
    return Written(
        frames=one.frames + other.frames,
        seconds=one.seconds + other.seconds,
        size_bytes=one.size_bytes + other.size_bytes,
    )
