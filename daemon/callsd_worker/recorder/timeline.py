# SPDX-License-Identifier: Apache-2.0
"""Where sound belongs: between the clock, which pictures follow, and the count of its samples."""

from collections.abc import Iterator

from callsd_worker.recorder.sound import FRAME_BYTES, RATE_HZ


SOUND_SECONDS = 0.138
"""From what a page begins to play to where it is heard: what lies in the browser's and the sound
server's buffers. This and PICTURE_FRAMES fit some 80 recordings of the bench's pages, at 15 and 20
pictures a second."""

PICTURE_FRAMES = 2.0
"""From what a page paints to the first recorded picture that shows it: on the average half a frame
until the page is asked to paint, half a frame until the picture is grabbed, and between them next
to nothing, one frame or two, as the browser's stages fall in step when a page is opened."""

WEIGHT = 0.1
"""Of the newest block in the average distance: about a second's worth. Single blocks are some
milliseconds early or late."""

TOLERANCE_SECONDS = 0.1
"""Further than this sound is not let away from its picture."""


def lateness_seconds(frame_rate: float) -> float:
    """How much later than its picture sound is grabbed, on the average.

    A film, whose pictures the browser holds back by what it knows of that, is early by this.
    """
    return SOUND_SECONDS - PICTURE_FRAMES / frame_rate


class SoundTimeline:
    """Counts samples, as a player will, and corrects the count when it has lost the clock."""

    def __init__(self, *, frame_rate: float | None) -> None:
        """`frame_rate`: of the pictures that sound must be moved to; None = there are none."""
        self.drift_seconds = 0.0
        """How much more sound there is than time, on the average of late."""
        self._lateness_seconds = lateness_seconds(frame_rate) if frame_rate else 0.0
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
