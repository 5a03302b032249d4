# SPDX-License-Identifier: Apache-2.0
"""A worker that captures a call: what it leaves, and how it talks to the daemon's captioner."""

import asyncio
import errno
import hashlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from callsd_ipc.names import ARTIFACTS, OUTCOME, PIECES
from callsd_ipc.v1 import worker_pb2, worker_pb2_grpc
from callsd_worker.capture import packet_log, tracks
from callsd_worker.capture.call import (
    End,
    Ending,
    JoinError,
    Listener,
    NotSavedError,
    Packet,
    Speaker,
    StoppedError,
)
from callsd_worker.capture.caption_text import Words
from callsd_worker.capture.capturing import Shortfall, Sound
from callsd_worker.capture.packet_log import PacketLogs, _TrackLog, file_name
from callsd_worker.capture.publisher import Metric
from callsd_worker.session import capture as module
from callsd_worker.session.capture import capture, salvage
from callsd_worker.session.client import Session
from callsd_worker.session.failures import failure_of
from callsd_worker.session.outcome import read_outcome
from tests.helpers.waiting import until

from .sound import click_seconds, clicks, decoded


START = 1_700_000_000.0
PACKETS = clicks(100)
"""Two seconds."""

WAIT_SECONDS = 10.0

Script = Callable[["Client"], Any]


class Client:
    """A call in which the test says what happens."""

    script: Script

    def __init__(self, call: Any, token: str, listener: Listener, **options: Any) -> None:
        self.call, self.token, self.listener, self.options = call, token, listener, options
        self.stopped = asyncio.Event()
        self.shown: list[str] = []

    async def run(self) -> Ending:
        """Do as the script says."""
        ending = await type(self).script(self)
        assert isinstance(ending, Ending)
        return ending

    def request_stop(self) -> None:
        """Leave."""
        self.stopped.set()

    def show_caption(self, session_id: str, text: str, new_audio_seconds: float) -> bool:
        """Write it down."""
        self.shown.append(text)
        return True

    def count(self, session_id: str, metric: str) -> None:
        """Nobody looks."""


class Worker:
    """What the work asks of its session."""

    def __init__(self, directory: Path, **work: Any) -> None:
        self.directory, self.generation = directory, 3
        said: dict[str, Any] = {"site_url": "https://mm.example", "call_id": "c", "job_id": "j"}
        said |= {"token": "secret", "max_seconds": 60.0}
        self.assignment = worker_pb2.Assignment(capture=worker_pb2.CaptureWork(**(said | work)))
        self.phases: list[str] = []
        self.is_stopping = threading.Event()

    def report(self, status: worker_pb2.Status) -> None:
        """Write it down."""
        self.phases.append(status.phase)

    def should_stop(self) -> bool:
        """Whether the daemon has said so."""
        return self.is_stopping.is_set()

    def capture(self, endpoint: str = "unix:/nonexistent") -> worker_pb2.Outcome:
        """Do the work; what it has left."""
        bootstrap = worker_pb2.Bootstrap(job_id="job", token="the-token", endpoint=endpoint)
        capture(cast(Session, self), bootstrap)
        outcome = read_outcome(self.directory, self.generation)
        assert outcome is not None
        return outcome


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    """One that has not begun."""
    return Worker(tmp_path)


@pytest.fixture
def plays(monkeypatch: pytest.MonkeyPatch) -> Callable[[Script], None]:
    """Sets what happens in the call."""
    monkeypatch.setattr(module, "MattermostClient", Client)
    return lambda script: monkeypatch.setattr(Client, "script", staticmethod(script), raising=False)


def packets(begin_seconds: float, sound: list[bytes] = PACKETS) -> list[Packet]:
    """Sound that began at this time."""
    return [
        Packet(
            sequence=number,
            timestamp=number * 960,
            payload=payload,
            arrival_seconds=begin_seconds + number / 50,
        )
        for number, payload in enumerate(sound)
    ]


