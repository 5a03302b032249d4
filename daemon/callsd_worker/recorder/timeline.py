# SPDX-License-Identifier: Apache-2.0
"""Places sound in time: pictures follow the clock, players follow the count of samples."""

from collections.abc import Iterator

from callsd_worker.recorder.sound import FRAME_BYTES, RATE_HZ


SOUND_SECONDS = 0.138
"""From the page's play command to the captured sound: the buffers of browser and sound server. This
and PICTURE_FRAMES were fitted to some 80 recordings of the bench's pages, at 15 and 20 pictures a
second."""

PICTURE_FRAMES = 2.0
"""From a change in the page to the first recorded picture with it: on average half a frame until
the browser paints, half a frame until the picture is captured, and between them up to two frames,
depending on how the browser's stages are in step since the page was opened."""

WEIGHT = 0.1
"""Weight of the newest block in the average drift, which covers about a second: single blocks are
some milliseconds early or late."""

TOLERANCE_SECONDS = 0.1
"""Drift of sound against the picture that is corrected."""


def lateness_seconds(frame_rate: float) -> float:
    """How much later than its picture sound is captured, on average.

    The sound of a video is early by this: its player already delays the pictures.
    """
    return SOUND_SECONDS - PICTURE_FRAMES / frame_rate


def delay_seconds(frame_rate: float | None) -> float:
    """How much later than in the page something is in a file, whose sound matches its pictures.

    `frame_rate`: of its pictures; None = there are none.
    """
    return PICTURE_FRAMES / frame_rate if frame_rate else SOUND_SECONDS


class SoundTimeline:
    """Counts samples, as a player will, and corrects the count when it drifts from the clock."""

    def __init__(self, *, frame_rate: float | None) -> None:
        """`frame_rate`: of the pictures that sound must match; None = no pictures."""
        self.drift_seconds = 0.0
        """How much more sound there is than time, a moving average."""
        self._lateness_seconds = lateness_seconds(frame_rate) if frame_rate else 0.0
        self._position: int | None = None

    def place(self, samples: bytes, at_seconds: float) -> Iterator[tuple[bytes, int]]:
        """Yield sound with its position, in samples from the beginning.

        `at_seconds` is when the first of `samples` was played. Missing sound is replaced by
        silence; surplus sound is dropped.
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
