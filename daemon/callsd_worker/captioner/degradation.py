# SPDX-License-Identifier: Apache-2.0
"""How captions get worse in steps when they fall behind, and better again."""

from enum import IntEnum


HIGH_LAG_SECONDS = 2.0
"""Captions later than this are late for a reader …"""
HIGH_FOR_SECONDS = 3.0
"""… and late for so long is no short peak."""

LOW_LAG_SECONDS = 1.2
LOW_FOR_SECONDS = 10.0
"""Well below the high lag, and for long: a step that is undone too early is soon taken again."""


class Step(IntEnum):
    """From best to worst."""

    NONE = 0
    CADENCE = 1
    SMALLER_MODEL = 2


_TEXTS = {
    Step.NONE: "",
    Step.CADENCE: "captions come less often than usual: the server is busy",
    Step.SMALLER_MODEL: "captions are less exact until their sentence ends: the server is busy",
}


class Degradation:
    """Follows the lag; the time is a parameter."""

    def __init__(self, *, has_smaller_model: bool) -> None:
        self._last = Step.SMALLER_MODEL if has_smaller_model else Step.CADENCE
        self.step = Step.NONE
        self._high_since_seconds: float | None = None
        self._low_since_seconds: float | None = None

    @property
    def text(self) -> str:
        """How captions are worse than usual, for a person; empty = they are not."""
        return _TEXTS[self.step]

    def observe(self, lag_seconds: float, now_seconds: float) -> Step:
        """Take the current lag, several times a second; returns the step to use."""
        if lag_seconds >= HIGH_LAG_SECONDS:
            self._low_since_seconds = None
            if self._high_since_seconds is None:
                self._high_since_seconds = now_seconds
            elif now_seconds - self._high_since_seconds >= HIGH_FOR_SECONDS:
                self._go_to(min(self.step + 1, self._last))
        elif lag_seconds <= LOW_LAG_SECONDS:
            self._high_since_seconds = None
            if self._low_since_seconds is None:
                self._low_since_seconds = now_seconds
            elif now_seconds - self._low_since_seconds >= LOW_FOR_SECONDS:
                self._go_to(max(self.step - 1, Step.NONE))
        else:
            self._high_since_seconds = None
            self._low_since_seconds = None
        return self.step

    def _go_to(self, step: int) -> None:
        # Each step gets time to show an effect before the next.
        self.step = Step(step)
        self._high_since_seconds = None
        self._low_since_seconds = None
