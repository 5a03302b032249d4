# SPDX-License-Identifier: Apache-2.0
"""Sound that comes in."""

import asyncio
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import cast

from callsd_daemon.usecases.captions import WORK_SECONDS, _receive
from callsd_daemon.workers.captions.call import Call


async def test_others_have_their_turn_between_two_messages() -> None:
    """However many messages of a flood are here already, whoever else waits is served meanwhile."""
    turns: list[str] = []

    async def flood() -> AsyncIterator[str]:
        for _ in range(3):
            yield "sound"

    def receive(_call: Call, message: str) -> None:
        turns.append(message)
        end = time.thread_time() + 2 * WORK_SECONDS
        while time.thread_time() < end:
            pass

    async def other() -> None:
        for _ in range(2):
            turns.append("other")
            await asyncio.sleep(0)

    async def there_is_room() -> None:
        pass

    call = cast("Call", SimpleNamespace(check_stream=lambda _: None, until_room=there_is_room))
    await asyncio.gather(_receive(flood(), call, 1, receive), other())

    assert turns == ["sound", "other", "other", "sound", "sound"]
