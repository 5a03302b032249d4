# SPDX-License-Identifier: Apache-2.0
"""Carries changes from the store to everyone who watches.

A watcher is nothing but a revision up to which it has seen everything: the hub keeps no queue for
it, so that a slow one costs nothing and hurts nobody.
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from callsd.v1 import job_pb2
from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import Kind
from callsd_daemon.metrics import WATCHES
from callsd_daemon.rpc.convert import job_message, job_name
from callsd_daemon.store.read_transaction import Change


RECENT_CHANGES = 4096
"""Changes kept in memory; a watcher that is further behind reads them from the store."""

RECENT_BYTES = 8 * 1024**2
"""Length of the events that tell of them, which take some times as much of the memory."""

BATCH_EVENTS = 500
BATCH_BYTES = 256 * 1024
"""Events in one message to a watcher, and their length. An event that is longer goes alone. So
much, and no more, lies in memory for each watcher that does not read."""

DRAIN_RETRY_SECONDS = (0.5, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A change, and the event that tells of it."""

    revision: int
    job_id: str
    kind: Kind | None
    """None when the job was removed."""
    labels: dict[str, str]
    event: job_pb2.JobEvent
    event_bytes: int


class Hub:
    """Belongs to one event loop."""

    def __init__(self, revision: int, *, max_streams: int) -> None:
        self.revision = revision
        """Revision of the last change."""
        self.page_turn = asyncio.Lock()
        """Held while a page is read for a watcher that begins or is behind: they take turns, so
        that other requests are answered in between."""
        self._items: deque[Item] = deque()
        self._recent_bytes = 0
        self._oldest = revision
        self._news = asyncio.Event()
        self._max_streams = max_streams
        self._streams = 0
        self._opened = 0
        self._draining = self._closed = False

    @property
    def streams(self) -> int:
        """Streams that are open."""
        return self._streams

    @property
    def draining(self) -> bool:
        """Whether the server takes no more work, as it is about to shut down."""
        return self._draining

    def publish(self, changes: list[Change]) -> None:
        """Tell everyone of changes, in order."""
        for change in changes:
            item = make_item(change)
            self._items.append(item)
            self._recent_bytes += item.event_bytes
            while len(self._items) > RECENT_CHANGES or self._recent_bytes > RECENT_BYTES:
                forgotten = self._items.popleft()
                self._recent_bytes -= forgotten.event_bytes
                self._oldest = forgotten.revision
        self.revision = changes[-1].revision
        self._wake()

    def drain(self) -> None:
        """Take no more work; streams go on."""
        self._draining = True

    def close(self) -> None:
        """End all streams, and open no more."""
        self._draining = self._closed = True
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    @contextlib.contextmanager
    def stream(self) -> Iterator[int]:
        """Hold one of the places for streams, and get a number of one's own.

        Raises STREAMS_EXHAUSTED when all places are taken.
        """
        self.check()
        if self._streams >= self._max_streams:
            raise CallsdError(
                Reason.STREAMS_EXHAUSTED,
                f"{self._streams} streams are open, and server.max_watches allows no more",
                metadata={"limit": str(self._max_streams)},
                retry_after_seconds=10.0,
            )
        self._streams += 1
        self._opened += 1
        WATCHES.inc()
        try:
            yield self._opened
        finally:
            self._streams -= 1
            WATCHES.dec()

    def check_work(self) -> None:
        """Raise DRAINING when no more work is taken."""
        self._check(self._draining)

    def check(self) -> None:
        """Raise DRAINING when streams have to end."""
        self._check(self._closed)

    @staticmethod
    def _check(is_over: bool) -> None:  # noqa: FBT001 - private, and named by its two callers
        if is_over:
            # Everyone is sent away at once and must not come back at once.
            raise CallsdError(
                Reason.DRAINING,
                "the server is shutting down: try again",
                retry_after_seconds=random.uniform(*DRAIN_RETRY_SECONDS),  # noqa: S311 - no secret
            )

    def after(self, revision: int) -> list[Item] | None:
        """The next changes after `revision` for one message, or None: no longer in memory."""
        if revision < self._oldest:
            return None
        behind = self.revision - revision
        if behind <= 0:
            return []
        # Revisions have no gaps, so that the newest `behind` items are the ones wanted.
        start = max(0, len(self._items) - behind)
        return first_batch(self._items[at] for at in range(start, len(self._items)))

    async def wait(self, seconds: float) -> bool:
        """Wait for news; False when there were none. Raises DRAINING at shutdown."""
        self.check()
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return False
        self.check()
        return True


def first_batch(items: Iterable[Item]) -> list[Item]:
    """As many of them as go into one message, but one at least."""
    batch, room = list[Item](), BATCH_BYTES
    for item in items:
        room -= item.event_bytes
        if batch and (room < 0 or len(batch) == BATCH_EVENTS):
            break
        batch.append(item)
    return batch


def make_item(change: Change) -> Item:
    """The event that tells of a change."""
    job, event = change.job, job_pb2.JobEvent(revision=change.revision)
    if job is None:
        event.job_deleted = job_name(change.job_id)
    else:
        event.job_changed.CopyFrom(job_message(job))
    return Item(
        revision=change.revision,
        job_id=change.job_id,
        kind=None if job is None else job.kind,
        labels={} if job is None else job.labels,
        event=event,
        event_bytes=event.ByteSize(),
    )
