# SPDX-License-Identifier: Apache-2.0
"""Many watchers of one daemon in one process, `python -m callsd_bench.daemon.watchers`.

It reads an `Order` as one line of JSON from stdin, opens its watches and answers "ready"; it then
reads the last revision that there will be, waits until every watcher has seen it, leaves what
arrived and when in the order's file, and answers with a `Tally` as one line of JSON.

It uses the bare stubs: our own client would hide an event that came twice.
"""

import asyncio
import contextlib
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc
import numpy as np

from callsd import Endpoint
from callsd._channel import channel_options
from callsd.v1.job_pb2 import WatchJobsRequest
from callsd.v1.job_pb2_grpc import JobServiceStub


STREAMS_PER_CHANNEL = 100
"""What HTTP/2 peers commonly allow on one connection."""

READY_TIMEOUT_SECONDS = 60.0
LATE_SECONDS = 30.0
"""How long to wait for events after the last change: what has not come by then is lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to watch, and where to leave the arrivals."""

    address: str
    token_file: str
    watchers: int
    resume_revision: int
    arrivals_path: str


@dataclass(slots=True, kw_only=True)
class Tally:
    """What went wrong; both are 0 when every watcher saw every revision once and in order."""

    lost: int = 0
    repeated: int = 0


ARRIVAL = np.dtype([("revision", np.int64), ("monotonic_seconds", np.float64)])
"""One event at one watcher, as `Order.arrivals_path` holds them."""


@dataclass(slots=True)
class Watchers:
    """All watchers of this process; `seen[n]` is the last revision that watcher n has."""

    seen: list[int]
    tally: Tally = field(default_factory=Tally)
    arrivals: list[tuple[int, float]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def receive(self, number: int, revisions: list[int], now: float) -> None:
        last = self.seen[number]
        for revision in revisions:
            if revision <= last:
                self.tally.repeated += 1
                continue
            self.tally.lost += revision - last - 1
            last = revision
            self.arrivals.append((revision, now))
        self.seen[number] = last
        self.news.set()


async def _follow(
    channel: grpc.aio.Channel,
    order: Order,
    number: int,
    watchers: Watchers,
    begun: asyncio.Event,
) -> None:
    endpoint = Endpoint(address=order.address, token_file=Path(order.token_file))
    request = WatchJobsRequest(resume_revision=order.resume_revision)
    watch = JobServiceStub(channel).WatchJobs(request, metadata=endpoint.metadata())
    async for response in watch:
        now = time.monotonic()
        begun.set()
        watchers.receive(number, [event.revision for event in response.events], now)


async def _watch(order: Order) -> None:
    endpoint = Endpoint(address=order.address)
    options = channel_options(endpoint, watching=True)
    count = -(-order.watchers // STREAMS_PER_CHANNEL)
    async with contextlib.AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(endpoint.target, options=options)
            )
            for _ in range(count)
        ]
        watchers = Watchers([order.resume_revision] * order.watchers)
        begun = [asyncio.Event() for _ in range(order.watchers)]
        tasks = [
            asyncio.create_task(_follow(channels[number % count], order, number, watchers, event))
            for number, event in enumerate(begun)
        ]
        try:
            await _all_begun(tasks, begun)
            await _last_word(watchers)
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
    for error in {str(end) for end in ends if isinstance(end, grpc.RpcError)}:
        print(error, file=sys.stderr)  # noqa: T201 - why something is lost
    np.array(watchers.arrivals, ARRIVAL).tofile(order.arrivals_path)
    print(json.dumps(asdict(watchers.tally)), flush=True)  # noqa: T201 - the answer


async def _all_begun(tasks: list[asyncio.Task[None]], begun: list[asyncio.Event]) -> None:
    async with asyncio.timeout(READY_TIMEOUT_SECONDS):
        for task, event in zip(tasks, begun, strict=True):
            waiting = asyncio.create_task(event.wait())
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if task.done():
                task.result()
    print("ready", flush=True)  # noqa: T201 - the answer


async def _last_word(watchers: Watchers) -> None:
    goal = int(await asyncio.to_thread(sys.stdin.readline))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LATE_SECONDS):
            while min(watchers.seen) < goal:
                watchers.news.clear()
                await watchers.news.wait()
    watchers.tally.lost += sum(max(0, goal - seen) for seen in watchers.seen)


if __name__ == "__main__":
    asyncio.run(_watch(Order(**json.loads(sys.stdin.readline()))))
