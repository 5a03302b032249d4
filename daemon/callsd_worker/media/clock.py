# SPDX-License-Identifier: Apache-2.0
"""Where sound belongs by the clock of its file, which may be wrong."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples


GAP_TOLERANCE_SECONDS = 0.06
"""Clock steps up to three Opus packets are jitter of the container, longer ones are leaps."""

DOUBT_SECONDS = 35.0
"""A leap that is not taken back within so much sound is true. Browsers and FFmpeg give a time to
each cluster of a file, and a cluster has up to 33 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Consecutive samples with what the file's clock says of them."""

    samples: Samples
    leap_seconds: float
    """By how much the clock leaps before them; 0.0 = they follow those before."""
    end_seconds: float
    """The clock at their end."""


class Places:
    """Gives runs their places.

    A leap forwards is a hole: nothing was sent. A leap that the next one takes back was a wrong
    timestamp. What cannot be a hole, a leap backwards or one that is too far, is where another
    recording goes on: it comes right behind.
    """

    def __init__(self, *, max_hole_seconds: float) -> None:
        self.position_samples = 0
        """End of what has a place."""
        self.breaks_seconds: list[float] = []
        """Where other recordings go on."""
        self._max_hole_seconds = max_hole_seconds
        self._leap_seconds = 0.0
        """The last leap, as long as it may be taken back."""
        self._samples_since = 0
        self._held: list[Run] = []
        """What has no place before a hole is certain."""
        self._shift_seconds = 0.0
        """What is added to the file's clock: the leaps that were none."""
        self._drift: list[tuple[int, float]] = [(0, 0.0)]
        """Positions, and what the clock was ahead of them there."""

    def place(self, run: Run) -> Iterator[tuple[int, Samples]]:
        """Yield what has a place now: position and samples."""
        if run.leap_seconds:
            yield from self._leap(run.leap_seconds)
        if self._is_hole:
            self._held.append(run)
        else:
            yield self._put(run)
        if self._leap_seconds:
            self._samples_since += run.samples.size
            if self._samples_since > DOUBT_SECONDS * SAMPLE_RATE_HZ:
                yield from self.settle()

    def settle(self) -> Iterator[tuple[int, Samples]]:
        """Believe the last leap; yield what was held because of it."""
        if self._is_hole:
            self.position_samples += round(self._leap_seconds * SAMPLE_RATE_HZ)
        elif self._leap_seconds:
            since = self.position_samples - self._samples_since
            self.breaks_seconds.append(since / SAMPLE_RATE_HZ)
        yield from self._release()

    def clock_seconds(self, sound_seconds: float) -> float:
        """When something in the sound is by the file's clock, which may be slower or faster."""
        positions, drifts = zip(*self._drift, strict=True)
        drift_seconds = np.interp(sound_seconds * SAMPLE_RATE_HZ, positions, drifts)
        return max(0.0, sound_seconds + float(drift_seconds))

    @property
    def _is_hole(self) -> bool:
        return 0.0 < self._leap_seconds <= self._max_hole_seconds

    def _leap(self, leap_seconds: float) -> Iterator[tuple[int, Samples]]:
        if self._leap_seconds and abs(self._leap_seconds + leap_seconds) <= GAP_TOLERANCE_SECONDS:
            if self._is_hole:
                self._shift_seconds -= self._leap_seconds
            yield from self._release()
            self._shift_seconds -= leap_seconds
            return
        yield from self.settle()
        self._leap_seconds = leap_seconds
        if not self._is_hole:
            self._shift_seconds -= leap_seconds

    def _release(self) -> Iterator[tuple[int, Samples]]:
        held, self._held = self._held, []
        self._leap_seconds, self._samples_since = 0.0, 0
        for run in held:
            yield self._put(run)

    def _put(self, run: Run) -> tuple[int, Samples]:
        start = self.position_samples
        self.position_samples += run.samples.size
        drift_seconds = (
            run.end_seconds + self._shift_seconds - self.position_samples / SAMPLE_RATE_HZ
        )
        if abs(drift_seconds - self._drift[-1][1]) > GAP_TOLERANCE_SECONDS:
            self._drift.append((self.position_samples, drift_seconds))
        return start, run.samples
