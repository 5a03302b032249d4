# SPDX-License-Identifier: Apache-2.0
"""What comes over one call, message by message."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Generic, Self, TypeVar

import grpc
from google.protobuf.message import DecodeError


M = TypeVar("M")

Reads = set["asyncio.Task[Any]"]
"""Those that go on, of all calls of a server; the set keeps them from the garbage collector."""


class Incoming(Generic[M]):
    """The messages of one call. Whoever waits for one may be cancelled; the reading of it is not.

    gRPC never frees what a cancelled read brings, up to a whole message: sessions that were
    replaced cost a flooded daemon a megabyte a second (https://github.com/grpc/grpc/issues/43360).
    A read ends with its call at the latest. Bytes that are no message end them all.
    """

    def __init__(self, messages: AsyncIterator[M], reads: Reads) -> None:
        self._messages = messages
        self._reads = reads
        self._read: asyncio.Task[list[M]] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> M:
        if self._read is None:
            self._read = asyncio.create_task(self._next())
            self._reads.add(self._read)
            self._read.add_done_callback(self._reads.discard)
        found = await asyncio.shield(self._read)
        if not found:
            raise StopAsyncIteration
        self._read = None
        return found[0]

    async def _next(self) -> list[M]:
        """The next message, if there is one."""
        try:
            return [await anext(self._messages)]
        except (StopAsyncIteration, DecodeError, grpc.aio.BaseError):
            return []