def speak(listener: Listener, track_id: str, speaker: Speaker, begin_seconds: float) -> None:
    """Somebody says something."""
    listener.track(track_id, speaker)
    for packet in packets(begin_seconds):
        listener.packet(track_id, packet)


OVER = Ending(end=End.OVER, message="the call has ended")
ADA = Speaker(session_id="s1", user_id="u1", name="Ada")
GUEST = Speaker(session_id="s2")


async def waits_outside(client: Client) -> Ending:
    """A call that is not joined until the capture is stopped."""
    async with asyncio.timeout(WAIT_SECONDS):
        await client.stopped.wait()
    return Ending(end=End.OVER, message="told to leave")


def pieces(directory: Path, speaker: Speaker, begin_seconds: float) -> None:
    """A worker captures somebody, and is killed."""
    (directory / PIECES).mkdir(exist_ok=True)
    logs = PacketLogs(directory / PIECES)
    logs.recording_started(START - 2)
    logs.track("t", speaker)
    for packet in packets(begin_seconds):
        logs.packet("t", packet)
    logs.close()


class TestOutcome:
    """What a capture leaves."""

    def test_tracks(self, worker: Worker, plays: Callable[[Script], None]) -> None:
        """Each speaker has a file, which says whose it is, when it begins and how long it is."""
        clients = []

        async def script(client: Client) -> Ending:
            clients.append(client)
            client.listener.joined()
            client.listener.recording_started(START - 1)
            speak(client.listener, "t1", ADA, START)
            speak(client.listener, "t2", GUEST, START + 5)
            client.listener.track("silent", Speaker(session_id="s3", user_id="u3"))
            return OVER

        plays(script)
        outcome = worker.capture()

        (client,) = clients
        assert (client.call.site_url, client.call.call_id, client.call.job_id) == (
            "https://mm.example",
            "c",
            "j",
        )
        assert client.token == "secret"
        assert worker.phases == ["joining", "capturing", "finishing"]
        assert (outcome.failure_reason, list(outcome.notices)) == ("", [])
        assert outcome.wall_seconds > 0
        found = outcome.capture
        assert [(track.file_name, track.speaker, track.speaker_id) for track in found.tracks] == [
            ("track-000.ogg", "Ada", "u1"),
            ("track-001.ogg", "", "s2"),
        ]
        starts = [track.start_ms / 1000 - START for track in found.tracks]
        assert starts == pytest.approx([0.0, 5.0], abs=0.04)
        assert [track.duration_seconds for track in found.tracks] == [2.0, 2.0]
        assert found.recording_start_ms == (START - 1) * 1000
        assert (found.caption_count, found.problem) == (0, "")
        for artifact, name in zip(
            outcome.artifacts, ("track-000.ogg", "track-001.ogg"), strict=True
        ):
            content = (worker.directory / ARTIFACTS / name).read_bytes()
            assert artifact == worker_pb2.ArtifactFile(
                file_name=name,
                media_type="audio/ogg",
                size_bytes=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
            )
        sound = decoded(worker.directory / ARTIFACTS / "track-000.ogg")
        assert click_seconds(sound) == pytest.approx([0.0, 0.5, 1.0, 1.5], abs=0.02)
        assert not (worker.directory / PIECES).exists()

    def test_nobody_spoke(self, worker: Worker, plays: Callable[[Script], None]) -> None:
        """A call without a word is a capture without tracks."""

        async def script(client: Client) -> Ending:
            client.listener.joined()
            return OVER

        plays(script)
        outcome = worker.capture()

        assert (outcome.failure_reason, list(outcome.artifacts)) == ("", [])
        assert outcome.HasField("capture")
        assert outcome.capture == worker_pb2.CaptureOutcome()

    def test_a_connection_that_broke(self, worker: Worker, plays: Callable[[Script], None]) -> None:
        """What was captured before the connection broke is kept, and it is told why it ended."""

        async def script(client: Client) -> Ending:
            client.listener.joined()
            speak(client.listener, "t1", ADA, START)
            return Ending(end=End.LOST, message="the server was away for too long")

        plays(script)
        outcome = worker.capture()

        assert outcome.capture.problem == "the server was away for too long"
        assert len(outcome.capture.tracks) == 1
        assert [notice.code for notice in outcome.notices] == ["CAPTURE_CUT_SHORT"]
        assert "away for too long" in outcome.notices[0].message

    def test_a_track_that_is_damaged(self, worker: Worker, plays: Callable[[Script], None]) -> None:
        """Damage to one track is told with its speaker, and costs no other one."""

        async def script(client: Client) -> Ending:
            client.listener.joined()
            speak(client.listener, "t1", ADA, START)
            speak(client.listener, "t2", GUEST, START)
            await until((worker.directory / PIECES / file_name(1)).exists, "pieces")
            path = worker.directory / PIECES / file_name(0)
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
            return OVER

        plays(script)
        outcome = worker.capture()

        assert len(outcome.capture.tracks) == 2
        assert [(one.code, one.message.partition(":")[0]) for one in outcome.notices] == [
            ("TRACK_DAMAGED", "Ada")
        ]

    def test_a_call_that_is_not_joined(
        self, worker: Worker, plays: Callable[[Script], None]
    ) -> None:
        """Why a call could not be joined is for who reports the failure; no outcome is left."""

        async def script(client: Client) -> Ending:
            raise JoinError("the call was not joined within 45 s")

        plays(script)
        with pytest.raises(JoinError, match="not joined"):
            worker.capture()

        assert not (worker.directory / OUTCOME).exists()

    def test_a_call_that_is_not_joined_again(
        self, worker: Worker, plays: Callable[[Script], None]
    ) -> None:
        """What a worker before this one has captured is kept, whatever refuses this one."""
        pieces(worker.directory, ADA, START)

        async def script(client: Client) -> Ending:
            raise JoinError("the call was not joined within 45 s")

        plays(script)
        outcome = worker.capture()

        assert outcome.failure_reason == ""
        assert [track.speaker_id for track in outcome.capture.tracks] == ["u1"]
        assert outcome.capture.problem == "the call was not joined within 45 s"
        assert [notice.code for notice in outcome.notices] == ["CAPTURE_CUT_SHORT"]

    def test_a_bug(self, worker: Worker, plays: Callable[[Script], None]) -> None:
        """What was captured before a mistake of ours is kept, and it is told."""

        async def script(client: Client) -> Ending:
            client.listener.joined()
            speak(client.listener, "t1", ADA, START)
            raise ExceptionGroup("the client", [ValueError("a bug")])

        plays(script)
        outcome = worker.capture()

        assert outcome.failure_reason == ""
        assert len(outcome.capture.tracks) == 1
        assert "a bug in callsd" in outcome.capture.problem

    def test_a_bug_before_any_sound(self, worker: Worker, plays: Callable[[Script], None]) -> None:
        """Without any sound such a mistake is the failure of the job."""

        async def script(client: Client) -> Ending:
            raise ValueError("a bug")

        plays(script)
        with pytest.raises(ValueError, match="a bug"):
            worker.capture()
        assert not (worker.directory / OUTCOME).exists()


