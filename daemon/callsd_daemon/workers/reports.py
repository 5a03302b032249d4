# SPDX-License-Identifier: Apache-2.0
"""What is new of an attempt, on its way to the store, beside those who watch over the attempt."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from callsd_daemon.domain.jobs import Progress


LAST_SECONDS = 1.0
"""How long the end of an attempt waits for its last report: a commit takes milliseconds, on a busy
disk some hundred. What takes longer waits for somebody who holds the database, or for a disk that
is full, and that may be for hours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptObserver:
    """Called with what happens in an attempt; each method returns when it is stored."""

    running: Callable[[], Awaitable[None]]
    progress: Callable[[Progress], Awaitable[None]]
    tick: Callable[[], Awaitable[None]]
    """Once a second."""


class Reports:
    """Has the reports of one attempt stored, one at a time, while its block runs.

    Nobody waits for the store here: an attempt's end, its limits and its log are looked after
    whatever the store does. The end of the block gives up a report that is not stored soon.
    """

    def __init__(self, observer: AttemptObserver, *, is_running: bool) -> None:
        """`is_running` tells whether the store knows already that the job runs."""
        self._observer = observer
        self._is_running = is_running
        self._stored: Progress | None = None
        self._storing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Nothing is told yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        """Give the last report its time, but for a block that was cancelled or has failed."""
        storing = self._storing
        if storing is None:
            return
        try:
            if kind is None:
                await asyncio.wait([storing], timeout=LAST_SECONDS)
        finally:
            storing.cancel()
            await asyncio.gather(storing, return_exceptions=True)
        if kind is None and not storing.cancelled():
            storing.result()

    def tell(self, progress: Progress | None) -> None:
        """Have it stored that the job runs, and how far it is, unless that is known.

        While an earlier report waits nothing is done: the next one will be newer. Raises what that
        one has raised.
        """
        if self._storing is not None:
            if not self._storing.done():
                return
            self._storing.result()
        if not self._is_running or progress not in (None, self._stored):
            self._storing = asyncio.create_task(self._store(progress))

    async def _store(self, progress: Progress | None) -> None:
        if not self._is_running:
            await self._observer.running()
            self._is_running = True
        if progress is not None:
            await self._observer.progress(progress)
            self._stored = progress
