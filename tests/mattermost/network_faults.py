# SPDX-License-Identifier: Apache-2.0
"""Faults of the network, and of the process of the plugin.

Each returns as soon as it has begun, and ends by itself.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.mattermost.state import Call


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """What the server lets be done to it."""

    websockets: Callable[[bool], None]
    """Cut them and refuse new ones (True), or let them through again (False)."""
    udp: Callable[[bool], None]
    plugin: Callable[[bool], Awaitable[None]]
    sessions: Callable[[Call], Awaitable[None]]


class NetworkFaults:
    """The server's are in `server.faults.network`."""

    def __init__(self, switches: Switches) -> None:
        self._switches = switches
        self._tasks: dict[asyncio.Task[None], Callable[[], Awaitable[None]]] = {}
        """What waits for the end of a fault, and what ends it."""

    async def cut_websockets(self, seconds: float) -> None:
        """Cut all websockets, and refuse new ones for so long."""
        self._switches.websockets(True)  # noqa: FBT003

        async def mend() -> None:
            self._switches.websockets(False)  # noqa: FBT003

        self._later(seconds, mend)

    async def drop_udp(self, seconds: float) -> None:
        """Lose all media and its keep-alives, both ways, for so long."""
        self._switches.udp(True)  # noqa: FBT003

        async def mend() -> None:
            self._switches.udp(False)  # noqa: FBT003

        self._later(seconds, mend)

    async def crash_plugin(self, seconds: float) -> None:
        """Kill the plugin; it is back after so long, and knows of no call.

        Websockets stay open, and there is no event of any kind; media stop, and the plugin's routes
        answer 500 meanwhile.
        """
        await self._switches.plugin(True)  # noqa: FBT003
        self._later(seconds, lambda: self._switches.plugin(False))  # noqa: FBT003

    async def lose_sessions(self, call: Call) -> None:
        """Close the media of the bots in a call; they are not told by an event."""
        await self._switches.sessions(call)

    async def mend(self) -> None:
        """End now what would end by itself later."""
        endings = list(self._tasks.values())
        await self.close()
        for end in endings:
            await end()

    async def close(self) -> None:
        """Wait for nothing any more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _later(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            await work()

        task = asyncio.create_task(wait())
        self._tasks[task] = work
        task.add_done_callback(lambda task: self._tasks.pop(task, None))
