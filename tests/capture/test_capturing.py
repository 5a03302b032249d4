# SPDX-License-Identifier: Apache-2.0
"""A capture with a call and a captioner of the test's own."""

import asyncio
import contextlib
import errno
import itertools
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from callsd_worker.capture import capturing as module
from callsd_worker.capture import packet_log
from callsd_worker.capture.call import (
    CallClient,
    End,
    Ending,
    JoinError,
    Packet,
    SenderReport,
    Speaker,
)
from callsd_worker.capture.caption_text import Words
from callsd_worker.capture.capturing import (
    MAX_PARCEL_PACKETS,
    MAX_WAITING_PACKETS,
    Captioner,
    Capture,
    Heard,
    Shortfall,
    Sound,
)
from callsd_worker.capture.log_reader import read
from callsd_worker.capture.packet_log import (
    Mark,
    PacketLogs,
    RecordingStart,
    TrackInfo,
    _TrackLog,
    file_name,
)
from callsd_worker.capture.publisher import BURST, Metric
from callsd_worker.mattermost.settings import steady_clock
from tests.helpers.waiting import until


ADA, BOB = Speaker(session_id="ada", name="Ada"), Speaker(session_id="bob", name="Bob")
FRAME = 960
SOUND = b"\xf8" + bytes(20)
"""An Opus packet of 20 ms."""

WAIT_SECONDS = 10.0


class Call(CallClient):
    """A call that goes on until it is told to end, and writes down what it is shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, str]] = []
        self.counted: list[tuple[str, str]] = []
        self.is_asked_to_stop = False
        self.is_away = False
        self.dropped: list[str] = []
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    async def run(self) -> Ending:
        return await self.ended

    def request_stop(self) -> None:
        self.is_asked_to_stop = True
        if not self.ended.done():
            self.ended.set_result(Ending(end=End.OVER, message="told to leave"))

    def show_caption(self, session_id: str, text: str, new_audio_seconds: float) -> bool:
        if self.is_away:
            self.dropped.append(text)
            return False
        self.shown.append((session_id, text))
        return True

    def count(self, session_id: str, metric: str) -> None:
        self.counted.append((session_id, metric))


@dataclass(slots=True)
class Dialled:
    """One conversation with the captioner."""

    sound: AsyncIterator[list[Sound]]
    said: asyncio.Queue[Heard | Exception | None] = field(default_factory=asyncio.Queue)
    """What it says; None: it hangs up."""

    async def parcel(self) -> list[Sound]:
        """What it is sent next."""
        async with asyncio.timeout(WAIT_SECONDS):
            return await anext(self.sound)


class Ear(Captioner):
    """A captioner that does what the test says."""

    def __init__(self) -> None:
        self.dialled: list[Dialled] = []

    async def converse(self, sound: AsyncIterator[list[Sound]]) -> AsyncIterator[Heard]:
        conversation = Dialled(sound)
        self.dialled.append(conversation)
        while (said := await conversation.said.get()) is not None:
            if isinstance(said, Exception):
                raise said
            yield said


def packet(number: int, payload: bytes = SOUND) -> Packet:
    """The nth packet of a track."""
    return Packet(
        sequence=number,
        timestamp=number * FRAME,
        payload=payload,
        arrival_seconds=steady_clock()(),
    )


def words(text: str, revision: int = 1, session_id: str = "ada") -> Words:
    """What a captioner says."""
    return Words(
        session_id=session_id,
        segment="1",
        revision=revision,
        text=text,
        is_final=False,
        is_end_of_utterance=False,
        start_seconds=0.0,
        heard_seconds=1.0,
    )


@dataclass(slots=True)
class Running:
    """A capture that runs."""

    capture: Capture
    call: Call
    ear: Ear
    task: asyncio.Task[Ending]
    directory: Path
    phases: list[str]

    async def dialled(self, count: int = 1) -> Dialled:
        """The captioner's nth conversation."""
        await until(lambda: len(self.ear.dialled) >= count, "a conversation")
        return self.ear.dialled[count - 1]

    async def end(self) -> Ending:
        """The call is over."""
        self.call.request_stop()
        async with asyncio.timeout(WAIT_SECONDS):
            return await self.task

    def kept(self, number: int = 0) -> list[object]:
        """What is on the disk of a track."""
        path = self.directory / file_name(number)
        return list(read(path)) if path.exists() else []

    def payloads(self, number: int = 0) -> list[bytes]:
        """The same, sound alone."""
        return [one.payload for one in self.kept(number) if isinstance(one, Packet)]


