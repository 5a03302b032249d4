# SPDX-License-Identifier: Apache-2.0
"""Where sound belongs: between the clock, which pictures follow, and the count of its samples."""

from collections.abc import Iterator

from callsd_worker.recorder.sound import FRAME_BYTES, RATE_HZ


LATENESS_SECONDS = 0.048
"""How much later than its picture sound is grabbed: the middle of what was measured with what a
page begins to play at once (-25 to 120 ms; another one each time the browser opens its sound).
A film, whose pictures the browser holds back by what it knows of that, is early by this."""

WEIGHT = 0.1
"""Of the newest block in the average distance: about a second's worth. Single blocks are some
milliseconds early or late."""

TOLERANCE_SECONDS = 0.1
"""Further than this sound is not let away from its picture."""


class SoundTimeline:
    """Counts samples, as a player will, and corrects the count when it has lost the clock."""

    def __init__(self, *, is_earlier: bool) -> None:
        """`is_earlier`: there are pictures, which sound must be moved to."""
        self.drift_seconds = 0.0
        """How much more sound there is than time, on the average of late."""
        self._lateness_seconds = LATENESS_SECONDS if is_earlier else 0.0
        self._position: int | None = None

    def place(self, samples: bytes, at_seconds: float) -> Iterator[tuple[bytes, int]]:
        """Give each piece of sound its place, in samples after the beginning.

        `at_seconds` is when the first of `samples` was played. What was lost is given as silence;
        what is too much is left out.
        """
        due = round((at_seconds - self._lateness_seconds) * RATE_HZ)
        if self._position is None:
            if due < 0:
                return
            self._position = due
        ahead_seconds = (self._position - due) / RATE_HZ
        self.drift_seconds += WEIGHT * (ahead_seconds - self.drift_seconds)
        if self.drift_seconds > TOLERANCE_SECONDS:
            self.drift_seconds -= len(samples) / FRAME_BYTES / RATE_HZ
            return
        if self.drift_seconds < -TOLERANCE_SECONDS:
            missing = round(-self.drift_seconds * RATE_HZ)
            self.drift_seconds = 0.0
            yield bytes(missing * FRAME_BYTES), self._position
            self._position += missing
        yield samples, self._position
        self._position += len(samples) // FRAME_BYTES
