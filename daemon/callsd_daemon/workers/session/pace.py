# SPDX-License-Identifier: Apache-2.0
"""Limits how fast a worker's reports are read, so that one cannot starve the others."""

import asyncio
import time


class Pace:
    """Lets `rate` messages a second pass, and `burst` at once."""

    def __init__(self, *, rate: float, burst: float) -> None:
        self._seconds = 1 / rate
        self._burst_seconds = burst / rate
        self._due = time.monotonic() - self._burst_seconds
        """When the next message would be due, if they came evenly."""

    async def wait(self, count: int = 1) -> None:
        """Wait until one more may pass, or one that counts for so many."""
        now = time.monotonic()
        self._due = max(self._due, now - self._burst_seconds) + count * self._seconds
        if self._due > now:
            await asyncio.sleep(self._due - now)
