# SPDX-License-Identifier: Apache-2.0
"""Waiting for something that happens elsewhere."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar


T = TypeVar("T")

POLL_SECONDS = 0.02
SELDOM_SECONDS = 0.1
"""Looks at a daemon cost it and the machine something: the longer a wait, the fewer there are."""

LATE = 0.05
"""By what share of a wait its end may be seen too late."""


def eventually(
    condition: Callable[[], T],
    what: str,
    *,
    seconds: float = 30.0,
    every_seconds: float = POLL_SECONDS,
) -> T:
    """Return what `condition()` returns as soon as that is true; fail when it stays false."""
    began = time.monotonic()
    while not (found := condition()):
        waited = time.monotonic() - began
        assert waited < seconds, f"not within {seconds:g} s: {what}"
        time.sleep(max(every_seconds, min(LATE * waited, SELDOM_SECONDS)))
    return found


async def until(condition: Callable[[], T], what: str, *, seconds: float = 30.0) -> T:
    """The same as `eventually`, for conditions that the event loop brings about."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(POLL_SECONDS)
    return found
