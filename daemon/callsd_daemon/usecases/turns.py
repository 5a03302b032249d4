# SPDX-License-Identifier: Apache-2.0
"""Many who wait for the same thing go on a few at a time, and leave most of the time to others."""

import asyncio
import time
from collections import deque


AT_ONCE = 16
"""How many go on at once: some 2 ms of the event loop."""

REST = 4.0
"""How long others have the event loop to themselves, as a multiple of the processor time that those
took. It bounds what all of them cost, however many they are and however much happens."""


class Turns:
    """Belongs to one event loop. Nobody is forgotten: who waits longest goes first."""

    def __init__(self, *, idle_seconds: float) -> None:
        """Who waits for something new that does not come goes on after `idle_seconds`."""
        self._idle_seconds = idle_seconds
        self._idle: deque[tuple[float, asyncio.Future[None]]] = deque()
        """Who waits for something new, since when."""
        self._due: deque[asyncio.Future[None]] = deque()
        self._is_looked_after = self._is_under_way = False
        self._began = 0.0

    async def wait(self, *, is_due: bool) -> None:
        """Wait for a turn: at once if `is_due`, else when there is something new."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        if is_due:
            self._due.append(turn)
            self._go_on()
        else:
            self._idle.append((loop.time(), turn))
            self._look_after_idle()
        await turn

    def wake(self) -> None:
        """There is something new: all who wait for it get a turn."""
        self._due.extend(turn for _, turn in self._idle)
        self._idle.clear()
        self._go_on()

    def _look_after_idle(self) -> None:
        if self._idle and not self._is_looked_after:
            self._is_looked_after = True
            loop = asyncio.get_running_loop()
            loop.call_at(self._idle[0][0] + self._idle_seconds, self._end_idle)

    def _end_idle(self) -> None:
        self._is_looked_after = False
        longest = asyncio.get_running_loop().time() - self._idle_seconds
        while self._idle and self._idle[0][0] <= longest:
            self._due.append(self._idle.popleft()[1])
        self._look_after_idle()
        self._go_on()

    def _go_on(self) -> None:
        if self._due and not self._is_under_way:
            self._is_under_way = True
            self._give()

    def _give(self) -> None:
        if not self._due:
            self._is_under_way = False
            return
        # What is called soon is called in order: those whose turn it is, between two looks at what
        # this thread has taken.
        loop = asyncio.get_running_loop()
        loop.call_soon(self._begin)
        for _ in range(min(AT_ONCE, len(self._due))):
            turn = self._due.popleft()
            if not turn.done():
                turn.set_result(None)
        loop.call_soon(self._rest)

    def _begin(self) -> None:
        self._began = time.thread_time()

    def _rest(self) -> None:
        taken_seconds = time.thread_time() - self._began
        asyncio.get_running_loop().call_later(REST * taken_seconds, self._give)
