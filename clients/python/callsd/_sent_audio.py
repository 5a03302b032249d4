# SPDX-License-Identifier: Apache-2.0
"""The sound of a call that its sender keeps: none is lost and none comes twice. No I/O here.

The server can lose all sound that it has not worked off, by being killed. So a sender keeps each
chunk until it is worked off, and after a cut sends again what the server says it does not have.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

import grpc
from google.protobuf.duration_pb2 import Duration

from callsd._errors import CallsdError, ConflictError, DeadlineError, UnavailableError
from callsd._sound import SAMPLE_RATE_HZ, Piece
from callsd.v1.caption_pb2 import (
    SPEAKER_EVENT_TYPE_JOINED,
    SPEAKER_EVENT_TYPE_MUTED,
    AudioAck,
    AudioBatch,
    AudioChunk,
    SpeakerEvent,
    SpeakerEventType,
    StreamCaptionsRequest,
)


MAX_BATCH_CHUNKS = 1000
MAX_BATCH_BYTES = 512 << 10
"""The most that the API takes in one batch."""

DEFAULT_KEEP_SECONDS = 60.0
"""Sound of one speaker that a sender keeps: three times what the server takes in before it makes a
sender wait, so that live sound is not held up by a restart."""

MAX_KEPT_BYTES = 32 << 20
"""The same for all speakers together: 17 minutes of s16le."""

# As the server does: chunks whose stamps are rounded are one sound, and one that begins long before
# the sound ahead of it has ended is refused there.
_JOIN_SAMPLES = SAMPLE_RATE_HZ // 50
_MAX_OVERLAP_SAMPLES = SAMPLE_RATE_HZ // 2

_NANOSECONDS_PER_SAMPLE = 1_000_000_000 // SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """A message that may have to be sent again; an event lasts no samples."""

    order: int
    message: AudioChunk | SpeakerEvent
    end_sample: int
    samples: int = 0


@dataclass(slots=True, kw_only=True)
class _Speaker:
    """What is known of one speaker."""

    sequence: int = 0
    """Of the last chunk, ours or, when we began, that of the sender before us."""
    end_sample: int | None = None
    """End of the last chunk; None before there was one."""
    processed_sample: int = 0
    kept: deque[_Kept] = field(default_factory=deque)
    """In order; two events never follow each other."""
    kept_samples: int = 0
    joined: SpeakerEvent | None = None
    ack: AudioAck | None = None


class SentAudio:
    """The sound of one call from a sender's side: numbered, kept while it may be asked for again.

    Not for several threads at once.
    """

    def __init__(
        self,
        *,
        keep_seconds: float = DEFAULT_KEEP_SECONDS,
        max_kept_bytes: int = MAX_KEPT_BYTES,
    ) -> None:
        self._keep_samples = round(keep_seconds * SAMPLE_RATE_HZ)
        self._max_kept_bytes = max_kept_bytes
        self._speakers: dict[str, _Speaker] = {}
        self._unsent: deque[AudioChunk | SpeakerEvent] = deque()
        self._order = 0
        self._kept_bytes = 0
        self._is_begun = False

    # What the caller has

    def has_room(self, piece: Piece) -> bool:
        """Whether a piece can be kept; one is always taken where nothing is."""
        kept_samples = self._speaker(piece.speaker).kept_samples
        return (not kept_samples or kept_samples + piece.samples <= self._keep_samples) and (
            not self._kept_bytes or self._kept_bytes + len(piece.data) <= self._max_kept_bytes
        )

    def add(self, piece: Piece) -> None:
        """Number a piece, keep it, and have it sent."""
        speaker = self._speaker(piece.speaker)
        start_sample = piece.start_sample
        if speaker.end_sample is not None:
            gap = start_sample - speaker.end_sample
            if -_MAX_OVERLAP_SAMPLES <= gap <= _JOIN_SAMPLES:
                start_sample = speaker.end_sample
        speaker.sequence += 1
        speaker.end_sample = start_sample + piece.samples
        chunk = AudioChunk(
            speaker=piece.speaker,
            sequence=speaker.sequence,
            start_offset=_offset(start_sample),
            data=piece.data,
        )
        speaker.kept_samples += piece.samples
        self._kept_bytes += len(piece.data)
        self._keep(speaker, chunk, samples=piece.samples)
        self._unsent.append(chunk)

    def change(
        self,
        speaker: str,
        type_: SpeakerEventType.ValueType,
        *,
        display_name: str = "",
    ) -> None:
        """Tell of a speaker's change, at the end of the speaker's sound."""
        known = self._speaker(speaker)
        event = SpeakerEvent(
            speaker=speaker,
            type=type_,
            offset=_offset(known.end_sample or 0),
            display_name=display_name,
        )
        if type_ == SPEAKER_EVENT_TYPE_JOINED:
            known.joined = event
        else:
            # Of several changes without sound between them the last one counts.
            if known.kept and not known.kept[-1].samples:
                known.kept.pop()
            self._keep(known, event)
        self._unsent.append(event)

    def end_speech(self) -> None:
        """Have everything worked off now: nobody who still has something to say says more."""
        for name, speaker in self._speakers.items():
            if speaker.kept_samples:
                self.change(name, SPEAKER_EVENT_TYPE_MUTED)

    # What a connection does

    def next_message(self) -> StreamCaptionsRequest | None:
        """What to send now, as much as fits in one message; None if all is sent."""
        if not self._unsent:
            return None
        first = self._unsent.popleft()
        if isinstance(first, SpeakerEvent):
            return StreamCaptionsRequest(event=first)
        chunks, size_bytes = [first], first.ByteSize()
        while self._unsent and len(chunks) < MAX_BATCH_CHUNKS:
            following = self._unsent[0]
            if isinstance(following, SpeakerEvent):
                break
            size_bytes += following.ByteSize()
            if size_bytes > MAX_BATCH_BYTES:
                break
            chunks.append(following)
            self._unsent.popleft()
        if len(chunks) == 1:
            return StreamCaptionsRequest(audio=first)
        return StreamCaptionsRequest(batch=AudioBatch(chunks=chunks))

    def learn(self, acks: Iterable[AudioAck], *, is_first: bool) -> None:
        """Learn from an answer: what is worked off is kept no longer.

        With the first one on a connection, what the server lacks is sent again.

        Raises:
            ConflictError: The server has sound that is not ours: another sender is at work.
        """
        received: dict[str, int] = {}
        for ack in acks:
            received[ack.speaker] = ack.received_sequence
            speaker = self._speaker(ack.speaker)
            if not self._is_begun:
                speaker.sequence = ack.received_sequence
            elif ack.received_sequence > speaker.sequence:
                raise _replaced(ack.speaker)
            self._acknowledge(speaker, ack)
        self._is_begun = True
        if is_first:
            self._begin_again(received)

    def _begin_again(self, received: Mapping[str, int]) -> None:
        kept = sorted(
            (item for speaker in self._speakers.values() for item in speaker.kept),
            key=lambda item: item.order,
        )
        self._unsent = deque(one.joined for one in self._speakers.values() if one.joined)
        self._unsent.extend(
            item.message
            for item in kept
            if isinstance(item.message, SpeakerEvent)
            or item.message.sequence > received.get(item.message.speaker, 0)
        )

    # How far it is

    @property
    def has_unsent(self) -> bool:
        """Whether `next_message` has one."""
        return bool(self._unsent)

    @property
    def acks(self) -> Mapping[str, AudioAck]:
        """The newest acknowledgement of each speaker."""
        return {name: one.ack for name, one in self._speakers.items() if one.ack is not None}

    @property
    def is_worked_off(self) -> bool:
        """Whether the server has worked off everything."""
        return not self._kept_bytes

    @property
    def lag_seconds(self) -> float:
        """Sound from the oldest that is not worked off to the newest, of the slowest speaker."""
        return max((_lag_samples(one) for one in self._speakers.values()), default=0) / (
            SAMPLE_RATE_HZ
        )

    def _speaker(self, name: str) -> _Speaker:
        return self._speakers.setdefault(name, _Speaker())

    def _keep(
        self, speaker: _Speaker, message: AudioChunk | SpeakerEvent, *, samples: int = 0
    ) -> None:
        self._order += 1
        speaker.kept.append(
            _Kept(
                order=self._order,
                message=message,
                end_sample=speaker.end_sample or 0,
                samples=samples,
            )
        )

    def _acknowledge(self, speaker: _Speaker, ack: AudioAck) -> None:
        speaker.ack = ack
        speaker.processed_sample = max(speaker.processed_sample, _sample(ack.processed_offset))
        while (chunk := _oldest(speaker)) and chunk.end_sample <= speaker.processed_sample:
            # An event before the chunk has arrived with it; one behind it may not have.
            while speaker.kept.popleft() is not chunk:
                pass
            assert isinstance(chunk.message, AudioChunk)
            speaker.kept_samples -= chunk.samples
            self._kept_bytes -= len(chunk.message.data)


def _oldest(speaker: _Speaker) -> _Kept | None:
    """The oldest chunk kept; at most one event is before it."""
    return next((item for item in islice(speaker.kept, 2) if item.samples), None)


def _lag_samples(speaker: _Speaker) -> int:
    chunk = _oldest(speaker)
    if chunk is None or speaker.end_sample is None:
        return 0
    oldest = max(chunk.end_sample - chunk.samples, speaker.processed_sample)
    return speaker.end_sample - oldest


def _offset(sample: int) -> Duration:
    offset = Duration()
    offset.FromNanoseconds(sample * _NANOSECONDS_PER_SAMPLE)
    return offset


def _sample(offset: Duration) -> int:
    return round(offset.ToNanoseconds() / _NANOSECONDS_PER_SAMPLE)


def is_early(error: CallsdError) -> bool:
    """Whether the job is not open yet after a restart; one that is over gives no time to wait."""
    return error.reason == "JOB_STATE_CONFLICT" and error.retry_after_seconds is not None


def ended_early() -> UnavailableError:
    """The server ended a stream of sound that was not at its end."""
    return UnavailableError(
        "the server ended the stream before its end", code=grpc.StatusCode.UNAVAILABLE
    )


def not_worked_off(audio: SentAudio, timeout_seconds: float) -> DeadlineError:
    """A sender waited in vain."""
    return DeadlineError(
        f"{audio.lag_seconds:.1f} s of sound were not worked off within {timeout_seconds:g} s",
        code=grpc.StatusCode.DEADLINE_EXCEEDED,
    )


def _replaced(speaker: str) -> ConflictError:
    return ConflictError(
        f"another sender has sent sound of {speaker} while this one was cut off",
        code=grpc.StatusCode.ABORTED,
        reason="STREAM_REPLACED",
    )
