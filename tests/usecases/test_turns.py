# SPDX-License-Identifier: Apache-2.0

import asyncio
import itertools
import time

from callsd_daemon.usecases.turns import AT_ONCE, Turns


WAIT_SECONDS = 20.0


async def all_wait(tasks: list["asyncio.Task[None]"]) -> None:
    """Have all of them begin."""
    await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)


class TestTurns:
    """Who goes on, and when."""

    async def test_due(self) -> None:
        """Who is due, and waits behind nobody, goes on at once."""
        turns = Turns(idle_seconds=1000.0)
        await asyncio.wait_for(turns.wait(is_due=True), WAIT_SECONDS)

    async def test_others_first(self) -> None:
        """Of a thousand who are woken, some go on, and then others have the event loop."""
        turns = Turns(idle_seconds=1000.0)
        went = list[int]()

        def tell(number: int) -> None:
            went.append(number)
            sum(range(5000))  # some 0.1 ms

        async def watch(number: int) -> None:
            await turns.wait(is_due=False)
            tell(number)

        tasks = [asyncio.create_task(watch(number)) for number in range(1000)]
        await all_wait(tasks)
        turns.wake()
        counts = list[int]()
        while len(went) < 1000:
            counts.append(len(went))
            await asyncio.sleep(0)

        steps = [after - before for before, after in itertools.pairwise(counts)]
        assert max(steps) == AT_ONCE
        assert went == list(range(1000))
        # Others, who have nothing to do here but to come back, are far more often asked.
        assert steps.count(0) > len(steps) / 2

    async def test_idle(self) -> None:
        """Who waits for something new that does not come goes on after a while, and only then."""
        turns = Turns(idle_seconds=0.05)
        began = time.monotonic()
        for _ in range(3):
            await asyncio.wait_for(turns.wait(is_due=False), WAIT_SECONDS)

        assert time.monotonic() - began >= 0.15

    async def test_cancelled(self) -> None:
        """Who has gone away holds up nobody."""
        turns = Turns(idle_seconds=1000.0)
        tasks = [asyncio.create_task(turns.wait(is_due=False)) for _ in range(100)]
        await all_wait(tasks)
        for task in tasks[:-1]:
            task.cancel()
        turns.wake()

        await asyncio.wait_for(tasks[-1], WAIT_SECONDS)
        assert all(task.cancelled() for task in tasks[:-1])
