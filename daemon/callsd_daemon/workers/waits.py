# SPDX-License-Identifier: Apache-2.0
"""Waiting for events, with an end to every wait."""

import asyncio
from collections.abc import Iterable


async def until(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event; False when it did not come in time."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True


async def first_of(events: Iterable[asyncio.Event], seconds: float) -> None:
    """Wait for any of some events."""
    tasks = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
