# SPDX-License-Identifier: Apache-2.0
"""Carries changes of jobs from the store to everyone who watches.

A watcher is nothing but a revision up to which it has seen everything: there is no queue for it, so
that a slow one costs nothing and hurts nobody.
"""

import asyncio
import functools
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import Job
from callsd_daemon.store.database import Database
from callsd_daemon.store.read_transaction import Change, JobFilter, ReadTransaction
from callsd_daemon.usecases.streams import Streams
from callsd_daemon.usecases.turns import Turns


T = TypeVar("T")

RECENT_CHANGES = 4096
"""Changes kept in memory; a watcher that is further behind reads them from the store."""

RECENT_BYTES = 8 * 1024**2
"""Length of the events that tell of them, which take some times as much of the memory."""

BATCH_EVENTS = 500
BATCH_BYTES = 256 * 1024
"""Events in one message to a watcher, and their length. An event that is longer goes alone. So
much, and no more, lies in memory for each watcher that does not read."""

BOOKMARK_SECONDS = 10.0
"""How often a watcher is told how far it is while nothing happens that it wants to know."""

PAGE_JOBS = 100
"""Jobs in one message of the initial state: some 100 KiB, and 5 ms of the event loop. Fewer when
they are larger, as in every message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A change as watchers are told of it. Made once for all of them, by their server."""

    revision: int
    job_id: str
    kind: str | None
    """None when the job was removed."""
    labels: dict[str, str]
    message: Any
    size_bytes: int


Render = Callable[[Change], tuple[Any, int]]
"""Makes a message of a change, and tells its length in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some events for a watcher; none when it is only told how far it is."""

    messages: list[Any] = field(default_factory=list)
    revision: int
    """Up to which all is told; 0 while the initial state is not whole."""
    is_initial_state_sent: bool = True


