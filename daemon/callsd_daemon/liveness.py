# SPDX-License-Identifier: Apache-2.0
"""Checks whether the daemon gets work done, by small tasks for each of its parts."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping

import structlog

from callsd_daemon import notify


log = structlog.get_logger(__name__)

CHECK_SECONDS = 5.0
"""How often parts are checked, unless the watchdog needs it more often."""

PATIENCE_SECONDS = 10.0
"""A part that has not completed a small task in so long is stuck."""


class Liveness:
    """Has every part of the daemon that requests depend on do a small task.

    While all of them complete it, the watchdog is pinged and health is SERVING. Otherwise health
    says NOT_SERVING, and if that lasts, the watchdog kills the daemon. One that cannot be used, but
    would be no better after another start, says NOT_SERVING and goes on.
    """

    def __init__(
        self,
        parts: Mapping[str, Callable[[], Awaitable[object]]],
        tell: Callable[[bool], Awaitable[None]],
        *,
        is_usable: Callable[[], bool],
    ) -> None:
        """Awaiting one of `parts` does its task; `tell` is called when health changes."""
        self._parts = parts
        self._tell = tell
        self._is_usable = is_usable
        self._seconds = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6 / 3 or CHECK_SECONDS

    async def run(self) -> None:
        """Check until cancelled, at least three times in the watchdog's interval."""
        was_well, was_stuck = True, False
        while True:
            stuck = await self.stuck()
            if not stuck:
                notify.notify(notify.ALIVE)
            elif not was_stuck:
                log.error("standing_still", parts=stuck)
            was_stuck = bool(stuck)
            is_well = not stuck and self._is_usable()
            if is_well != was_well:
                was_well = is_well
                await self._tell(is_well)
            await asyncio.sleep(self._seconds)

    async def stuck(self) -> list[str]:
        """Names of the parts that do not complete their task in time."""
        tasks = {asyncio.ensure_future(turn()): name for name, turn in self._parts.items()}
        _, waiting = await asyncio.wait(tasks, timeout=PATIENCE_SECONDS)
        for task in waiting:
            task.cancel()
        # An error is an answer, too: the part is not stuck.
        await asyncio.gather(*tasks, return_exceptions=True)
        return sorted(tasks[task] for task in waiting)
