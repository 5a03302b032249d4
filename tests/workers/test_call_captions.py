# SPDX-License-Identifier: Apache-2.0
"""Sound of a call that a worker captures in, its captions out: by the stream, and at the server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from structlog.testing import capture_logs

from callsd_daemon.domain.captions import CaptionsSpec, TrackUpdate, Words
from callsd_daemon.workers.captions import call as call_module
from callsd_daemon.workers.captions.call import MAX_SPEAKERS, AudioSink, Call
from callsd_daemon.workers.captions.speaker import Chunk, Speaker
from callsd_daemon.workers.session import call_captions
from callsd_daemon.workers.session.call_captions import MAX_SAMPLE, MAX_SEQUENCE, converse
from callsd_daemon.workers.session.server import WorkerServer
from callsd_daemon.workers.slot import WorkerSlot
from callsd_ipc.v1 import worker_pb2, worker_pb2_grpc
from tests.helpers.waiting import until

from .conftest import hello


if TYPE_CHECKING:
    from callsd_ipc.v1.worker_pb2_grpc import WorkerServiceAsyncStub as Stub


WAIT_SECONDS = 10.0
PACKET = b"\xf8" + bytes(20)
"""20 ms."""
LENGTH = 320

Request = worker_pb2.CaptionCallRequest
Response = worker_pb2.CaptionCallResponse


class Captioner:
    """Remembers what it is sent."""

    def __init__(self) -> None:
        self.sound: list[tuple[str, int, bytes]] = []
        self.ended: list[str] = []

    def send(self, _: Call, speaker: Speaker, chunk: Chunk) -> None:
        """Take a chunk."""
        self.sound.append((speaker.name, chunk.sequence, chunk.data))

    def end(self, speaker: Speaker) -> None:
        """Take an end."""
        self.ended.append(speaker.name)


@pytest.fixture
def captioner() -> Captioner:
    """One that has been sent nothing."""
    return Captioner()


@pytest.fixture
def call(tmp_path: Path, captioner: Captioner) -> Call:
    """A call of which nothing has come."""
    sink = AudioSink(send=captioner.send, end_speech=captioner.end)
    (tmp_path / "call").mkdir()
    return Call("job", CaptionsSpec(model="base"), tmp_path / "call", sink, max_log_bytes=2**20)


def piece(speaker: str = "ada", number: int = 1, /, **changes: Any) -> worker_pb2.SpeakerAudio:
    """The nth packet of a speaker, but for `changes`."""
    said: dict[str, Any] = {
        "speaker": speaker,
        "sequence": number,
        "start_sample": (number - 1) * LENGTH,
        "data": PACKET,
    }
    return worker_pb2.SpeakerAudio(**(said | changes))


class Stream:
    """A worker's stream, without a connection."""

    def __init__(self, call: Call) -> None:
        self.requests: asyncio.Queue[Request | None] = asyncio.Queue()
        self.responses: list[Response] = []
        self.task = asyncio.create_task(self._run(call))

    async def _asked(self) -> AsyncIterator[Request]:
        while (request := await self.requests.get()) is not None:
            yield request

    async def _run(self, call: Call) -> None:
        async with contextlib.aclosing(converse(self._asked(), call)) as responses:
            async for response in responses:
                self.responses.append(response)

    def say(self, *audio: worker_pb2.SpeakerAudio, paused: tuple[str, ...] = ()) -> None:
        """Send sound."""
        self.requests.put_nowait(Request(audio=audio, paused=paused))

    async def end(self) -> None:
        """See it end by itself."""
        async with asyncio.timeout(WAIT_SECONDS):
            await self.task


Open = Callable[[], Stream]


@pytest.fixture
async def stream(call: Call) -> AsyncIterator[Open]:
    """Opens streams of the call; they end with the test."""
    opened: list[Stream] = []

    def begin() -> Stream:
        opened.append(Stream(call))
        return opened[-1]

    yield begin
    for one in opened:
        one.task.cancel()
    await asyncio.gather(*(one.task for one in opened), return_exceptions=True)


