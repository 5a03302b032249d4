# SPDX-License-Identifier: Apache-2.0
"""Many viewers of one call in one process, `python -m callsd_bench.captions.viewers`.

It reads an `Order` as one line of JSON from stdin, opens its watches and answers "ready", follows
them to the end of the call's job, and answers with a `Report` as one line of JSON.

It uses the bare stubs: a client library would hide a caption that came twice. Messages are noted
as bytes and looked into at the end: all viewers get the same ones.
"""

import asyncio
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import numpy as np

from callsd import Endpoint
from callsd._channel import channel_options
from callsd.v1.caption_pb2 import WatchCaptionsRequest, WatchCaptionsResponse


STREAMS_PER_CHANNEL = 100
"""What HTTP/2 peers commonly allow on one connection."""

READY_TIMEOUT_SECONDS = 60.0

_WATCH_METHOD = "/callsd.v1.CaptionService/WatchCaptions"

_Watch: TypeAlias = "grpc.aio.UnaryStreamCall[WatchCaptionsRequest, bytes]"

Received = list[tuple[float, bytes]]
"""What one viewer got: wall clock and message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to watch, with how many viewers that read and how many that never do."""

    address: str
    token_file: str
    job: str
    viewers: int
    frozen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How the viewers that read were served."""

    count: int
    frozen: int
    captions: int
    """That arrived, at all viewers together."""
    p50: float | None
    """From the daemon making a caption to its arrival. Unit: seconds."""
    p99: float | None
    lost_finals: int
    """Final captions that a viewer never saw, of those that any has seen; over all viewers."""
    repeated_finals: int
    """Final captions that a viewer saw twice or out of order."""
    error: str = ""
    """Why a viewer fell out, if one did."""


def report(received: Sequence[Received], *, frozen: int) -> Report:
    """Look into what the viewers got."""
    parsed: dict[bytes, WatchCaptionsResponse] = {}
    delays: list[float] = []
    seen: list[int] = []
    lost = repeated = 0
    for messages in received:
        last = 0
        for arrival, message in messages:
            response = parsed.get(message)
            if response is None:
                response = parsed[message] = WatchCaptionsResponse.FromString(message)
            if not response.HasField("caption"):
                continue
            delays.append(arrival - response.publish_time.ToNanoseconds() / 1e9)
            sequence = response.caption.sequence
            if not response.caption.is_final:
                continue
            if sequence <= last:
                repeated += 1
            else:
                lost += sequence - last - 1
                last = sequence
        seen.append(last)
    lost += sum(max(seen, default=0) - last for last in seen)
    p50, p99 = np.percentile(delays, (50, 99)) if delays else (None, None)
    return Report(
        count=len(received),
        frozen=frozen,
        captions=len(delays),
        p50=None if p50 is None else round(float(p50), 4),
        p99=None if p99 is None else round(float(p99), 4),
        lost_finals=lost,
        repeated_finals=repeated,
    )


async def _follow(
    channel: grpc.aio.Channel, order: Order, received: Received, begun: asyncio.Event
) -> None:
    async for message in _watch(channel, order):
        received.append((time.time(), message))
        begun.set()


def _watch(channel: grpc.aio.Channel, order: Order) -> "_Watch":
    endpoint = Endpoint(address=order.address, token_file=Path(order.token_file))
    # Without a deserialiser the messages come as they are.
    method: Any = channel.unary_stream(
        _WATCH_METHOD, request_serializer=WatchCaptionsRequest.SerializeToString
    )
    request = WatchCaptionsRequest(job=order.job, resume_sequence=0)
    watch: _Watch = method(request, metadata=endpoint.metadata())
    return watch


async def _view(order: Order) -> Report:
    endpoint = Endpoint(address=order.address)
    options = channel_options(endpoint, watching=True)
    reading = -(-order.viewers // STREAMS_PER_CHANNEL)
    # Who reads nothing gets connections of its own: what is not read holds up its connection.
    channels = [
        grpc.aio.insecure_channel(endpoint.target, options=options)
        for _ in range(reading + -(-order.frozen // STREAMS_PER_CHANNEL))
    ]
    received: list[Received] = [[] for _ in range(order.viewers)]
    begun = [asyncio.Event() for _ in received]
    frozen = [
        _watch(channels[reading + number // STREAMS_PER_CHANNEL], order)
        for number in range(order.frozen)
    ]
    tasks = [
        asyncio.create_task(_follow(channels[number % reading], order, received[number], event))
        for number, event in enumerate(begun)
    ]
    all_begun = asyncio.create_task(_all(begun))
    await asyncio.wait(
        {all_begun, *tasks}, timeout=READY_TIMEOUT_SECONDS, return_when=asyncio.FIRST_COMPLETED
    )
    if not all_begun.done():
        all_begun.cancel()
        ended = next((str(task.exception()) for task in tasks if task.done()), "no answer")
        raise SystemExit(f"not every viewer could begin: {ended}")
    _say("ready")
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    for watch in frozen:
        watch.cancel()
    errors = [end for end in ends if isinstance(end, BaseException)]
    return replace(
        report(received, frozen=order.frozen),
        error=str(errors[0]) if errors else "",
    )


async def _all(events: Sequence[asyncio.Event]) -> None:
    for event in events:
        await event.wait()


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    # Ctrl-C is for the benchmark, which then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _say(json.dumps(asdict(asyncio.run(_view(Order(**json.loads(sys.stdin.readline())))))))
