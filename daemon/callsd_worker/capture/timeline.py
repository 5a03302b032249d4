# SPDX-License-Identifier: Apache-2.0
"""When each packet of a track was said: from sequence, timestamp and arrival to places in time.

Timestamps count the sender's samples exactly, but stand still while a microphone is off, and by a
clock that is a little too fast or slow. Arrival tells the time, but never earlier than it was, and
up to some 200 ms later. So within a spurt of talk timestamps decide, to the sample; where the spurt
begins is decided by the least delayed packets of its first seconds. This runs after the call: it
looks ahead.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from callsd_ipc.opus import OPUS_RATE_HZ
from callsd_worker.capture.call import SenderReport
from callsd_worker.capture.packet_log import Record
from callsd_worker.capture.packet_order import TIMESTAMPS, Sound, in_order, nearest


LOOK_AHEAD_SECONDS = 2.0
"""Of arrival. Of a hundred packets one has hardly been delayed."""
MAX_LOOK_AHEAD_PACKETS = 1000

STEP_SAMPLES = 120
"""2.5 ms, the shortest silence that Opus can say; holes are multiples of it."""

TOLERANCE_SECONDS = 0.03
"""A pause that differs less from what timestamps say is as they say: what arrival says is not more
exact after few packets."""

LATE_SECONDS = 0.1
"""When all packets from one on are later than this, without any sign of a pause, timestamps have
stood still."""
CERTAIN_SECONDS = 0.25
"""No packet that is so late was only delayed, if all that follow are late too."""
CERTAIN_ALONE_SECONDS = 0.5
PROOF_PACKETS = 10
"""With fewer to follow, a delay has to be this long to be believed."""

PAUSE_SAMPLES = OPUS_RATE_HZ // 5
"""A hole in timestamps that is long enough to correct the clock in it."""

DRIFT_SECONDS = 0.02
"""An error of the sender's clock that is corrected where it is quiet …"""
URGENT_DRIFT_SECONDS = 0.06
"""… and one that is corrected anyway."""
DRIFT_WINDOW_SECONDS = 30
"""A network that is slow for a shorter time is not taken for a clock."""
QUIET_SHARE = 0.6
"""Encoders need less for silence: packets that are smaller than this share of the average."""
_AVERAGE_WEIGHT = 0.002

MAX_AHEAD_SECONDS = 1.0
"""What would be placed so long after it came has false timestamps, and is left out."""

MAX_TRACK_SAMPLES = 48 * 3600 * OPUS_RATE_HZ
"""What comes later than this after the first sound is left out: nobody talks for so long."""

