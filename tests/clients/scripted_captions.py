# SPDX-License-Identifier: Apache-2.0
"""The server's side of live captions: hears, forgets, is cut, as a test wants it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from callsd import duration
from callsd.v1 import caption_pb2_grpc
from callsd.v1.caption_pb2 import (
    SPEAKER_EVENT_TYPE_LEFT,
    SPEAKER_EVENT_TYPE_MUTED,
    AudioAck,
    AudioChunk,
    Caption,
    SpeakerEvent,
    StreamCaptionsRequest,
    StreamCaptionsResponse,
    WatchCaptionsRequest,
    WatchCaptionsResponse,
)


BYTES_PER_SECOND = 32_000

Context = Any  # sync servicers are given a context that only generated code can name


@dataclass(slots=True, kw_only=True)
class Track:
    """What a server has of one speaker."""

    received: list[AudioChunk] = field(default_factory=list)
    processed: int = 0
    """How many of them are worked off."""


class Hearing:
    """A server that holds a sender to its promise: the next number, or one that it has already."""

    def __init__(self) -> None:
        self.tracks: dict[str, Track] = {}
        self.events: list[SpeakerEvent] = []
        self.messages = 0
        """Messages with sound."""
        self.repeated = 0
        """Chunks that came although they were there."""
        self.keeps_back = 0
        """Chunks of each speaker that are not worked off until the speech ends."""

    def hear(self, request: StreamCaptionsRequest) -> None:
        """Take a message."""
        match request.WhichOneof("message"):
            case "audio":
                self.messages += 1
                self._take(request.audio)
            case "batch":
                self.messages += 1
                for chunk in request.batch.chunks:
                    self._take(chunk)
            case "event":
                self.events.append(request.event)
                if request.event.type in {SPEAKER_EVENT_TYPE_MUTED, SPEAKER_EVENT_TYPE_LEFT}:
                    track = self._track(request.event.speaker)
                    track.processed = len(track.received)
            case other:
                raise AssertionError(f"{other} behind the first message")

    def restart(self) -> None:
        """Lose what is not worked off."""
        for track in self.tracks.values():
            del track.received[track.processed :]

    def acks(self) -> list[AudioAck]:
        """What is here of each speaker."""
        return [
            AudioAck(
                speaker=name,
                received_sequence=len(track.received),
                received_offset=_end(track.received),
                processed_offset=_end(track.received[: track.processed]),
            )
            for name, track in self.tracks.items()
        ]

    def sound(self, speaker: str) -> bytes:
        """All that came of a speaker, in order."""
        return b"".join(chunk.data for chunk in self._track(speaker).received)

    def _track(self, speaker: str) -> Track:
        return self.tracks.setdefault(speaker, Track())

    def _take(self, chunk: AudioChunk) -> None:
        track = self._track(chunk.speaker)
        due = len(track.received) + 1
        if chunk.sequence < due:
            self.repeated += 1
            return
        assert chunk.sequence == due, f"{chunk.speaker}: {chunk.sequence} came, {due} was due"
        track.received.append(chunk)
        track.processed = max(track.processed, len(track.received) - self.keeps_back)


class Captions(caption_pb2_grpc.CaptionServiceServicer):
    """Hears one call, and shows the captions that a test puts here."""

    def __init__(self) -> None:
        self.hearing = Hearing()
        self.configs: list[str] = []
        self.watches: list[WatchCaptionsRequest] = []
        self.cuts: list[int] = []
        """After so many messages the next streams of sound are cut, and what was not worked off is
        forgotten; the next watches are cut after so many captions."""
        self.end: grpc.StatusCode | None = None
        """How streams of sound end that are not cut."""
        self.captions: list[WatchCaptionsResponse] = []

    def StreamCaptions(  # noqa: N802 - gRPC's name
        self, request_iterator: Iterator[StreamCaptionsRequest], context: Context
    ) -> Iterator[StreamCaptionsResponse]:
        """Acknowledge each message."""
        self.configs.append(next(request_iterator).config.job)
        yield StreamCaptionsResponse(acks=self.hearing.acks())
        limit = self.cuts.pop(0) if self.cuts else None
        for count, request in enumerate(request_iterator, start=1):
            self.hearing.hear(request)
            if count == limit:
                self.hearing.restart()
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            if self.end is not None:
                context.abort(self.end, "over")
            yield StreamCaptionsResponse(acks=self.hearing.acks())

    def WatchCaptions(  # noqa: N802 - gRPC's name
        self, request: WatchCaptionsRequest, context: Context
    ) -> Iterator[WatchCaptionsResponse]:
        """Send what there is behind the number asked for, cut where the test wants it."""
        self.watches.append(request)
        limit = self.cuts.pop(0) if self.cuts else None
        after = request.resume_sequence if request.HasField("resume_sequence") else 0
        shown = [one for one in self.captions if not 0 < one.caption.sequence <= after]
        for count, response in enumerate(shown):
            if count == limit:
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            yield response


def final(sequence: int) -> WatchCaptionsResponse:
    """A final caption."""
    return WatchCaptionsResponse(
        caption=Caption(is_final=True, sequence=sequence, speaker="Ada", text=f"word {sequence}")
    )


def _end(chunks: list[AudioChunk]) -> Any:
    if not chunks:
        return duration(0)
    last = chunks[-1]
    return duration(
        last.start_offset.ToTimedelta().total_seconds() + len(last.data) / BYTES_PER_SECOND
    )
