# SPDX-License-Identifier: Apache-2.0
"""Live captions through the bare API: one who sends a call's sound, and one who watches it."""

import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from callsd.v1.caption_pb2 import (
    AUDIO_ENCODING_S16LE_16KHZ,
    AudioAck,
    AudioChunk,
    AudioEncoding,
    Caption,
    CaptionEvent,
    CaptionEventType,
    CaptionsConfig,
    CaptionsSpec,
    StreamCaptionsRequest,
    WatchCaptionsRequest,
    WatchCaptionsResponse,
)
from callsd.v1.job_pb2 import JOB_STATE_RUNNING, CreateJobRequest, Job, StopJobRequest
from tests.helpers.api import Api
from tests.helpers.daemon import Daemon
from tests.helpers.speech import batches, seconds
from tests.helpers.waiting import eventually


MODEL = "tiny.en"
CAPTIONER = f"captioner.{MODEL}"
"""As whose worker the captioner is known."""

OPEN_WORDS = 4
READY_SECONDS = 60.0
WORK_SECONDS = 60.0
"""How long things may take on a machine that is busy otherwise."""


def begin_call(server: Daemon, api: Api, **spec: Any) -> str:
    """A captions job that runs; returns its name."""
    name = ask_for_call(server, api, **spec)
    server.wait(api, name, JOB_STATE_RUNNING, seconds=READY_SECONDS)
    return name


def ask_for_call(server: Daemon, api: Api, **spec: Any) -> str:
    """A captions job that has just been made."""
    request = CreateJobRequest(job=Job(captions=CaptionsSpec(**spec)))
    name = api(api.jobs.CreateJob, request).job.name
    server.acknowledged.add(name)
    return name


def end_call(server: Daemon, api: Api, name: str) -> Job:
    """Stop a captions job, and wait for its end."""
    api(api.jobs.StopJob, StopJobRequest(name=name))
    return server.wait(api, name, seconds=WORK_SECONDS)


def artifact(server: Daemon, name: str, file_name: str) -> Path:
    """A file that a job has made."""
    return server.job_directory(name) / "artifacts" / file_name


def talk(
    api: Api,
    job: str,
    *messages: StreamCaptionsRequest,
    encoding: AudioEncoding.ValueType = AUDIO_ENCODING_S16LE_16KHZ,
) -> None:
    """Send some messages, and nothing more: to the end of the call or to its refusal."""
    config = CaptionsConfig(job=job, encoding=encoding)
    say(api, StreamCaptionsRequest(config=config), *messages)


def say(api: Api, *messages: StreamCaptionsRequest) -> None:
    """As `talk`, from the first message on."""
    stream = api.captions.StreamCaptions(iter(messages), timeout=20, metadata=api.metadata)
    for _ in stream:
        pass