def said(text: str, *, is_final: bool = False, end: bool = False) -> TrackUpdate:
    """What the captioner makes of a speaker's first packet."""
    words = Words(
        segment=3,
        revision=2,
        text=text,
        start_sample=10,
        end_sample=LENGTH,
        heard_sample=LENGTH,
        is_end_of_utterance=end,
    )
    return TrackUpdate(
        finals=(words,) if is_final else (),
        interim=None if is_final else words,
        processed_sample=LENGTH if is_final else 0,
        recognised_sample=LENGTH,
    )


class TestSound:
    """What goes to the captioner."""

    async def test_packets(self, stream: Open, captioner: Captioner) -> None:
        """Each packet arrives with its speaker and number, and a pause behind the sound."""
        one = stream()
        one.say(piece("ada", 1), piece("bob", 1), piece("ada", 2))
        one.say(paused=("ada", "nobody"))
        await until(lambda: captioner.ended, "a pause")

        assert captioner.sound == [("ada", 1, PACKET), ("bob", 1, PACKET), ("ada", 2, PACKET)]
        assert captioner.ended == ["ada"]

    @pytest.mark.parametrize(
        "changes",
        [
            {"speaker": ""},
            {"speaker": "a" * 65},
            {"speaker": "../ada"},
            {"speaker": "ada\n"},
            {"sequence": 0},
            {"sequence": -1},
            {"sequence": MAX_SEQUENCE},
            {"sequence": 2**63 - 1},
            {"start_sample": -1},
            {"start_sample": MAX_SAMPLE},
            {"start_sample": 2**63 - 1},
            {"data": b""},
            {"data": b"\x03"},
            {"data": b"\xfb\x3f"},
            {"data": b"\xf8" + bytes(1500)},
        ],
        ids=repr,
    )
    async def test_what_is_no_sound(
        self, stream: Open, call: Call, captioner: Captioner, changes: dict[str, Any]
    ) -> None:
        """What cannot be sound of a call is left out, and the rest of the message is taken."""
        one = stream()
        one.say(piece("ada", 1), piece("ada", 2, **changes), piece("ada", 3))
        await until(lambda: len(captioner.sound) >= 2, "sound")

        assert [sequence for _, sequence, _ in captioner.sound] == [1, 3]
        assert set(call.speakers) == {"ada"}
        assert not one.task.done()

    async def test_sound_that_contradicts_itself(self, stream: Open, captioner: Captioner) -> None:
        """A speaker whose times go back is left out where they do, and nobody else."""
        one = stream()
        one.say(piece("ada", 1, start_sample=160_000))
        one.say(piece("ada", 2, start_sample=0), piece("bob", 1))
        one.say(piece("ada", 3, start_sample=160_640))
        await until(lambda: len(captioner.sound) >= 3, "sound")

        assert [(name, number) for name, number, _ in captioner.sound] == [
            ("ada", 1),
            ("bob", 1),
            ("ada", 3),
        ]
        assert not one.task.done()

    async def test_one_speaker_too_many(
        self, stream: Open, call: Call, captioner: Captioner
    ) -> None:
        """Beyond the most speakers that a call may have, the others are captioned as before."""
        one = stream()
        one.say(*(piece(f"s{number}") for number in range(MAX_SPEAKERS + 5)))
        one.say(piece("s0", 2))
        await until(lambda: captioner.sound[-1:] == [("s0", 2, PACKET)], "more sound")

        assert len(call.speakers) == MAX_SPEAKERS
        assert not one.task.done()

    async def test_a_flood(
        self, stream: Open, call: Call, captioner: Captioner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who sends more than can be worked off is read no further until it is."""
        monkeypatch.setattr(call_module, "MAX_UNRECOGNISED_SECONDS", 0.1)
        one = stream()
        for number in range(1, 101):
            one.say(piece("ada", number))
        await until(lambda: not call.room.is_set(), "no room")
        before = len(captioner.sound)
        for _ in range(100):  # turns of the loop, in which it could go on
            await asyncio.sleep(0)
        assert len(captioner.sound) == before == 6
        while call.speakers["ada"].received_sequence < 100:
            end = call.speakers["ada"].received_sample
            update = TrackUpdate(processed_sample=end, recognised_sample=end)
            call.apply(call.speakers["ada"], update)
            await until(lambda: one.requests.empty() or not call.room.is_set(), "more sound")

        assert [number for _, number, _ in captioner.sound] == list(range(1, 101))


class TestWords:
    """What comes back."""

    async def test_interim_and_final(self, stream: Open, call: Call) -> None:
        """Words come as they are recognised, with all that is known of them."""
        one = stream()
        one.say(piece())
        await until(lambda: call.speakers, "a speaker")
        call.apply(call.speakers["ada"], said("hell"))
        await until(lambda: one.responses, "words")
        call.apply(call.speakers["ada"], said("Hello.", is_final=True, end=True))
        await until(lambda: len(one.responses) == 2, "final words")

        shared: Any = {"speaker": "ada", "segment": 3, "revision": 2, "start_sample": 10}
        assert [response.words for response in one.responses] == [
            worker_pb2.SpeakerWords(**shared, text="hell", heard_sample=LENGTH),
            worker_pb2.SpeakerWords(
                **shared, text="Hello.", heard_sample=LENGTH, final=True, end_of_utterance=True
            ),
        ]

    async def test_what_fell_short(self, stream: Open, call: Call) -> None:
        """That sound was skipped, and that captions are worse or well again, is told."""
        one = stream()
        one.say(piece())
        await until(lambda: call.speakers, "a speaker")
        skipped = TrackUpdate(processed_sample=0, recognised_sample=0, skipped_samples=5)
        call.apply(call.speakers["ada"], skipped)
        call.degrade("by a smaller model")
        call.degrade("")
        await until(lambda: len(one.responses) == 3, "events")

        assert one.responses == [
            Response(skipped="ada"),
            Response(degraded=True),
            Response(degraded=False),
        ]

    async def test_the_end_of_the_call(self, stream: Open, call: Call) -> None:
        """When nothing more will be published the stream ends, with the last words before."""
        one = stream()
        one.say(piece())
        await until(lambda: call.speakers, "a speaker")
        call.close_input()
        call.close()
        await one.end()

        assert call.abandoned_seconds < WAIT_SECONDS


class TestStreams:
    """One after the other, and two at once."""

    @pytest.mark.parametrize("problem", [None, ValueError("a bug")], ids=["an end", "a bug"])
    async def test_how_it_ends(
        self,
        stream: Open,
        call: Call,
        monkeypatch: pytest.MonkeyPatch,
        problem: Exception | None,
    ) -> None:
        """A bug ends the stream, and is in the log; a stream that ends is no news."""

        def receive(*_: object) -> None:
            if problem is not None:
                raise problem

        monkeypatch.setattr(call, "receive", receive)
        with capture_logs() as logs:
            one = stream()
            one.say(piece())
            one.requests.put_nowait(None)
            await one.end()

        bugs = [] if problem is None else [("captured_sound_failed", problem)]
        assert [(entry["event"], entry["exc_info"]) for entry in logs] == bugs

    async def test_after_a_break(self, stream: Open, call: Call, captioner: Captioner) -> None:
        """A stream that is opened again goes on: nothing is captioned twice, nor said again."""
        first = stream()
        first.say(piece("ada", 1), piece("ada", 2))
        await until(lambda: len(captioner.sound) == 2, "sound")
        call.apply(call.speakers["ada"], said("before", is_final=True))
        await until(lambda: first.responses, "words")
        first.requests.put_nowait(None)
        await first.end()
        second = stream()
        second.say(piece("ada", 2), piece("ada", 5))
        await until(lambda: len(captioner.sound) == 3, "more sound")
        call.apply(call.speakers["ada"], said("after"))
        await until(lambda: second.responses, "words")

        assert [number for _, number, _ in captioner.sound] == [1, 2, 5]
        assert [response.words.text for response in second.responses] == ["after"]

    async def test_another_one_takes_over(
        self, stream: Open, call: Call, captioner: Captioner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An older stream ends when a newer one begins, and its sound is not taken any more."""
        monkeypatch.setattr(call_captions, "LOOK_SECONDS", 60.0)
        first = stream()
        first.say(piece("ada", 1))
        await until(lambda: captioner.sound, "sound")
        second = stream()
        await first.end()
        first.say(piece("ada", 2))
        second.say(piece("ada", 3))
        await until(lambda: len(captioner.sound) == 2, "more sound")

        assert [number for _, number, _ in captioner.sound] == [1, 3]
        assert call.abandoned_seconds == 0.0

    async def test_an_older_one_that_waits(
        self, stream: Open, call: Call, captioner: Captioner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A stream that was held back by a flood takes nothing when it is replaced meanwhile."""
        monkeypatch.setattr(call_module, "MAX_UNRECOGNISED_SECONDS", 0.0)
        first = stream()
        first.say(piece("ada", 1))
        first.say(piece("ada", 2))
        await until(lambda: captioner.sound, "sound")
        assert not call.room.is_set()
        second = stream()
        await first.end()
        second.say(piece("ada", 3))
        await until(lambda: len(captioner.sound) == 2, "more sound")

        assert [number for _, number, _ in captioner.sound] == [1, 3]


async def _talk(stub: "Stub", requests: Iterable[Request]) -> None:
    call = stub.CaptionCall()
    with contextlib.suppress(asyncio.InvalidStateError):  # it is refused already
        for request in requests:
            await call.write(request)
        await call.done_writing()
    async for _ in call:
        pass


class TestServer:
    """Who is let in."""

    @pytest.fixture
    async def stub(self, server: WorkerServer) -> "AsyncIterator[Stub]":
        """A worker's end of the server."""
        async with grpc.aio.insecure_channel(server.endpoint(is_local=True).address) as channel:
            yield worker_pb2_grpc.WorkerServiceStub(channel)

    async def refusal(self, stub: "Stub", *requests: Request) -> grpc.StatusCode:
        """How this is refused."""
        with pytest.raises(grpc.aio.AioRpcError) as problem:
            await asyncio.wait_for(_talk(stub, requests), WAIT_SECONDS)
        return problem.value.code()

    @pytest.mark.parametrize(
        "changes", [{"token": "another"}, {"generation": 1}, {"job_id": "another"}], ids=repr
    )
    async def test_a_stranger(
        self, stub: "Stub", slot: WorkerSlot, call: Call, changes: dict[str, object]
    ) -> None:
        """Without the token of this attempt nobody may bring sound, and none is taken."""
        slot.call = call
        code = await self.refusal(stub, Request(hello=hello(**changes)), Request(audio=[piece()]))

        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert not call.speakers

    async def test_without_a_word(self, stub: "Stub", slot: WorkerSlot, call: Call) -> None:
        """Sound without a hello is refused, and so is nothing at all."""
        slot.call = call
        assert await self.refusal(stub, Request(audio=[piece()])) in (
            grpc.StatusCode.PERMISSION_DENIED,
            grpc.StatusCode.INVALID_ARGUMENT,
        )
        assert await self.refusal(stub) is grpc.StatusCode.INVALID_ARGUMENT
        assert not call.speakers

    async def test_a_call_that_is_not_captioned(self, stub: "Stub", slot: WorkerSlot) -> None:
        """Who has the token, while nobody captions, may come again."""
        assert slot.call is None
        assert await self.refusal(stub, Request(hello=hello())) is grpc.StatusCode.UNAVAILABLE

    async def test_a_daemon_that_has_just_begun(self, stub: "Stub", server: WorkerServer) -> None:
        """A worker that is still to be adopted may come again."""
        server.expect("other")
        code = await self.refusal(stub, Request(hello=hello(job_id="other")))

        assert code is grpc.StatusCode.UNAVAILABLE

    async def test_its_worker(
        self, stub: "Stub", slot: WorkerSlot, call: Call, captioner: Captioner
    ) -> None:
        """The worker with the token brings sound, and gets words, until the call ends."""
        slot.call = call
        stream = stub.CaptionCall()
        await stream.write(Request(hello=hello()))
        await stream.write(Request(audio=[piece()]))
        await until(lambda: captioner.sound, "sound")
        call.apply(call.speakers["ada"], said("hello"))
        async with asyncio.timeout(WAIT_SECONDS):
            response = await stream.read()
        assert isinstance(response, Response)
        assert response.words.text == "hello"
        call.close()
        async with asyncio.timeout(WAIT_SECONDS):
            assert await stream.read() is grpc.aio.EOF
