# SPDX-License-Identifier: Apache-2.0
"""The health of a recording: whether its picture moves, how loud it is, how long it is.

`Gauges` measure one piece in its process; `Tally` adds up the pieces in the recorder.
"""

import math
import threading
import time
from array import array
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum


STILL_SECONDS = 10.0
RATE_SECONDS = 5.0
"""Time over which the rate of changes is measured."""

BLANK_CONTRAST = 8
"""Out of 255: a picture whose pixels differ by no more than this counts as blank."""

LEVEL_BLOCKS = 10
"""Loudness is that of so many blocks of sound: one second."""

LEVEL_STEP = 37
"""Loudness is measured on every 37th sample, which alternates between the channels."""

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
    """One measurement. Levels in dB below full scale."""

    frame_count: int = 0
    changed_frame_rate: float = 0.0
    audio_level_db: float = SILENCE_DB
    picture: Picture = Picture.UNKNOWN
    still_seconds: float = 0.0
    drift_ms: float = 0.0
    """How much more sound there is than time, before correction."""
    recorded_seconds: float = 0.0
    size_bytes: int = 0

    def after(self, before: "Health") -> "Health":
        """This measurement with the sums of earlier pieces added."""
        return replace(
            self,
            frame_count=before.frame_count + self.frame_count,
            recorded_seconds=before.recorded_seconds + self.recorded_seconds,
            size_bytes=before.size_bytes + self.size_bytes,
        )


class Gauges:
    """Measures one piece. Capturing threads add, the reporting thread samples."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._picture = b""
        self._changes: deque[float] = deque()
        self._changed_at = time.monotonic()
        self._levels: deque[float] = deque(maxlen=LEVEL_BLOCKS)

    def add_picture(self, picture: bytes) -> None:
        """Take one captured picture, as grey pixels."""
        now = time.monotonic()
        with self._lock:
            if picture == self._picture:
                return
            is_first = not self._picture
            self._picture = picture
            if not is_first:
                self._changes.append(now)
                self._changed_at = now
                self._forget(now)

    def add_sound(self, sound: bytes) -> None:
        """Take a tenth of a second of sound, s16le."""
        samples = array("h", sound)[::LEVEL_STEP]
        power = sum(sample * sample for sample in samples) / len(samples)
        with self._lock:
            self._levels.append(power)

    def sample(self) -> Health:
        """The current health, without frame count, length and size, which the writer knows."""
        now = time.monotonic()
        with self._lock:
            self._forget(now)
            still = now - self._changed_at if self._picture else 0.0
            return Health(
                changed_frame_rate=len(self._changes) / RATE_SECONDS,
                audio_level_db=_level_db(self._levels),
                picture=self._state(still),
                still_seconds=still,
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


class Tally:
    """The newest health of the current piece, with the sums of the pieces before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._before = self._total = Health()

    def begin_piece(self) -> None:
        """Start a new piece."""
        with self._lock:
            self._before = self._total = Health().after(self._total)

    def take(self, health: Health) -> None:
        """Take the newest measurement of the piece."""
        with self._lock:
            self._total = health.after(self._before)

    def health(self) -> Health:
        """The current health of the whole recording."""
        with self._lock:
            return self._total


def _level_db(powers: Iterable[float]) -> float:
    blocks = list(powers)
    power = sum(blocks) / len(blocks) if blocks else 0.0
    return max(10 * math.log10(power / FULL_SCALE**2), SILENCE_DB) if power else SILENCE_DB