REPORT_DOUBT_SECONDS = 0.25
"""A report that is earlier than all packets by more comes from a clock that was set."""
MAX_REPORTS = 60
"""One comes in a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedPacket:
    """Sound at its place. Places never go back, and packets never overlap."""

    position: int
    """Where it begins, in samples at 48 kHz from the zero that was given."""
    samples: int
    payload: bytes


def place(records: Iterable[Record], *, zero_seconds: float) -> Iterator[PlacedPacket]:
    """Place what was captured of one track, in the order in which it was said.

    Memory does not grow with the length of the call. Nothing in the records makes this raise.
    """
    line = _Line(zero_seconds)
    for item in in_order(records):
        if isinstance(item, SenderReport):
            line.reports.append(item)
            continue
        line.ahead.append(item)
        while line.is_enough_ahead(item.arrival_seconds):
            yield from line.next()
    while line.ahead:
        yield from line.next()


class _Line:
    """Places one packet after the other, with those that follow in sight."""

    def __init__(self, zero_seconds: float) -> None:
        self.ahead: deque[Sound] = deque()
        self.reports: deque[SenderReport] = deque(maxlen=MAX_REPORTS)
        self._zero_seconds = zero_seconds
        self._anchor: int | None = None
        """Place = timestamp + anchor."""
        self._first: int | None = None
        self._end = 0
        """Of the last packet that was placed."""
        self._last: Sound | None = None
        self._minima: deque[float] = deque(maxlen=DRIFT_WINDOW_SECONDS)
        """Least delays of this spurt, one for each second."""
        self._second = 0
        self._drift_seconds = 0.0
        """To be corrected: > 0: sound is placed too early."""
        self._average_bytes = 0.0

    def is_enough_ahead(self, now_seconds: float) -> bool:
        if not self.ahead:
            return False
        waited = now_seconds - self.ahead[0].arrival_seconds
        return waited > LOOK_AHEAD_SECONDS or len(self.ahead) > MAX_LOOK_AHEAD_PACKETS

    def next(self) -> Iterator[PlacedPacket]:
        sound = self.ahead.popleft()
        if self._anchor is None or self._last is None or sound.is_restart:
            self._begin(sound)
        elif not self._has_begun(sound) and self._drops(sound):
            return
        self._last = sound
        assert self._anchor is not None
        position = sound.timestamp + self._anchor
        if self._first is None:
            self._first = self._end = position
        if position < self._end:
            if position + sound.samples <= self._end - sound.samples // 2:
                return  # what was said already
            self._anchor += self._end - position
            position = self._end
        arrival = (sound.arrival_seconds - self._zero_seconds) * OPUS_RATE_HZ
        is_false = (
            position - arrival > MAX_AHEAD_SECONDS * OPUS_RATE_HZ
            or position - self._first > MAX_TRACK_SAMPLES
        )
        if is_false:
            return
        self._end = position + sound.samples
        yield PlacedPacket(position=position, samples=sound.samples, payload=sound.payload)

    @property
    def _offset_seconds(self) -> float:
        """Unix time of timestamp 0, as sound is placed."""
        assert self._anchor is not None
        return self._anchor / OPUS_RATE_HZ + self._zero_seconds

    def _begin(self, sound: Sound) -> None:
        """A spurt that has nothing to do with the one before."""
        place = round((self._floor(sound) - self._zero_seconds) * OPUS_RATE_HZ)
        if self._first is not None:
            begin = max(sound.timestamp + place, self._end)
            begin += -(begin - self._first) % STEP_SAMPLES
            place = begin - sound.timestamp
        self._anchor = place
        self._forget(sound)

    def _has_begun(self, sound: Sound) -> bool:
        """Whether a new spurt begins with this packet; it has its place then."""
        assert self._anchor is not None
        hole = sound.timestamp + self._anchor - self._end
        late = _delay(sound) - self._offset_seconds
        if sound.is_after_padding or hole >= PAUSE_SAMPLES:
            shift = self._floor(sound) - self._offset_seconds
            if abs(shift) <= TOLERANCE_SECONDS:
                return False
        elif late > LATE_SECONDS and self._has_stood_still(sound, late):
            shift = self._floor(sound) - self._offset_seconds
        else:
            return False
        steps = round(shift * OPUS_RATE_HZ / STEP_SAMPLES)
        # A hole cannot become shorter than nothing.
        self._anchor += max(steps * STEP_SAMPLES, -max(hole, 0))
        self._forget(sound)
        return True

    def _has_stood_still(self, sound: Sound, late_seconds: float) -> bool:
        assert self._last is not None
        limit = self._offset_seconds + LATE_SECONDS
        if any(_delay(other) <= limit for other in self.ahead if not other.is_restart):
            return False
        if late_seconds > CERTAIN_ALONE_SECONDS:
            return True
        if len(self.ahead) < PROOF_PACKETS:
            return False
        if late_seconds > CERTAIN_SECONDS:
            return True
        # The last few before the pause may have been delayed: it is where padding says, or
        # where the step is largest.
        step = _delay(sound) - _delay(self._last)
        before = _delay(sound)
        for other in itertools.islice(self.ahead, PROOF_PACKETS):
            delay = _delay(other)
            if other.is_after_padding or delay - before > step:
                return False
            before = delay
        return True

    def _forget(self, sound: Sound) -> None:
        self._minima.clear()
        self._drift_seconds = 0.0
        self._second = sound.timestamp // OPUS_RATE_HZ

    def _floor(self, first: Sound) -> float:
        """Unix time of timestamp 0, by the least delayed of what follows."""
        floor = _delay(first)
        for sound in self.ahead:
            if sound.is_restart:
                break
            # Pauses to come only make it later.
            floor = min(floor, _delay(sound))
        if not self.reports:
            return floor
        # The server's clock at the time of a report, as seen from here.
        clock = min(report.arrival_seconds - report.ntp_seconds for report in self.reports)
        reported = floor
        for report in self.reports:
            sent = report.ntp_seconds + clock
            # Before that, the server counts on from the spurt before.
            if sent > first.arrival_seconds:
                timestamp = nearest(report.timestamp, first.timestamp, TIMESTAMPS)
                delay = sent - timestamp / OPUS_RATE_HZ
                if delay > floor - REPORT_DOUBT_SECONDS:
                    reported = min(reported, delay)
        return reported

    def _drops(self, sound: Sound) -> bool:
        """Correct the sender's clock in a long spurt; whether this packet is left out for that."""
        assert self._anchor is not None
        size = len(sound.payload)
        self._average_bytes += (size - (self._average_bytes or size)) * _AVERAGE_WEIGHT
        self._average_bytes = self._average_bytes or size
        self._observe(sound)
        drift = self._drift_seconds
        if not drift:
            return False
        is_quiet = size <= self._average_bytes * QUIET_SHARE
        if not is_quiet:
            if abs(drift) < URGENT_DRIFT_SECONDS:
                return False
            if any(len(other.payload) < size for other in self.ahead):
                return False
        if drift > 0:
            self._anchor += round(drift * OPUS_RATE_HZ / STEP_SAMPLES) * STEP_SAMPLES
            self._drift_seconds = 0.0
            return False
        seconds = sound.samples / OPUS_RATE_HZ
        if -drift < seconds / 2:
            self._drift_seconds = 0.0
            return False
        self._anchor -= sound.samples
        self._drift_seconds = min(drift + seconds, 0.0)
        self._last = sound
        return True

    def _observe(self, sound: Sound) -> None:
        """Once a second, see how far the sender's clock is off."""
        second = sound.timestamp // OPUS_RATE_HZ
        if second == self._second and self._minima:
            return
        self._second = second
        self._minima.append(self._floor(sound))
        drift = min(self._minima) - self._offset_seconds
        self._drift_seconds = drift if abs(drift) > DRIFT_SECONDS else 0.0


def _delay(sound: Sound) -> float:
    """Unix time of timestamp 0, if this packet had not been delayed."""
    return sound.arrival_seconds - sound.timestamp / OPUS_RATE_HZ
