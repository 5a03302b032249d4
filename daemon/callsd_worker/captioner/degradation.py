# SPDX-License-Identifier: Apache-2.0
"""What is done without, step by step, when captions fall behind; and back again."""

from enum import IntEnum


HIGH_LAG_SECONDS = 2.0
"""Captions later than this are late for a reader …"""
HIGH_FOR_SECONDS = 3.0
"""… and for so long it is no hiccup."""

LOW_LAG_SECONDS = 1.2
LOW_FOR_SECONDS = 10.0
"""Well below, and for long: a step that is taken back too early is taken again."""


class Step(IntEnum):
    """From nothing to most."""

    NONE = 0
    CADENCE = 1
    SMALLER_MODEL = 2


_TEXTS = {
    Step.NONE: "",
    Step.CADENCE: "captions come less often than usual: the server is busy",
    Step.SMALLER_MODEL: "captions are less exact until their sentence ends: the server is busy",
}


class Degradation:
    """Follows the lag; told the time."""

    def __init__(self, *, has_smaller_model: bool) -> None:
        self._last = Step.SMALLER_MODEL if has_smaller_model else Step.CADENCE
        self.step = Step.NONE
        self._high_since_seconds: float | None = None
        self._low_since_seconds: float | None = None

    @property
    def text(self) -> str:
        """What is being done without, for a person; empty = nothing."""
        return _TEXTS[self.step]

    def observe(self, lag_seconds: float, now_seconds: float) -> Step:
        """Take the lag as it is now, several times a second; returns the step that holds."""
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
        # Each step is given its time to work before the next.
        self.step = Step(step)
        self._high_since_seconds = None
        self._low_since_seconds = None