class TestFiles:
    """Files cannot be made of what was captured."""

    @pytest.fixture
    def fails(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception, str], None]:
        """Has the files fail whose names begin so."""
        write = tracks._write

        def fails(error: Exception, prefix: str) -> None:
            def failing(target: Path, *arguments: Any, **options: Any) -> int:
                if target.name.startswith(prefix):
                    raise error
                return write(target, *arguments, **options)

            monkeypatch.setattr(tracks, "_write", failing)

        return fails

    async def two(self, client: Client) -> Ending:
        """A call with two speakers."""
        client.listener.joined()
        speak(client.listener, "t1", ADA, START)
        speak(client.listener, "t2", GUEST, START)
        return OVER

    @pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space"), ValueError("a bug")])
    def test_one(
        self,
        worker: Worker,
        plays: Callable[[Script], None],
        fails: Callable[[Exception, str], None],
        error: Exception,
    ) -> None:
        """It is told whose sound is lost; only what became a file is removed."""
        fails(error, "track-000")
        plays(self.two)
        outcome = worker.capture()

        assert [track.speaker_id for track in outcome.capture.tracks] == ["s2"]
        (notice,) = outcome.notices
        assert notice.code == "TRACK_DAMAGED"
        assert notice.message.startswith("Ada: all that was said is lost; ")
        assert [path.name for path in (worker.directory / PIECES).iterdir()] == [file_name(0)]

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (OSError(errno.ENOSPC, "No space"), "DISK_FULL"),
            (OSError(errno.EDQUOT, "quota"), "DISK_FULL"),
            (ValueError("a bug"), "INTERNAL"),
        ],
    )
    def test_all(
        self,
        worker: Worker,
        plays: Callable[[Script], None],
        fails: Callable[[Exception, str], None],
        error: Exception,
        reason: str,
    ) -> None:
        """Without a single file the job fails: then its pieces are kept for a person."""
        fails(error, "track-")
        plays(self.two)
        with pytest.raises(Exception) as failed:  # noqa: PT011 - what it means is asked below
            worker.capture()

        assert failure_of(failed.value)[0] == reason
        assert not (worker.directory / OUTCOME).exists()
        assert len(list((worker.directory / PIECES).iterdir())) == 2

    @pytest.mark.parametrize("is_all_lost", [False, True])
    def test_sound_that_could_not_be_kept(
        self,
        worker: Worker,
        plays: Callable[[Script], None],
        monkeypatch: pytest.MonkeyPatch,
        *,
        is_all_lost: bool,
    ) -> None:
        """It is told of whom how much is missing; a call of which all is was not a silent one."""
        append = _TrackLog._append

        def failing(log: _TrackLog, data: bytes) -> None:
            if is_all_lost or log.speaker == ADA:
                raise OSError(errno.ENOSPC, "No space left on device")
            append(log, data)

        monkeypatch.setattr(_TrackLog, "_append", failing)
        plays(self.two)
        if is_all_lost:
            with pytest.raises(NotSavedError, match=r"Ada: about 2\.0 s"):
                worker.capture()
            return
        outcome = worker.capture()

        assert [track.speaker_id for track in outcome.capture.tracks] == ["s2"]
        (notice,) = outcome.notices
        assert notice.code == "TRACK_DAMAGED"
        assert notice.message.startswith("Ada: about 2.0 s of what was said could not be kept")
        assert outcome.capture.problem == ""

    def test_too_many_tracks(
        self,
        worker: Worker,
        plays: Callable[[Script], None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Those for which there was no room are told of."""
        monkeypatch.setattr(packet_log, "MAX_TRACKS", 1)
        plays(self.two)
        outcome = worker.capture()

        assert [track.speaker_id for track in outcome.capture.tracks] == ["u1"]
        (notice,) = outcome.notices
        assert notice.code == "TRACK_DAMAGED"
        assert "tracks of the call were kept" in notice.message

    def test_salvage(self, tmp_path: Path, fails: Callable[[Exception, str], None]) -> None:
        """So does one whose worker has died."""
        pieces(tmp_path, ADA, START)
        fails(OSError(errno.ENOSPC, "No space"), "track-")
        salvage(tmp_path, 4, "WORKER_KILLED", "killed")

        assert not (tmp_path / OUTCOME).exists()
        assert (tmp_path / PIECES / file_name(0)).exists()


class TestEnd:
    """Who else can end a capture."""

    @pytest.mark.parametrize("max_seconds", [60.0, 0.0])
    def test_told_to(
        self, tmp_path: Path, plays: Callable[[Script], None], max_seconds: float
    ) -> None:
        """The daemon's stop and the longest time both have the call left, and files made."""
        worker = Worker(tmp_path, max_seconds=max_seconds)
        if max_seconds:
            worker.is_stopping.set()

        async def script(client: Client) -> Ending:
            client.listener.joined()
            speak(client.listener, "t1", ADA, START)
            async with asyncio.timeout(WAIT_SECONDS):
                await client.stopped.wait()
            return Ending(end=End.OVER, message="told to leave")

        plays(script)
        outcome = worker.capture()

        assert len(outcome.capture.tracks) == 1
        assert outcome.capture.problem == ""

    def test_not_before(self, tmp_path: Path, plays: Callable[[Script], None]) -> None:
        """The longest time is granted in full."""
        worker = Worker(tmp_path, max_seconds=0.5)

        async def script(client: Client) -> Ending:
            client.listener.joined()
            async with asyncio.timeout(WAIT_SECONDS):
                await client.stopped.wait()
            return OVER

        plays(script)
        began = time.monotonic()
        worker.capture()
        assert time.monotonic() - began >= 0.5

    def test_a_disk_that_is_short(self, tmp_path: Path, plays: Callable[[Script], None]) -> None:
        """A capture that ended so that the disk does not fill up says so."""
        worker = Worker(tmp_path, min_free_bytes=1 << 60)

        async def script(client: Client) -> Ending:
            client.listener.joined()
            speak(client.listener, "t1", ADA, START)
            async with asyncio.timeout(WAIT_SECONDS):
                await client.stopped.wait()
            return OVER

        plays(script)
        outcome = worker.capture()

        assert "disk was full" in outcome.capture.problem
        assert len(outcome.capture.tracks) == 1

    def test_before_it_was_joined(self, worker: Worker, plays: Callable[[Script], None]) -> None:
        """Who is stopped before the call is joined has not captured a silent call."""
        worker.is_stopping.set()
        plays(waits_outside)
        with pytest.raises(StoppedError) as stopped:
            worker.capture()

        assert failure_of(stopped.value) == ("CANCELLED", "it was stopped before it had begun")
        assert not (worker.directory / OUTCOME).exists()

    def test_with_pieces_before_it_was_joined(
        self, worker: Worker, plays: Callable[[Script], None]
    ) -> None:
        """Then, too, what a worker before this one has captured is kept."""
        pieces(worker.directory, ADA, START)
        worker.is_stopping.set()
        plays(waits_outside)
        outcome = worker.capture()

        assert len(outcome.capture.tracks) == 1
        assert outcome.capture.problem == "it was stopped before it had begun"

    def test_over_before_it_was_joined(
        self, worker: Worker, plays: Callable[[Script], None]
    ) -> None:
        """A call that ends before it is joined was not captured, and nobody has stopped that."""

        async def script(client: Client) -> Ending:
            return OVER

        plays(script)
        with pytest.raises(JoinError, match="not joined: the call has ended"):
            worker.capture()


class TestSalvage:
    """What an earlier worker has left."""

    def test_pieces(self, tmp_path: Path) -> None:
        """They become files, also those of several workers, and it is told what happened."""
        pieces(tmp_path, ADA, START)
        pieces(tmp_path, ADA, START + 60)
        salvage(tmp_path, 4, "WORKER_KILLED", "the worker was killed by SIGKILL")
        outcome = read_outcome(tmp_path, 4)

        assert outcome is not None
        assert outcome.failure_reason == ""
        assert [(track.file_name, track.speaker_id) for track in outcome.capture.tracks] == [
            ("track-000.ogg", "u1"),
            ("track-001.ogg", "u1"),
        ]
        first, second = (track.start_ms for track in outcome.capture.tracks)
        assert second - first == pytest.approx(60_000, abs=40)
        assert outcome.capture.recording_start_ms == (START - 2) * 1000
        assert outcome.capture.problem == "the worker was killed by SIGKILL [WORKER_KILLED]"
        assert [notice.code for notice in outcome.notices] == ["CAPTURE_CUT_SHORT"]
        assert [one.name for one in sorted((tmp_path / ARTIFACTS).iterdir())] == [
            "track-000.ogg",
            "track-001.ogg",
        ]

    @pytest.mark.parametrize("left", ["nothing", "no pieces", "no sound", "a file", "strangers"])
    def test_nothing(self, tmp_path: Path, left: str) -> None:
        """Without any sound no outcome is written: the job fails by what ended its worker."""
        if left == "a file":
            (tmp_path / PIECES).write_bytes(b"")
        elif left != "nothing":
            (tmp_path / PIECES).mkdir()
        if left == "no sound":
            logs = PacketLogs(tmp_path / PIECES)
            logs.track("t", ADA)
            logs.close()
        if left == "strangers":
            (tmp_path / PIECES / "track-000.ogg").write_bytes(b"OggS")
        salvage(tmp_path, 4, "WORKER_KILLED", "killed")

        assert not (tmp_path / OUTCOME).exists()

    def test_a_disk_that_is_full(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Pieces that cannot be made into files stay, and nothing is raised."""
        pieces(tmp_path, ADA, START)

        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(module, "write_outcome", full)
        salvage(tmp_path, 4, "WORKER_KILLED", "killed")

        assert (tmp_path / PIECES / file_name(0)).exists()
        assert not (tmp_path / OUTCOME).exists()

    def test_goes_on(self, tmp_path: Path, plays: Callable[[Script], None]) -> None:
        """What a worker before this one has captured becomes files with what this one does."""
        pieces(tmp_path, GUEST, START)

        async def script(client: Client) -> Ending:
            client.listener.joined()
            speak(client.listener, "t", ADA, START + 60)
            return OVER

        plays(script)
        outcome = Worker(tmp_path).capture()

        assert [track.speaker_id for track in outcome.capture.tracks] == ["s2", "u1"]


class Daemon(worker_pb2_grpc.WorkerServiceServicer):
    """The daemon's end of captions, as the test has it."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[worker_pb2.CaptionCallRequest] = asyncio.Queue()
        self.responses: asyncio.Queue[worker_pb2.CaptionCallResponse | grpc.StatusCode | None] = (
            asyncio.Queue()
        )

    async def CaptionCall(  # noqa: N802 - the protocol's name
        self, request_iterator: Any, context: Any
    ) -> AsyncIterator[worker_pb2.CaptionCallResponse]:
        """Take what comes, and say what the test says."""

        async def take() -> None:
            async for request in request_iterator:
                self.requests.put_nowait(request)

        taking = asyncio.create_task(take())
        try:
            while (response := await self.responses.get()) is not None:
                if isinstance(response, grpc.StatusCode):
                    await context.abort(response, "so it is")
                else:
                    yield response
        finally:
            taking.cancel()

    async def request(self) -> worker_pb2.CaptionCallRequest:
        """What comes next."""
        return await asyncio.wait_for(self.requests.get(), WAIT_SECONDS)


@pytest.fixture
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Daemon, str]]:
    """One that listens, and where."""
    found, server = Daemon(), grpc.aio.server()  # type: ignore[abstract]
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(found, server)
    address = f"unix:{tmp_path_factory.mktemp('d')}/s"
    server.add_insecure_port(address)
    await server.start()
    yield found, address
    await server.stop(0)


class TestCaptioner:
    """How the daemon's captioner is talked to."""

    async def parcels(self, sound: "asyncio.Queue[list[Sound]]") -> AsyncIterator[list[Sound]]:
        """What there is to caption."""
        while True:
            yield await sound.get()

    async def test_conversation(self, daemon: tuple[Daemon, str]) -> None:
        """The worker proves itself first; then sound goes there and words come back."""
        there, address = daemon
        bootstrap = worker_pb2.Bootstrap(job_id="job", generation=2, token="t", endpoint=address)
        sound: asyncio.Queue[list[Sound]] = asyncio.Queue()
        sound.put_nowait(
            [
                Sound(session_id="ada", sequence=7, start_sample=320, data=b"packet"),
                Sound(session_id="bob"),
            ]
        )
        words = worker_pb2.SpeakerWords(
            speaker="ada",
            segment=3,
            revision=2,
            text="hello",
            final=True,
            end_of_utterance=True,
            heard_sample=32_000,
            start_sample=8_000,
        )
        for response in (
            worker_pb2.CaptionCallResponse(words=words),
            worker_pb2.CaptionCallResponse(skipped="bob"),
            worker_pb2.CaptionCallResponse(degraded=True),
            worker_pb2.CaptionCallResponse(degraded=False),
            worker_pb2.CaptionCallResponse(),
        ):
            there.responses.put_nowait(response)
        async with grpc.aio.insecure_channel(address) as channel:
            captioner = module._DaemonsCaptioner(bootstrap, channel)
            conversation = captioner.converse(self.parcels(sound))
            heard = [await anext(conversation)]
            first, second = await there.request(), await there.request()
            # Not before: a call that is over takes no requests any more.
            there.responses.put_nowait(None)
            heard += [one async for one in conversation]

        assert (first.hello.job_id, first.hello.generation, first.hello.token) == ("job", 2, "t")
        assert first.hello.is_assigned
        assert second == worker_pb2.CaptionCallRequest(
            audio=[
                worker_pb2.SpeakerAudio(speaker="ada", sequence=7, start_sample=320, data=b"packet")
            ],
            paused=["bob"],
        )
        assert heard == [
            Words(
                session_id="ada",
                segment="3",
                revision=2,
                text="hello",
                is_final=True,
                is_end_of_utterance=True,
                start_seconds=0.5,
                heard_seconds=2.0,
            ),
            Shortfall(metric=Metric.AUDIO_SKIPPED, session_id="bob"),
            Shortfall(metric=Metric.FELL_BEHIND),
        ]

    @pytest.mark.parametrize(
        "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED]
    )
    async def test_refused(self, daemon: tuple[Daemon, str], code: grpc.StatusCode) -> None:
        """A refusal is a broken connection, and takes no sound from the conversation after it."""
        there, address = daemon
        bootstrap = worker_pb2.Bootstrap(job_id="job", token="t", endpoint=address)
        sound: asyncio.Queue[list[Sound]] = asyncio.Queue()
        there.responses.put_nowait(code)
        async with grpc.aio.insecure_channel(address) as channel:
            captioner = module._DaemonsCaptioner(bootstrap, channel)
            with pytest.raises(ConnectionError, match="so it is"):
                await anext(captioner.converse(self.parcels(sound)))
            sound.put_nowait([Sound(session_id="ada", sequence=1, data=b"packet")])
            there.responses.put_nowait(worker_pb2.CaptionCallResponse(skipped="ada"))
            conversation = captioner.converse(self.parcels(sound))
            await anext(conversation)
            while not (request := await there.request()).audio:
                assert request.HasField("hello")
            there.responses.put_nowait(None)
            assert [one async for one in conversation] == []

        assert [one.sequence for one in request.audio] == [1]

    async def test_nobody_there(self, tmp_path: Path) -> None:
        """A daemon that is away is a broken connection, too."""
        address = f"unix:{tmp_path}/s"
        bootstrap = worker_pb2.Bootstrap(job_id="job", token="t", endpoint=address)
        async with grpc.aio.insecure_channel(address) as channel:
            captioner = module._DaemonsCaptioner(bootstrap, channel)
            with pytest.raises(ConnectionError):
                await anext(captioner.converse(self.parcels(asyncio.Queue())))