class Sender:
    """Sends one call's sound, and notes what is acknowledged. Dies with its block, not earlier."""

    def __init__(
        self,
        api: Api,
        job: str,
        *,
        encoding: "AudioEncoding.ValueType" = AUDIO_ENCODING_S16LE_16KHZ,
    ) -> None:
        self.acks: dict[str, AudioAck] = {}
        self.first: dict[str, AudioAck] | None = None
        """What the server knew when this began."""
        self.processed: list[float] = []
        """Positions in the order in which they were acknowledged, of all speakers."""
        self.error: grpc.RpcError | None = None
        self._messages: queue.Queue[StreamCaptionsRequest | None] = queue.Queue()
        self.send(config=CaptionsConfig(job=job, encoding=encoding))
        self._call = api.captions.StreamCaptions(
            iter(self._messages.get, None), metadata=api.metadata
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        eventually(lambda: self.first is not None or self.is_over, "the server has answered")

    def _read(self) -> None:
        try:
            for response in self._call:
                for ack in response.acks:
                    self.acks[ack.speaker] = ack
                    self.processed.append(seconds(ack.processed_offset))
                if self.first is None:
                    self.first = dict(self.acks)
        except grpc.RpcError as error:
            self.error = error

    @property
    def is_over(self) -> bool:
        """Whether the server has ended the call."""
        return not self._thread.is_alive()

    def send(self, **message: Any) -> None:
        """Send a message."""
        self._messages.put(StreamCaptionsRequest(**message))

    def push(self, pieces: Iterable[AudioChunk]) -> None:
        """Send sound as fast as it is taken."""
        for batch in batches(pieces):
            self.send(batch=batch)

    def play(self, pieces: Sequence[AudioChunk], *, speed: float = 1.0) -> None:
        """Send sound as a live source does, in order of time; returns when it has been said."""
        begin, origin = time.monotonic(), seconds(pieces[0].start_offset)
        for piece in sorted(pieces, key=lambda piece: seconds(piece.start_offset)):
            due = begin + (seconds(piece.start_offset) - origin) / speed
            time.sleep(max(0.0, due - time.monotonic()))
            self.send(audio=piece)

    @contextmanager
    def playing(self, pieces: Sequence[AudioChunk], *, speed: float = 1.0) -> Iterator[None]:
        """Send sound as a live source does, beside what the block does."""
        player = threading.Thread(target=self.play, args=(pieces,), kwargs={"speed": speed})
        player.start()
        try:
            yield
        finally:
            player.join()

    def wait_received(self, speaker: str, sequence: int) -> None:
        """Wait until a chunk has been received."""
        eventually(
            lambda: speaker in self.acks and self.acks[speaker].received_sequence >= sequence,
            f"chunk {sequence} of {speaker} is received",
            seconds=WORK_SECONDS,
        )

    def wait_worked_off(self) -> None:
        """Wait until all that was received is worked off."""

        def is_worked_off() -> bool:
            acks = self.acks.values()
            return all(ack.processed_offset == ack.received_offset for ack in acks)

        eventually(is_worked_off, "everything is worked off", seconds=WORK_SECONDS)

    def finish(self) -> None:
        """Say that nothing more comes, and wait for the end; raises what it ended with."""
        self._messages.put(None)
        self.join()

    def join(self) -> None:
        """Wait until the server ends the call; raises what it ended with."""
        self._thread.join(WORK_SECONDS)
        assert self.is_over
        if self.error is not None:
            raise self.error

    def vanish(self) -> None:
        """Hang up without a word."""
        self._call.cancel()
        self._messages.put(None)
        self._thread.join(WORK_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.vanish()


class Viewer:
    """Watches one call in a thread, and keeps everything that it is told."""

    def __init__(self, api: Api, job: str, **request: Any) -> None:
        self.messages: list[tuple[float, WatchCaptionsResponse]] = []
        """With the monotonic clock's time of their arrival."""
        self.error: grpc.RpcError | None = None
        self._call = api.stream(
            api.captions.WatchCaptions, WatchCaptionsRequest(job=job, **request), seconds=600
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for message in self._call:
                self.messages.append((time.monotonic(), message))
        except grpc.RpcError as error:
            self.error = error

    @property
    def captions(self) -> list[Caption]:
        """All captions so far, in order."""
        return [m.caption for _, m in list(self.messages) if m.HasField("caption")]

    @property
    def finals(self) -> list[Caption]:
        """Those that are final."""
        return [caption for caption in self.captions if caption.is_final]

    @property
    def sequences(self) -> list[int]:
        """Numbers of the final captions."""
        return [caption.sequence for caption in self.finals]

    @property
    def events(self) -> list[CaptionEvent]:
        """All events so far, in order."""
        return [m.event for _, m in list(self.messages) if m.HasField("event")]

    def event_types(self) -> list[str]:
        """What has happened."""
        return [
            CaptionEventType.Name(event.type)[len("CAPTION_EVENT_TYPE_") :] for event in self.events
        ]

    def text(self, speaker: str) -> str:
        """A speaker's final words."""
        return " ".join(caption.text for caption in self.finals if caption.speaker == speaker)

    def wait_event(self, name: str, count: int = 1) -> None:
        """Wait until something has happened."""
        eventually(
            lambda: self.event_types().count(name) >= count,
            f"viewers are told of {name}, {count} times",
            seconds=WORK_SECONDS,
        )

    def wait_final(self, count: int = 1) -> None:
        """Wait for so many final captions."""
        eventually(
            lambda: len(self.finals) >= count, f"{count} final captions", seconds=WORK_SECONDS
        )

    def wait_shown(self, speaker: str) -> None:
        """Wait until words of a speaker are on the screen."""
        eventually(
            lambda: any(c.text for c in self.captions if c.speaker == speaker),
            f"words of {speaker} are shown",
            seconds=WORK_SECONDS,
        )

    def wait_mid_sentence(self) -> Caption:
        """Wait until somebody has said something, and is about to say more."""

        def look() -> Caption | None:
            captions = self.captions
            if not any(caption.is_final for caption in captions) or captions[-1].is_final:
                return None
            return captions[-1] if len(captions[-1].text.split()) >= OPEN_WORDS else None

        found = eventually(look, "open words follow final ones", seconds=WORK_SECONDS)
        assert found is not None
        return found

    def join(self) -> None:
        """Wait until the server ends the watch; raises what it ended with."""
        self._thread.join(WORK_SECONDS)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._call.cancel()
        self._thread.join(WORK_SECONDS)
