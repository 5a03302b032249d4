# SPDX-License-Identifier: Apache-2.0
"""A client that plays calls to a daemon in real time, `python -m callsd_bench.captions.player`.

It reads an `Order` as one line of JSON from stdin, watches all calls and answers "ready"; it then
reads when to begin, on the monotonic clock. From there on it answers with a `Tick` once a second,
the last of them with `is_done`, or with `error` when the daemon has ended a call.

It shares the machine with what is measured, so all it does is to send bytes that lie ready and to
note what comes back.
"""

import asyncio
import json
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import grpc

from callsd import Endpoint
from callsd._channel import channel_options
from callsd.v1.caption_pb2 import (
    AUDIO_ENCODING_OPUS,
    AUDIO_ENCODING_S16LE_16KHZ,
    CaptionsConfig,
    StreamCaptionsRequest,
    StreamCaptionsResponse,
    WatchCaptionsRequest,
)
from callsd.v1.caption_pb2_grpc import CaptionServiceStub
from callsd.v1.job_pb2 import StopJobRequest
from callsd.v1.job_pb2_grpc import JobServiceStub
from callsd_bench.captions.records import Arrival, read_records, write_record


_Stream: TypeAlias = "grpc.aio.StreamStreamCall[bytes, StreamCaptionsResponse]"

LATE_SECONDS = 0.05
"""A message that this process sends so long after its time is counted: the figures suffer."""

BLOCKED_SECONDS = 0.1
"""A message that the daemon does not take for so long is counted: it has more than it can do."""

TICK_SECONDS = 1.0

END_TIMEOUT_SECONDS = 60.0
"""How long the daemon may be behind with taking a call's sound, then with working off the rest of
it, and then with ending its job."""

ENCODINGS = {"s16le": AUDIO_ENCODING_S16LE_16KHZ, "opus": AUDIO_ENCODING_OPUS}

_STREAM_METHOD = "/callsd.v1.CaptionService/StreamCaptions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to play, and where to leave what arrives."""

    address: str
    token_file: str
    jobs: list[str]
    """One for each call, in the order in which they begin."""
    encoding: str
    """A key of `ENCODINGS`."""
    score_path: str
    timed_messages: int
    """So many messages of the score are due one after the other, the rest with the last one."""
    send_seconds: float
    stagger_seconds: float
    arrivals_path: str


@dataclass(slots=True, kw_only=True)
class Tick:
    """How it goes so far."""

    lag_seconds: float = 0.0
    """Largest that the daemon has told since the last tick."""
    captions: int = 0
    late_messages: int = 0
    """Messages that this process was late to send."""
    late_seconds: float = 0.0
    """Worst case of these."""
    blocked_messages: int = 0
    """Messages that the daemon was slow to take."""
    is_done: bool = False
    error: str = ""


