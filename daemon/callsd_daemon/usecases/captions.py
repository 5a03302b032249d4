# SPDX-License-Identifier: Apache-2.0
"""Sound of a call in, its captions out."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

from callsd_daemon.domain.captions import CaptionsSpec, Encoding
from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import Job
from callsd_daemon.metrics import CAPTION_VIEWERS
from callsd_daemon.store.database import Database
from callsd_daemon.usecases.streams import Streams
from callsd_daemon.workers.captions.call import Call
from callsd_daemon.workers.captions.calls import Calls
from callsd_daemon.workers.captions.feed import Caption, Event, Published
from callsd_daemon.workers.captions.journal import Final, read_finals
from callsd_daemon.workers.captions.speaker import Speaker
from callsd_daemon.workers.waits import until


R = TypeVar("R")

ACK_SECONDS = 0.2
"""Pause between two acknowledgements: they are for resuming, and for nothing that is urgent."""

ACK_IDLE_SECONDS = 5.0
HEARTBEAT_SECONDS = 5.0
LATE_JOINER_FINALS = 10
"""What one who comes late is sent first."""

PAGE_FINALS = 200

WORK_SECONDS = 0.002
"""How long a stream takes its sound before it leaves the event loop to others. Fifty speakers take
as much in a tenth of a second."""

REST = 3.0
"""For how long, as a multiple of that."""

Viewed = Published[Caption] | Published[Event] | Final | Call
"""What viewers are sent: something new, a final caption from the disk, or, when nothing has
happened for a while, how the call is."""


class Captions:
    """All methods belong to one event loop, and raise CallsdError."""

    def __init__(
        self, *, calls: Calls, database: Database, streams: Streams, directory: Path
    ) -> None:
        """`directory` holds the jobs' directories."""
        self._calls = calls
        self._database = database
        self._streams = streams
        self._directory = directory

    async def ingest(
        self,
        job_id: str,
        encoding: Encoding,
        requests: AsyncIterator[R],
        receive: Callable[[Call, R], None],
    ) -> AsyncGenerator[list[Speaker], None]:
        """Take one call's sound; speakers of whom more has been taken come out.

        `receive` hands one request on to the call; it raises CallsdError.
        """
        job = await self._job(job_id)
        if job.is_final:
            raise CallsdError(
                Reason.JOB_STATE_CONFLICT,
                f"job {job_id} has ended ({job.state}): create a new one for a new call",
                metadata={"state": job.state},
            )
        with self._streams.open():
            call = await self._calls.find(job_id)
            stream = call.attach(encoding)
            receiving = asyncio.create_task(_receive(requests, call, stream, receive))
            # What was wrong with the sound is told at once, not with the next acknowledgement.
            receiving.add_done_callback(lambda _: call.acks.set())
            try:
                async for speakers in self._acknowledge(call, stream, receiving):
                    yield speakers
            finally:
                receiving.cancel()
                await asyncio.gather(receiving, return_exceptions=True)
                call.detach(stream)

    async def _acknowledge(
        self, call: Call, stream: int, receiving: "asyncio.Task[None]"
    ) -> AsyncGenerator[list[Speaker], None]:
        yield call.new_acks()
        while True:
            if not receiving.done():
                await asyncio.wait({receiving}, timeout=ACK_SECONDS)
            if not receiving.done():
                await until(call.acks, ACK_IDLE_SECONDS)
            call.check_stream(stream)
            self._streams.check()
            if receiving.done():
                # What was wrong with the sound, if anything was.
                receiving.result()
            if speakers := call.new_acks():
                yield speakers
            if receiving.done() or call.is_over:
                return
            if call.feed.ended.is_set():
                raise CallsdError(
                    Reason.JOB_STATE_CONFLICT,
                    f"the captions job {call.job_id} has ended: see its failure",
                )

    async def watch(
        self, job_id: str, *, resume_sequence: int | None, is_finals_only: bool
    ) -> AsyncGenerator[Viewed, None]:
        """Follow one call's captions, from after a final caption or from the latest few on."""
        job = await self._job(job_id)
        with self._streams.open(), CAPTION_VIEWERS.track_inprogress():
            if job.is_final:
                finals = await asyncio.to_thread(self._finals, job_id)
                for final in finals[_first(resume_sequence, len(finals)) :]:
                    yield final
                return
            call = await self._calls.find(job_id)
            async for viewed in self._follow(call, resume_sequence, is_finals_only=is_finals_only):
                yield viewed

    def _finals(self, job_id: str) -> list[Final]:
        return list(read_finals(self._directory / job_id, 0))

    async def _follow(
        self, call: Call, resume_sequence: int | None, *, is_finals_only: bool
    ) -> AsyncGenerator[Viewed, None]:
        feed = call.feed
        sequence, version = _first(resume_sequence, feed.last_sequence), 0
        # At once, however long it takes until somebody speaks: whose connection is cut before the
        # first caption knows that there is such a call, and comes back.
        yield call
        sent_seconds = time.monotonic()
        while True:
            while sequence + 1 < feed.first_in_memory:
                for final in await _older(call, sequence):
                    sequence = final.sequence
                    yield final
                    sent_seconds = time.monotonic()
            items, version = feed.after(sequence, version), feed.version
            for item in items:
                if isinstance(item.content, Caption) and item.content.sequence:
                    sequence = item.content.sequence
                elif is_finals_only and not isinstance(item.content, Event):
                    continue
                yield item
                sent_seconds = time.monotonic()
            if feed.version > version:
                continue
            if feed.ended.is_set():
                return
            self._streams.check()
            # There may be something new all the time, and nothing that this viewer wants.
            if (silent_seconds := time.monotonic() - sent_seconds) >= HEARTBEAT_SECONDS:
                yield call
                sent_seconds, silent_seconds = time.monotonic(), 0.0
            await feed.wait(HEARTBEAT_SECONDS - silent_seconds)

    async def _job(self, job_id: str) -> Job:
        job = await self._database.read(lambda tx: tx.find(job_id))
        if not isinstance(job.spec, CaptionsSpec):
            raise CallsdError(
                Reason.KIND_UNAVAILABLE,
                f"job {job_id} is a {job.kind} and has no captions: create a captions job",
                metadata={"kind": job.kind},
            )
        return job


def _first(resume_sequence: int | None, last: int) -> int:
    """The final caption behind which a viewer begins. Raises REVISION_UNKNOWN."""
    if resume_sequence is None:
        return max(0, last - LATE_JOINER_FINALS)
    if resume_sequence > last:
        raise CallsdError(
            Reason.REVISION_UNKNOWN,
            f"there is no caption {resume_sequence}, the last one is {last}",
            metadata={"newest": str(last)},
        )
    return resume_sequence


async def _older(call: Call, sequence: int) -> list[Final]:
    """Final captions that are no longer in memory; none when they wait for room on the disk."""
    page = await asyncio.to_thread(call.finals, sequence, PAGE_FINALS)
    if not page:
        await call.feed.wait(HEARTBEAT_SECONDS)
    return page


async def _receive(
    requests: AsyncIterator[R], call: Call, stream: int, receive: Callable[[Call, R], None]
) -> None:
    worked_seconds = 0.0
    async for request in requests:
        call.check_stream(stream)
        began = time.thread_time()
        receive(call, request)
        worked_seconds += time.thread_time() - began
        # Hundreds of chunks take milliseconds, and many messages may be here already.
        if worked_seconds > WORK_SECONDS:
            await asyncio.sleep(REST * worked_seconds)
            worked_seconds = 0.0
        # Who sends faster than can be worked off waits here, and the network with them.
        await call.until_room()