Start = Callable[..., Running]


@pytest.fixture
async def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """Starts captures; they are ended with the test."""
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.01)
    monkeypatch.setattr(module, "REDIAL_SECONDS", 0.01)
    monkeypatch.setattr(module, "DISK_SECONDS", 0.0)
    started: list[Running] = []

    def begin(*, captioner: Captioner | None = None, min_free_bytes: int = 0) -> Running:
        ear, call, phases = Ear(), Call(), list[str]()
        capture = Capture(
            tmp_path,
            captioner or ear,
            clock=steady_clock(),
            min_free_bytes=min_free_bytes,
            report=phases.append,
        )
        task = asyncio.create_task(capture.run(call))
        started.append(Running(capture, call, ear, task, tmp_path, phases))
        return started[-1]

    yield begin
    for running in started:
        running.task.cancel()
        with contextlib.suppress(asyncio.CancelledError, JoinError):
            await running.task


class TestKeeping:
    """What is said is on the disk, whatever else happens."""

    async def test_all_that_is_told(self, start: Start) -> None:
        """Sound, reports, mutes and ends are kept with their track, and whose it is."""
        running = start()
        report = SenderReport(timestamp=1, ntp_seconds=2.0, arrival_seconds=3.0)
        capture, sent = running.capture, packet(1)
        await running.dialled()
        capture.joined()
        capture.recording_started(7.0)
        capture.track("t", ADA)
        capture.packet("t", sent)
        capture.sender_report("t", report)
        capture.muted("ada")
        capture.muted("nobody")
        capture.track_ended("t")
        ending = await running.end()

        assert ending.end is End.OVER
        assert running.phases == ["joining", "capturing"]
        assert running.kept() == [
            RecordingStart(time_seconds=7.0),
            TrackInfo(track_id="t", speaker=ADA),
            sent,
            report,
            Mark.MUTED,
            Mark.ENDED,
        ]

    async def test_while_the_call_goes_on(self, start: Start) -> None:
        """Sound is on the disk soon after it came: also that which came before any captioner."""
        running = start()
        running.capture.track("t", ADA)
        running.capture.packet("t", packet(1))

        await until(lambda: running.payloads() == [SOUND], "sound on the disk")
        assert not running.task.done()

    async def test_without_captions(self, tmp_path: Path) -> None:
        """A capture that nobody captions keeps sound, and gathers none for a captioner."""
        call = Call()
        capture = Capture(
            tmp_path, None, clock=steady_clock(), min_free_bytes=0, report=lambda _: None
        )
        running = asyncio.create_task(capture.run(call))
        capture.track("t", ADA)
        for number in range(10):
            capture.packet("t", packet(number))
        capture.muted("ada")
        call.request_stop()
        await running

        assert len(list(read(tmp_path / file_name(0)))) == 12
        assert not capture._sound

    async def test_a_captioner_that_takes_nothing(self, start: Start) -> None:
        """Who does not read holds nothing up: all is kept, and what waits is bounded and told."""
        running = start()
        await running.dialled()
        running.capture.track("t", ADA)
        count = MAX_WAITING_PACKETS + 500
        for number in range(count):
            running.capture.packet("t", packet(number))
        assert len(running.capture._sound) == MAX_WAITING_PACKETS
        await until(lambda: running.call.counted, "a figure")
        await running.end()

        assert len(running.payloads()) == count
        assert set(running.call.counted) == {("ada", Metric.PACKETS_DROPPED)}

    @pytest.mark.parametrize("error", [ConnectionError("away"), ValueError("a bug")])
    async def test_a_captioner_that_is_broken(self, start: Start, error: Exception) -> None:
        """Nor does one with which every conversation fails, even by a bug."""

        class Broken(Captioner):
            async def converse(self, sound: AsyncIterator[list[Sound]]) -> AsyncIterator[Heard]:
                raise error
                yield

        running = start(captioner=Broken())
        running.capture.track("t", ADA)
        for number in range(5):
            running.capture.packet("t", packet(number))
            await asyncio.sleep(0)
        await until(lambda: len(running.payloads()) == 5, "sound on the disk")
        running.capture.packet("t", packet(5))
        ending = await running.end()

        assert ending.end is End.OVER
        assert len(running.payloads()) == 6

    async def test_a_call_that_is_not_joined(self, start: Start) -> None:
        """Why the call could not be joined comes through, and nothing is left running."""
        running = start()
        await running.dialled()
        running.call.ended.set_exception(JoinError("refused"))
        with pytest.raises(JoinError, match="refused"):
            await running.task

        assert {task for task in asyncio.all_tasks() if not task.done()} == {asyncio.current_task()}

    async def test_a_track_that_is_not_kept(
        self, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """For one too many nothing is placed or captioned, and the log says so once."""
        monkeypatch.setattr(packet_log, "MAX_TRACKS", 1)
        running = start()
        running.capture.track("t", ADA)
        for _ in range(3):
            running.capture.track("u", BOB)
            running.capture.packet("u", packet(1))
        running.capture.muted("bob")
        running.capture.track_ended("u")

        assert running.capture.has_refused_tracks
        assert list(running.capture._captioned) == ["ada"]
        assert not running.capture._sound
        assert len([one for one in caplog.messages if "no more than" in one]) == 1


class TestDisk:
    """A disk that is slow, short or broken."""

    async def test_short(self, start: Start) -> None:
        """Before the disk is full the capture ends by itself, and says why."""
        running = start(min_free_bytes=1 << 60)
        async with asyncio.timeout(WAIT_SECONDS):
            ending = await running.task

        assert ending.end is End.OVER
        assert running.call.is_asked_to_stop
        assert running.capture.problem == "the capture was ended before the disk was full"

    async def test_looked_at_in_vain(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        """A disk whose space cannot be learned for a moment ends nothing."""
        looks = []

        def usage(path: Path) -> SimpleNamespace:
            looks.append(path)
            if len(looks) == 1:
                raise OSError(errno.EIO, "input/output error")
            return SimpleNamespace(free=1)

        monkeypatch.setattr(module, "shutil", SimpleNamespace(disk_usage=usage))
        running = start()
        await until(lambda: len(looks) > 2, "more looks")
        running.capture.track("t", ADA)
        running.capture.packet("t", packet(1))
        await running.end()

        assert running.payloads() == [SOUND]
        assert running.capture.problem == ""

    async def test_a_write_that_fails(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        """What could not be written is lost, and what comes after it is kept."""
        flush, failed = PacketLogs.flush, list[bool]()

        def failing(logs: PacketLogs) -> None:
            if len(failed) < 3:
                failed.append(True)
                raise OSError(errno.ENOSPC, "No space left on device")
            flush(logs)

        monkeypatch.setattr(PacketLogs, "flush", failing)
        running = start()
        await until(lambda: len(failed) == 3, "failures")
        running.capture.track("t", ADA)
        running.capture.packet("t", packet(1))
        await until(lambda: running.payloads() == [SOUND], "sound on the disk")
        assert not running.task.done()

    async def test_at_the_end(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        """A disk that fails at the very end changes nothing about how the call ended."""
        running = start()
        running.capture.track("t", ADA)

        def failing(logs: PacketLogs) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(PacketLogs, "flush", failing)
        assert (await running.end()).end is End.OVER

    async def test_a_bug(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        """When keeping itself fails the capture ends: a call that is lost must not look well."""
        flush, failed = PacketLogs.flush, list[bool]()

        def failing(logs: PacketLogs) -> None:
            if not failed:
                failed.append(True)
                raise ValueError("a bug")
            flush(logs)

        running = start()
        monkeypatch.setattr(PacketLogs, "flush", failing)
        async with asyncio.timeout(WAIT_SECONDS):
            await running.task

        assert "mistake of this program" in running.capture.problem

    async def test_that_hangs(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        """While the disk hangs, packets are taken and captioned; none of them is lost."""
        running = start()
        running.capture.track("t", ADA)
        entered, release, really = threading.Event(), threading.Event(), _TrackLog._append

        def hanging(log: _TrackLog, data: bytes) -> None:
            entered.set()
            assert release.wait(WAIT_SECONDS)
            really(log, data)

        monkeypatch.setattr(_TrackLog, "_append", hanging)
        running.capture.packet("t", packet(0))
        await until(entered.is_set, "a write")
        for number in range(1, 1000):
            running.capture.packet("t", packet(number))
        parcel = await (await running.dialled()).parcel()
        running.capture.track("u", BOB)
        release.set()
        await running.end()

        assert len(parcel) == MAX_PARCEL_PACKETS
        assert len(running.payloads()) == 1000


class TestSound:
    """What the captioner is sent."""

    async def test_packets(self, start: Start) -> None:
        """Each speaker's sound comes numbered and placed, from before the captioner was there."""
        running = start()
        running.capture.track("t", ADA)
        running.capture.track("u", BOB)
        for number in range(3):
            running.capture.packet("t", packet(number))
            running.capture.packet("u", packet(number + 7))
        running.capture.packet("unknown", packet(1))
        parcel = await (await running.dialled()).parcel()

        assert [(one.session_id, one.sequence, one.data) for one in parcel] == [
            (name, number, SOUND) for number in (1, 2, 3) for name in ("ada", "bob")
        ]
        starts = [one.start_sample for one in parcel if one.session_id == "ada"]
        assert starts == [starts[0], starts[0] + 320, starts[0] + 640]
        assert 0 <= starts[0] < 16_000 * WAIT_SECONDS

    async def test_a_mute(self, start: Start) -> None:
        """A mute is told behind the sound before it, and ahead of the sound after it."""
        running = start()
        running.capture.track("t", ADA)
        running.capture.packet("t", packet(1))
        running.capture.muted("ada")
        running.capture.muted("nobody")
        running.capture.packet("t", packet(2))
        conversation = await running.dialled()
        parcels = [await conversation.parcel(), await conversation.parcel()]

        assert [[bool(one.data) for one in parcel] for parcel in parcels] == [
            [True, False],
            [True],
        ]
        assert parcels[0][1].session_id == "ada"

    async def test_another_track_of_a_session(self, start: Start) -> None:
        """Who comes back with a new track goes on: neither numbers nor places begin again.

        The captioner takes what has a number of before for sound that it knows.
        """
        running = start()
        capture = running.capture
        capture.track("t", ADA)
        for number in range(300, 310):
            capture.packet("t", packet(number))
        capture.track_ended("t")
        capture.track("later", ADA)
        for number in range(5):
            capture.packet("later", packet(number))
        parcel = await (await running.dialled()).parcel()

        assert [one.sequence for one in parcel] == list(range(1, 16))
        starts = [one.start_sample for one in parcel]
        assert all(after >= before + 320 for before, after in itertools.pairwise(starts))

    async def test_two_tracks_of_a_session(self, start: Start) -> None:
        """Of a session with two tracks at once the newest is captioned, and both are kept."""
        running = start()
        capture = running.capture
        capture.track("t", ADA)
        capture.packet("t", packet(1))
        capture.track("later", ADA)
        capture.track("t", Speaker(session_id="ada", name="Ada A."))
        for number in range(3):
            capture.packet("t", packet(number + 2))
            capture.packet("later", packet(number + 50, SOUND + b"x"))
        capture.track_ended("t")
        capture.packet("later", packet(53, SOUND + b"x"))
        parcel = await (await running.dialled()).parcel()
        await running.end()

        assert [one.data for one in parcel] == [SOUND] + [SOUND + b"x"] * 4
        assert [len(running.payloads(number)) for number in (0, 1)] == [4, 4]

    async def test_after_a_break(self, start: Start) -> None:
        """A conversation that breaks is begun again, and sound goes on behind what it was sent."""
        running = start()
        running.capture.track("t", ADA)
        first = await running.dialled()
        running.capture.packet("t", packet(1))
        assert [one.sequence for one in await first.parcel()] == [1]
        first.said.put_nowait(ConnectionError("the daemon is gone"))
        second = await running.dialled(2)
        running.capture.packet("t", packet(2))
        assert [one.sequence for one in await second.parcel()] == [2]
        second.said.put_nowait(None)
        third = await running.dialled(3)
        running.capture.packet("t", packet(3))

        assert [one.sequence for one in await third.parcel()] == [3]
        third.said.put_nowait(words("still here"))
        await until(lambda: running.call.shown == [("ada", "still here")], "a caption")

    async def test_that_does_not_come_back(
        self, start: Start, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A captioner that is away is dialled for as long as it takes, and the log says so once."""
        running = start()
        for number in range(1, 6):
            conversation = await running.dialled(number)
            conversation.said.put_nowait(ConnectionError("the daemon is gone"))
        conversation = await running.dialled(6)
        conversation.said.put_nowait(words("hello"))
        await until(lambda: running.call.shown, "a caption")
        conversation.said.put_nowait(ConnectionError("the daemon is gone"))
        await running.dialled(7)

        assert caplog.text.count("the daemon is gone") == 2


class TestCaptions:
    """What the call is shown."""

    async def test_words(self, start: Start) -> None:
        """Words are shown as they come, and counted."""
        running = start()
        running.capture.track("t", ADA)
        conversation = await running.dialled()
        conversation.said.put_nowait(words("hello"))
        await until(lambda: running.call.shown, "a caption")
        conversation.said.put_nowait(words("hello everybody", 2))
        await until(lambda: len(running.call.shown) == 2, "another one")

        assert running.call.shown == [("ada", "hello"), ("ada", "hello everybody")]
        assert running.capture.caption_count == 2

    async def test_that_nobody_sees(self, start: Start) -> None:
        """What could not be sent is not counted as shown."""
        running = start()
        running.call.is_away = True
        running.capture.track("t", ADA)
        conversation = await running.dialled()
        conversation.said.put_nowait(words("hello"))
        await until(lambda: running.call.dropped, "a caption that is dropped")
        running.call.is_away = False
        conversation.said.put_nowait(words("hello everybody", 2))
        await until(lambda: running.call.shown, "a caption")

        assert running.call.shown == [("ada", "hello everybody")]
        assert running.capture.caption_count == 1

    async def test_at_the_limit(self, start: Start) -> None:
        """A flood of words is shown at the call's rate, and the newest words of all at last."""
        running = start()
        conversation = await running.dialled()
        names = [f"s{number}" for number in range(round(BURST) + 5)]
        for revision in range(1, 20):
            for name in names:
                conversation.said.put_nowait(words(f"word {revision}", revision, name))
        await until(
            lambda: {name for name, text in running.call.shown if text == "word 19"} == set(names),
            "the newest words of everybody",
        )

        assert len(running.call.shown) < 3 * len(names)
        assert running.capture.caption_count == len(running.call.shown)

    async def test_what_fell_short(self, start: Start) -> None:
        """What the captioner could not do is told to the call by its own names."""
        running = start()
        conversation = await running.dialled()
        conversation.said.put_nowait(words("hello"))
        conversation.said.put_nowait(Shortfall(metric=Metric.FELL_BEHIND))
        conversation.said.put_nowait(Shortfall(metric=Metric.AUDIO_SKIPPED, session_id="bob"))
        await until(lambda: len(running.call.counted) == 2, "figures")

        assert sorted(running.call.counted) == [
            ("ada", "live_captions_transcriber_buf_full"),
            ("bob", "live_captions_window_dropped"),
        ]

    async def test_of_who_has_left(self, start: Start) -> None:
        """Words of a session that has left are not kept on the screen."""
        running = start()
        running.capture.track("t", ADA)
        conversation = await running.dialled()
        conversation.said.put_nowait(words("hello"))
        await until(lambda: running.call.shown, "a caption")
        running.capture.track_ended("t")

        assert running.capture._publisher.next_seconds() is None
