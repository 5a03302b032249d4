# SPDX-License-Identifier: Apache-2.0
"""Whether the daemon can do work, found out by having it do some."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping

import structlog

from callsd_daemon import notify


log = structlog.get_logger(__name__)

LOOK_SECONDS = 5.0
"""How often it is looked at where no watchdog wants to know more often."""

PATIENCE_SECONDS = 10.0
"""Who does not get one small thing done in so long stands still."""


class Liveness:
    """Asks every part of the daemon that requests wait for to do one small thing.

    As long as all of them take it, the watchdog is told so and health is SERVING. Else health says
    NOT_SERVING, and when it lasts, the watchdog ends the daemon.
    """

    def __init__(
        self,
        parts: Mapping[str, Callable[[], Awaitable[object]]],
        tell: Callable[[bool], Awaitable[None]],
    ) -> None:
        """`parts` have a turn by being awaited; `tell` is told when it gets worse or better."""
        self._parts = parts
        self._tell = tell
        self._seconds = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6 / 3 or LOOK_SECONDS

    async def run(self) -> None:
        """For as long as the daemon serves, three times as often as the watchdog wants to know."""
        was_well = True
        while True:
            stuck = await self.stuck()
            if not stuck:
                notify.notify(notify.ALIVE)
            elif was_well:
                log.error("standing_still", parts=stuck)
            if (not stuck) != was_well:
                was_well = not stuck
                await self._tell(was_well)
            await asyncio.sleep(self._seconds)

    async def stuck(self) -> list[str]:
        """Names of the parts that do not take a turn in time."""
        tasks = {asyncio.ensure_future(turn()): name for name, turn in self._parts.items()}
        _, waiting = await asyncio.wait(tasks, timeout=PATIENCE_SECONDS)
        for task in waiting:
            task.cancel()
        # A turn that was refused was one: who answers does not stand still.
        await asyncio.gather(*tasks, return_exceptions=True)
        return sorted(tasks[task] for task in waiting)
