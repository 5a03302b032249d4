# SPDX-License-Identifier: Apache-2.0
"""Where sound belongs by the clock of its file, which may be wrong."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples


GAP_TOLERANCE_SECONDS = 0.06
"""Clock steps up to three Opus packets are jitter of the container, longer ones are leaps."""

DOUBT_SECONDS = 35.0
"""A leap that is not taken back within so much sound is true. Browsers and FFmpeg give a time to
each cluster of a file, and a cluster has up to 33 s."""

MAX_LATE_SECONDS = 600.0
"""How far from the beginning of a file its sound may begin, whatever its clock may leap later."""

MAX_LEAPS_IN_DOUBT = 100
"""Of more at once the first is true: each new leap is held against all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Consecutive samples with what the file's clock says of them."""

    samples: Samples
    leap_seconds: float
    """By how much the clock leaps before them; 0.0 = they follow those before."""
    end_seconds: float
    """The clock at their end."""


@dataclass(slots=True, kw_only=True)
class _Stretch:
    """Sound behind a leap that is in doubt."""

    leap_seconds: float
    is_taken_back: bool = False
    runs: list[Run] = field(default_factory=list)


class Places:
    """Gives runs their places.

    A leap forwards is a hole: nothing was sent. A leap that a later one takes back was a wrong
    timestamp; there may be holes in between. What cannot be a hole, a leap backwards or one that
    is too far, is where another recording goes on: it comes right behind.
    """

    def __init__(self, *, max_hole_seconds: float) -> None:
        self.position_samples = 0
        """End of what has a place."""
        self.breaks_seconds: list[float] = []
        """Where other recordings go on."""
        self._max_hole_seconds = max_hole_seconds
        self._held: list[_Stretch] = []
        """What has no place before it is certain that the first of the leaps is true."""
        self._held_samples = 0
        self._shift_seconds = 0.0
        """What is added to the file's clock: the leaps that were none."""
        self._drift_positions = [0]
        self._drifts_seconds = [0.0]
        """What the clock was ahead of these positions."""

    def place(self, run: Run) -> Iterator[tuple[int, Samples]]:
        """Yield what has a place now: position and samples."""
        if run.leap_seconds:
            self._held.append(_Stretch(leap_seconds=run.leap_seconds))
            self._take_back()
        if self._held:
            self._held[-1].runs.append(run)
            self._held_samples += run.samples.size
        else:
            yield self._put(run)
        while self._held and self._is_first_certain:
            yield from self._release()

    def settle(self) -> Iterator[tuple[int, Samples]]:
        """Believe the leaps that were not taken back; yield what was held because of them."""
        while self._held:
            yield from self._release()

    def clock_seconds(self, sound_seconds: float) -> float:
        """When something in the sound is by the file's clock, which may be slower or faster."""
        at = sound_seconds * SAMPLE_RATE_HZ
        after = max(1, bisect_right(self._drift_positions, at))
        drift_seconds = self._drifts_seconds[after - 1]
        if after < len(self._drift_positions):
            start, end = self._drift_positions[after - 1 : after + 1]
            share = (at - start) / (end - start)
            drift_seconds += share * (self._drifts_seconds[after] - drift_seconds)
        return max(0.0, sound_seconds + drift_seconds)

    @property
    def _is_first_certain(self) -> bool:
        return (
            self._held[0].is_taken_back
            or self._held_samples > DOUBT_SECONDS * SAMPLE_RATE_HZ
            or len(self._held) > MAX_LEAPS_IN_DOUBT
        )

    def _take_back(self) -> None:
        """Find what the last leap takes back: one leap, or else all from one on."""
        *before, last = (stretch for stretch in self._held if not stretch.is_taken_back)
        for stretch in reversed(before):
            if abs(stretch.leap_seconds + last.leap_seconds) <= GAP_TOLERANCE_SECONDS:
                stretch.is_taken_back = last.is_taken_back = True
                return
        sum_seconds = last.leap_seconds
        for at in reversed(range(len(before))):
            sum_seconds += before[at].leap_seconds
            if abs(sum_seconds) <= GAP_TOLERANCE_SECONDS:
                for stretch in (*before[at:], last):
                    stretch.is_taken_back = True
                return

    def _release(self) -> Iterator[tuple[int, Samples]]:
        """Give the first of what is held its place."""
        stretch = self._held.pop(0)
        leap_seconds = stretch.leap_seconds
        longest = self._max_hole_seconds
        if not self.position_samples:
            longest = max(longest, MAX_LATE_SECONDS)
        if not stretch.is_taken_back and 0.0 < leap_seconds <= longest:
            self.position_samples += round(leap_seconds * SAMPLE_RATE_HZ)
        else:
            self._shift_seconds -= leap_seconds
            if not stretch.is_taken_back:
                self.breaks_seconds.append(self.position_samples / SAMPLE_RATE_HZ)
        for run in stretch.runs:
            self._held_samples -= run.samples.size
            yield self._put(run)

    def _put(self, run: Run) -> tuple[int, Samples]:
        start = self.position_samples
        self.position_samples += run.samples.size
        drift_seconds = (
            run.end_seconds + self._shift_seconds - self.position_samples / SAMPLE_RATE_HZ
        )
        if abs(drift_seconds - self._drifts_seconds[-1]) > GAP_TOLERANCE_SECONDS:
            # The first point keeps the change from being spread over what was right before.
            self._drift_positions += (start, self.position_samples)
            self._drifts_seconds += (self._drifts_seconds[-1], drift_seconds)
        return start, run.samples
