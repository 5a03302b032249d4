# SPDX-License-Identifier: Apache-2.0
"""Messages of a call, whose reader may be cancelled."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.message import DecodeError

from callsd_daemon.workers.session.incoming import Incoming, Reads


class Call:
    """Gives messages when a test says so, and remembers whether a read was cancelled."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[str | Exception] = asyncio.Queue()
        self.cancelled = 0

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        try:
            message = await self.messages.get()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(message, Exception):
            raise message
        return message


async def test_who_waits_is_cancelled() -> None:
    """The read goes on, and what it brings is there for who comes next."""
    call, reads = Call(), Reads()
    incoming = Incoming(call, reads)
    for _ in range(3):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(incoming)
    assert len(reads) == 1
    await call.messages.put("first")
    await call.messages.put("second")

    assert [await anext(incoming), await anext(incoming)] == ["first", "second"]
    assert call.cancelled == 0
    assert not reads


@pytest.mark.parametrize(
    "end", [StopAsyncIteration(), DecodeError(), grpc.aio.UsageError(), grpc.aio.AbortError()]
)
async def test_end(end: Exception) -> None:
    """Nothing comes after the end of a call, or after what is no message."""
    call = Call()
    incoming = Incoming(call, set())
    for said in ("first", end, "second"):
        await call.messages.put(said)

    assert [message async for message in incoming] == ["first"]
    assert await anext(incoming, None) is None
