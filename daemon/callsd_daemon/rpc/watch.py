# SPDX-License-Identifier: Apache-2.0
"""WatchJobs: ordered, unique, reliable, resumable, bookmarkable."""

import asyncio
import functools
from collections.abc import AsyncIterator, Iterable

from callsd.v1 import job_pb2
from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import Job
from callsd_daemon.rpc.convert import job_message
from callsd_daemon.rpc.hub import (
    BATCH_BYTES,
    BATCH_EVENTS,
    Hub,
    Item,
    first_batch,
    make_item,
)
from callsd_daemon.rpc.validate import Filter, job_filter
from callsd_daemon.store.database import Database
from callsd_daemon.store.read_transaction import Page, ReadTransaction


BOOKMARK_SECONDS = 10.0
PAGE_JOBS = 100
"""Jobs in one message of the initial state: some 100 KiB, and 5 ms of the event loop. Fewer when
they are larger, as in every message."""

SHARE_SECONDS = 0.00025
"""Pause of a watcher between two messages for each watcher there is. It bounds what all of them
together cost: events that come closer than that travel in one message."""


async def watch(
    request: job_pb2.WatchJobsRequest, database: Database, hub: Hub
) -> AsyncIterator[job_pb2.WatchJobsResponse]:
    """Send the initial state, if asked for, and then every change."""
    wanted = job_filter(request.filter, states_allowed=False)
    database_id = database.database_id
    if request.database_id not in ("", database_id):
        raise CallsdError(
            Reason.REVISION_UNKNOWN,
            "the revision belongs to another database: watch from the beginning",
            metadata={"database_id": database_id},
        )
    told: dict[str, int] = {}
    with hub.stream() as number:
        if request.HasField("resume_revision"):
            cursor = request.resume_revision
            await _check_resumable(cursor, database)
            yield job_pb2.WatchJobsResponse(
                revision=cursor, initial_state_sent=True, database_id=database_id
            )
        else:
            cursor = -1
            async for page, events in _initial_state(wanted, database, hub):
                cursor = page.revision if cursor < 0 else cursor
                # Later pages may be newer than the first: what they told is not told again.
                told |= {job.id: job.revision for job in page.jobs if job.revision > cursor}
                last = page.next_before is None
                yield job_pb2.WatchJobsResponse(
                    events=events,
                    revision=cursor if last else 0,
                    initial_state_sent=last,
                    database_id=database_id,
                )
        while True:
            items, cursor = await _next(cursor, database, hub)
            events = [
                item.event
                for item in items
                if _matches(wanted, item) and item.revision > told.get(item.job_id, 0)
            ]
            if events:
                yield job_pb2.WatchJobsResponse(
                    events=events,
                    revision=cursor,
                    initial_state_sent=True,
                    database_id=database_id,
                )
                await asyncio.sleep(SHARE_SECONDS * hub.streams)
            if cursor < hub.revision:
                # Others' turn: there may be many changes, and none that is wanted.
                await asyncio.sleep(0)
                continue
            if await hub.wait(BOOKMARK_SECONDS):
                # A change wakes all watchers at once: they take turns, so that other requests are
                # answered in between.
                await asyncio.sleep(SHARE_SECONDS * (number % hub.streams))
            else:
                yield job_pb2.WatchJobsResponse(
                    revision=cursor, initial_state_sent=True, database_id=database_id
                )


async def _check_resumable(revision: int, database: Database) -> None:
    oldest, newest = await database.read(lambda tx: (tx.oldest_resumable(), tx.revision))
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


async def _initial_state(
    wanted: Filter, database: Database, hub: Hub
) -> AsyncIterator[tuple[Page, list[job_pb2.JobEvent]]]:
    """All matching jobs as they are now, page by page."""
    before: int | None = None
    while True:
        read = functools.partial(
            ReadTransaction.page,
            states=(),
            kinds=wanted.kinds,
            labels=wanted.labels,
            ids=wanted.ids,
            before=before,
            limit=PAGE_JOBS,
            max_bytes=BATCH_BYTES,
        )
        async with hub.page_turn:
            page = await database.read(read)
            events = _snapshots(page.jobs)
        yield page, events
        before = page.next_before
        if before is None:
            return


def _snapshots(jobs: Iterable[Job]) -> list[job_pb2.JobEvent]:
    return [
        job_pb2.JobEvent(revision=job.revision, job_changed=job_message(job))
        for job in sorted(jobs, key=lambda job: job.revision)
    ]


async def _next(cursor: int, database: Database, hub: Hub) -> tuple[list[Item], int]:
    """Changes after `cursor`, and the revision up to which they go."""
    items = hub.after(cursor)
    if items is None:

        def read(tx: ReadTransaction) -> list[Item]:
            changes = tx.changes_after(cursor, BATCH_EVENTS, max_bytes=BATCH_BYTES)
            return list(map(make_item, changes))

        # Who is behind takes turns, too: one of them is read for at a time.
        async with hub.page_turn:
            items = first_batch(await database.read(read))
        if not items or items[0].revision != cursor + 1:
            raise CallsdError(
                Reason.SLOW_CONSUMER,
                f"changes after revision {cursor} are no longer known: watch from the beginning",
            )
    return items, items[-1].revision if items else cursor


def _matches(wanted: Filter, item: Item) -> bool:
    if wanted.ids and item.job_id not in wanted.ids:
        return False
    if item.kind is None:
        # What kind the removed job was is not known any more; its name tells who cares.
        return True
    if wanted.kinds and item.kind not in wanted.kinds:
        return False
    return all(item.labels.get(key) == value for key, value in wanted.labels.items())
