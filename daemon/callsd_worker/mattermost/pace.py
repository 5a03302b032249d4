# SPDX-License-Identifier: Apache-2.0
"""How many captions may be sent now: the plugin drops what is too much without a word."""

import time


RATE_PER_SECOND = 8.0
"""The plugin takes 10; signalling needs some."""

BURST = 40.0
"""The plugin takes 100 at once."""


class Pace:
    """A bucket of permissions that refills."""

    def __init__(self) -> None:
        self._left = BURST
        self._filled_seconds = time.monotonic()

    def may_send(self) -> bool:
        """Take a permission, if there is one."""
        now_seconds = time.monotonic()
        gained = (now_seconds - self._filled_seconds) * RATE_PER_SECOND
        self._left = min(self._left + gained, BURST)
        self._filled_seconds = now_seconds
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