class Changes:
    """Belongs to one event loop."""

    def __init__(self, database: Database, streams: Streams, render: Render) -> None:
        self.revision = database.revision
        """Revision of the last change."""
        self._database = database
        self._streams = streams
        self._render = render
        self._page_turn = asyncio.Lock()
        """Held while something is read for some watcher that begins or is behind: many of them take
        turns, and other requests are answered in between."""
        self._events: deque[Event] = deque()
        self._recent_bytes = 0
        self._oldest = self.revision
        self._turns = Turns(idle_seconds=BOOKMARK_SECONDS)
        """Between two messages a watcher waits for a turn: what happens until then travels in one
        message."""

    def publish(self, changes: list[Change]) -> None:
        """Tell everyone of changes, in order."""
        for change in changes:
            event = self._event(change)
            self._events.append(event)
            self._recent_bytes += event.size_bytes
            while len(self._events) > RECENT_CHANGES or self._recent_bytes > RECENT_BYTES:
                forgotten = self._events.popleft()
                self._recent_bytes -= forgotten.size_bytes
                self._oldest = forgotten.revision
        self.revision = changes[-1].revision
        self.wake()

    def wake(self) -> None:
        """Have all watchers look: something has changed, or they have to end."""
        self._turns.wake()

    async def watch(
        self,
        wanted: JobFilter,
        respond: Callable[[Batch], T],
        *,
        database_id: str,
        resume_revision: int | None,
    ) -> AsyncGenerator[T, None]:
        """Send the initial state, or what came after `resume_revision`, and then every change.

        `respond` makes what is sent of a batch. Raises REVISION_UNKNOWN, REVISION_COMPACTED,
        STREAMS_EXHAUSTED, SLOW_CONSUMER, DRAINING.
        """
        # All in one generator: there are thousands of watchers, and each has one of each.
        if database_id not in ("", self._database.database_id):
            raise CallsdError(
                Reason.REVISION_UNKNOWN,
                "the revision belongs to another database: watch from the beginning",
                metadata={"database_id": self._database.database_id},
            )
        sent: dict[str, int] = {}
        with self._streams.open():
            cursor = -1
            before: int | None = None
            if resume_revision is not None:
                cursor = resume_revision
                await self._check_resumable(cursor)
                yield respond(Batch(revision=cursor))
            while cursor < 0 or before is not None:
                revision, jobs, before, messages = await self._page(wanted, before)
                cursor = revision if cursor < 0 else cursor
                # Later pages may be newer than the first: their changes are not sent again.
                sent |= {job.id: job.revision for job in jobs if job.revision > cursor}
                is_last = before is None
                yield respond(
                    Batch(
                        messages=messages,
                        revision=cursor if is_last else 0,
                        is_initial_state_sent=is_last,
                    )
                )
            told_seconds = time.monotonic()
            while True:
                await self._turns.wait(is_due=cursor < self.revision)
                self._streams.check()
                events, cursor = await self._next(cursor)
                messages = [
                    event.message
                    for event in events
                    if _matches(wanted, event) and event.revision > sent.get(event.job_id, 0)
                ]
                # There may be many changes, and none that is wanted.
                if messages or time.monotonic() - told_seconds >= BOOKMARK_SECONDS:
                    yield respond(Batch(messages=messages, revision=cursor))
                    told_seconds = time.monotonic()

    async def _check_resumable(self, revision: int) -> None:
        oldest, newest = await self._database.read(lambda tx: (tx.oldest_resumable(), tx.revision))
        if revision > newest or revision < 0:
            raise CallsdError(
                Reason.REVISION_UNKNOWN,
                f"revision {revision} does not exist, the last one is {newest}",
                metadata={"newest": str(newest)},
            )
        if revision < oldest:
            raise CallsdError(
                Reason.REVISION_COMPACTED,
                f"changes after revision {revision} are no longer all known, only after {oldest}: "
                "watch from the beginning",
                metadata={"oldest": str(oldest)},
            )

    async def _page(
        self, wanted: JobFilter, before: int | None
    ) -> tuple[int, tuple[Job, ...], int | None, list[Any]]:
        """Some of the matching jobs as they are now: revision, jobs, next page, messages."""
        read = functools.partial(
            ReadTransaction.page,
            wanted=wanted,
            before=before,
            limit=PAGE_JOBS,
            max_bytes=BATCH_BYTES,
        )
        async with self._page_turn:
            page = await self._database.read(read)
            messages = [
                self._render(Change(revision=job.revision, job_id=job.id, job=job))[0]
                for job in sorted(page.jobs, key=lambda job: job.revision)
            ]
        return page.revision, page.jobs, page.next_before, messages

    async def _next(self, cursor: int) -> tuple[list[Event], int]:
        """Changes after `cursor`, and the revision up to which they go."""
        events = self._after(cursor)
        if events is None:

            def read(tx: ReadTransaction) -> list[Event]:
                changes = tx.changes_after(cursor, BATCH_EVENTS, max_bytes=BATCH_BYTES)
                return list(map(self._event, changes))

            # Who is behind takes turns, too: one of them is read for at a time.
            async with self._page_turn:
                events = _first_batch(await self._database.read(read))
            if not events or events[0].revision != cursor + 1:
                raise CallsdError(
                    Reason.SLOW_CONSUMER,
                    f"changes after revision {cursor} are no longer known: watch from the "
                    "beginning",
                )
        return events, events[-1].revision if events else cursor

    def _after(self, revision: int) -> list[Event] | None:
        """The next changes after `revision` for one message, or None: no longer in memory."""
        if revision < self._oldest:
            return None
        behind = self.revision - revision
        if behind <= 0:
            return []
        # Revisions have no gaps, so that the newest `behind` events are the ones wanted.
        start = max(0, len(self._events) - behind)
        return _first_batch(self._events[at] for at in range(start, len(self._events)))

    def _event(self, change: Change) -> Event:
        message, size_bytes = self._render(change)
        return Event(
            revision=change.revision,
            job_id=change.job_id,
            kind=None if change.job is None else change.job.kind,
            labels={} if change.job is None else change.job.labels,
            message=message,
            size_bytes=size_bytes,
        )


def _first_batch(events: Iterable[Event]) -> list[Event]:
    """As many of them as go into one message, but one at least."""
    batch, room = list[Event](), BATCH_BYTES
    for event in events:
        room -= event.size_bytes
        if batch and (room < 0 or len(batch) == BATCH_EVENTS):
            break
        batch.append(event)
    return batch


def _matches(wanted: JobFilter, event: Event) -> bool:
    if wanted.ids and event.job_id not in wanted.ids:
        return False
    if event.kind is None:
        # What kind the removed job was is not known any more; its name tells who cares.
        return True
    if wanted.kinds and event.kind not in wanted.kinds:
        return False
    return all(event.labels.get(key) == value for key, value in wanted.labels.items())
