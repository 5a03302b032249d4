# SPDX-License-Identifier: Apache-2.0
"""Waiting for something that happens elsewhere."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar


T = TypeVar("T")

POLL_SECONDS = 0.02


def eventually(
    condition: Callable[[], T],
    what: str,
    *,
    seconds: float = 30.0,
    every_seconds: float = POLL_SECONDS,
) -> T:
    """Return what `condition()` returns as soon as that is true; fail when it stays false."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(every_seconds)
    return found


async def until(condition: Callable[[], T], what: str, *, seconds: float = 30.0) -> T:
    """The same as `eventually`, for conditions that the event loop brings about."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(POLL_SECONDS)
    return found
