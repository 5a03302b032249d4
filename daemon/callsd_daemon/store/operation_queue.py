# SPDX-License-Identifier: Apache-2.0
"""Work that waits, in order, for the one thread that does it."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import structlog

from callsd_daemon.domain.errors import CallsdError, Reason


log = structlog.get_logger(__name__)

T = TypeVar("T")


class Operation:
    """Some work, and whom to tell what came of it."""

    __slots__ = ("future", "work")

    def __init__(self, work: Callable[[Any], Any], future: "Future[Any]") -> None:
        self.work = work
        self.future = future


class OperationQueue:
    """A thread, and the operations that wait for it."""

    def __init__(
        self, name: str, do: Callable[[list[Operation]], None], *, limit: int, batch: int
    ) -> None:
        """`do` gets at most `batch` operations at once and completes their futures.

        More than `limit` that wait are refused.
        """
        self._do = do
        self._limit = limit
        self._batch = batch
        # Each handing over is on the way of some call: this one does it in C, for a tenth of the
        # time of a queue with a bound.
        self._waiting: queue.SimpleQueue[Operation | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    async def ask(self, work: Callable[[Any], T]) -> T:
        """Have it done; raises what it raises, QUEUE_FULL, and DRAINING once this is closed."""
        if self._closed:
            raise CallsdError(
                Reason.DRAINING, "the server is shutting down: try again", retry_after_seconds=1.0
            )
        if self._waiting.qsize() >= self._limit:
            raise CallsdError(
                Reason.QUEUE_FULL,
                "the job database cannot keep up: try again later",
                retry_after_seconds=1.0,
            )
        future: Future[T] = Future()
        self._waiting.put(Operation(work, future))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Finish what waits, and end the thread."""
        self._closed = True
        self._waiting.put(None)
        self._thread.join()

    def _serve(self) -> None:
        is_last = False
        while not is_last:
            batch = [self._waiting.get()]
            with contextlib.suppress(queue.Empty):
                while batch[-1] is not None and len(batch) < self._batch:
                    batch.append(self._waiting.get_nowait())
            is_last = batch[-1] is None
            # Nobody waits any more for what was cancelled before it began.
            wanted = [one for one in batch if one and one.future.set_running_or_notify_cancel()]
            if wanted:
                self._try(wanted)

    def _try(self, batch: list[Operation]) -> None:
        """Whatever goes wrong ends no thread, and leaves nobody waiting."""
        try:
            self._do(batch)
        except Exception as problem:
            log.exception("store_failed")
            for one in batch:
                if not one.future.done():
                    one.future.set_exception(problem)