class _Player:
    def __init__(self, order: Order, arrivals: BinaryIO, begin: "asyncio.Future[float]") -> None:
        self._order = order
        self._arrivals = arrivals
        self._begin = begin
        self._score = read_records(Path(order.score_path))
        self._endpoint = Endpoint(address=order.address, token_file=Path(order.token_file))
        self.tick = Tick()

    async def play_all(self) -> None:
        """All calls, each from its own start to the end of its job."""
        options = channel_options(self._endpoint, watching=False)
        target = self._endpoint.target
        async with (
            grpc.aio.insecure_channel(target, options=options) as channel,
            asyncio.TaskGroup() as group,
        ):
            for number in range(len(self._order.jobs)):
                group.create_task(self._call(channel, number))

    async def _call(self, channel: grpc.aio.Channel, number: int) -> None:
        job = self._order.jobs[number]
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch(channel, number))
            start = await self._begin + number * self._order.stagger_seconds
            await _sleep_until(start)
            await self._play(channel, job, start)
            await JobServiceStub(channel).StopJob(
                StopJobRequest(name=job),
                metadata=self._endpoint.metadata(),
                timeout=END_TIMEOUT_SECONDS,
            )
            async with asyncio.timeout(END_TIMEOUT_SECONDS):
                await watching

    async def _play(self, channel: grpc.aio.Channel, job: str, start: float) -> None:
        # Without serialisers the records go out as they are.
        method: Any = channel.stream_stream(
            _STREAM_METHOD, response_deserializer=StreamCaptionsResponse.FromString
        )
        stream: _Stream = method(metadata=self._endpoint.metadata())
        config = CaptionsConfig(job=job, encoding=ENCODINGS[self._order.encoding])
        await stream.write(StreamCaptionsRequest(config=config).SerializeToString())
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(_read_to_end(stream))
            last_due = start + self._order.timed_messages * self._order.send_seconds
            async with asyncio.timeout(last_due + END_TIMEOUT_SECONDS - time.monotonic()):
                try:
                    await self._send(stream, start)
                    await stream.done_writing()
                except asyncio.InvalidStateError:
                    # The call is over: it says itself why.
                    await reading
                    raise
            async with asyncio.timeout(END_TIMEOUT_SECONDS):
                await reading

    async def _send(self, stream: "_Stream", start: float) -> None:
        free_at = start
        for number, message in enumerate(self._score, 1):
            due = start + min(number, self._order.timed_messages) * self._order.send_seconds
            await _sleep_until(due)
            now = time.monotonic()
            self._note_late(now - max(due, free_at))
            await stream.write(bytes(message))
            free_at = time.monotonic()
            self.tick.blocked_messages += free_at - now > BLOCKED_SECONDS

    def _note_late(self, seconds: float) -> None:
        if seconds > LATE_SECONDS:
            self.tick.late_messages += 1
            self.tick.late_seconds = max(self.tick.late_seconds, seconds)

    async def _watch(self, channel: grpc.aio.Channel, number: int) -> None:
        request = WatchCaptionsRequest(job=self._order.jobs[number], resume_sequence=0)
        watch = CaptionServiceStub(channel).WatchCaptions(
            request, metadata=self._endpoint.metadata()
        )
        async for response in watch:
            now = time.monotonic()
            if not self._begin.done():
                continue
            seconds = now - self._begin.result() - number * self._order.stagger_seconds
            arrival = Arrival(call=number, seconds=seconds, response=response)
            write_record(self._arrivals, arrival.encode())
            lag_seconds = response.lag.ToNanoseconds() / 1e9
            self.tick.lag_seconds = max(self.tick.lag_seconds, lag_seconds)
            self.tick.captions += response.HasField("caption")


async def _read_to_end(stream: "_Stream") -> None:
    async for _ in stream:
        pass


async def _sleep_until(moment: float) -> None:
    await asyncio.sleep(moment - time.monotonic())


async def _main(order: Order, arrivals: BinaryIO) -> Tick:
    begin: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    player = _Player(order, arrivals, begin)
    playing = asyncio.create_task(player.play_all())
    _say("ready")
    begin.set_result(float(await asyncio.to_thread(sys.stdin.readline)))
    while not playing.done():
        await asyncio.wait([playing], timeout=TICK_SECONDS)
        if not playing.done():
            _say(json.dumps(asdict(player.tick)))
            player.tick.lag_seconds = 0.0
    player.tick.error = _cause(playing.exception())
    player.tick.is_done = True
    return player.tick


def _play(order: Order) -> None:
    with Path(order.arrivals_path).open("wb") as arrivals:
        tick = asyncio.run(_main(order, arrivals))
    # Only now is all that has arrived in the file.
    _say(json.dumps(asdict(tick)))


def _cause(error: BaseException | None) -> str:
    """The first thing that went wrong, for a person; "" when nothing did."""
    if isinstance(error, BaseExceptionGroup):
        return _cause(error.exceptions[0])
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    if isinstance(error, TimeoutError):
        return f"the daemon did not take a call to its end within {END_TIMEOUT_SECONDS:g} s"
    return "" if error is None else repr(error)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    # Ctrl-C is for the benchmark, which then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _play(Order(**json.loads(sys.stdin.readline())))
