# SPDX-License-Identifier: Apache-2.0
"""Captions and sound, between the API's messages and the domain's words."""

import functools
from collections.abc import Iterable
from datetime import UTC, datetime

from google.protobuf.duration_pb2 import Duration

from callsd.v1 import caption_pb2
from callsd_daemon.domain.captions import SAMPLE_RATE_HZ, Encoding, Words
from callsd_daemon.domain.errors import CallsdError, Reason, invalid_fields
from callsd_daemon.domain.transcription import MAX_OFFSET_SECONDS
from callsd_daemon.rpc import convert, validate
from callsd_daemon.rpc.problems import CONTROL, MAX_SPEAKER_CHARACTERS, Problems
from callsd_daemon.workers.captions.call import Call
from callsd_daemon.workers.captions.feed import CallStatus, Caption, Event, EventType, Published
from callsd_daemon.workers.captions.journal import Final
from callsd_daemon.workers.captions.speaker import Speaker
from callsd_ipc.opus import claimed_samples


MAX_CHUNK_BYTES = 32 * 1024
MAX_BATCH_CHUNKS = 1000
MAX_BATCH_BYTES = 512 * 1024
SAMPLE_BYTES = 2
NANOSECONDS_PER_SECOND = 1_000_000_000

SERIALISED_MESSAGES = 1024
"""Messages kept as bytes: what is sent to many viewers is serialised once."""

ENCODINGS = {
    caption_pb2.AUDIO_ENCODING_S16LE_16KHZ: Encoding.S16LE,
    caption_pb2.AUDIO_ENCODING_OPUS: Encoding.OPUS,
}
EVENTS = {
    event: caption_pb2.CaptionEventType.Value(f"CAPTION_EVENT_TYPE_{event.name}")
    for event in EventType
}


def config(message: caption_pb2.StreamCaptionsRequest | None) -> tuple[str, Encoding]:
    """Job id and encoding of a stream's first message; raises FIELD_INVALID."""
    if message is None or message.WhichOneof("message") != "config":
        raise invalid_fields([("config", "must be the first message, before any audio")])
    if message.config.encoding not in ENCODINGS:
        problem = (
            "must be AUDIO_ENCODING_S16LE_16KHZ or AUDIO_ENCODING_OPUS: sound at another rate is "
            "resampled by the client"
        )
        raise invalid_fields([("config.encoding", problem)])
    job_id = validate.job_id(message.config.job, field="config.job")
    return job_id, ENCODINGS[message.config.encoding]


def receive(
    encoding: Encoding, call: Call, message: caption_pb2.StreamCaptionsRequest | None
) -> None:
    """Hand on what a client says after the first message; raises FIELD_INVALID."""
    if message is None:
        raise CallsdError(Reason.FIELD_INVALID, "the request is not a valid message")
    match message.WhichOneof("message"):
        case "audio":
            _hear(call, encoding, message.audio)
        case "batch":
            chunks = message.batch.chunks
            size_bytes = sum(len(chunk.data) for chunk in chunks)
            if not 1 <= len(chunks) <= MAX_BATCH_CHUNKS or size_bytes > MAX_BATCH_BYTES:
                problem = (
                    f"has {len(chunks)} chunks of {size_bytes} bytes in all, must be 1 to "
                    f"{MAX_BATCH_CHUNKS} of at most {MAX_BATCH_BYTES} bytes in all"
                )
                raise invalid_fields([("batch.chunks", problem)])
            for chunk in chunks:
                _hear(call, encoding, chunk)
        case "event":
            _change(call, message.event)
        case _:
            raise invalid_fields(
                [("message", "must be audio, batch or event; config comes first, and only once")]
            )


def _hear(call: Call, encoding: Encoding, chunk: caption_pb2.AudioChunk) -> None:
    data = chunk.data
    problem = _problem(chunk)
    if not problem and not 1 <= len(data) <= MAX_CHUNK_BYTES:
        problem = ("audio.data", f"has {len(data)} bytes, must be 1 to {MAX_CHUNK_BYTES}")
    length = 0
    if not problem and encoding is Encoding.S16LE:
        length = len(data) // SAMPLE_BYTES
        if len(data) % SAMPLE_BYTES:
            problem = (
                "audio.data",
                f"has {len(data)} bytes, but a sample has two",
            )
    elif not problem:
        length = claimed_samples(data, SAMPLE_RATE_HZ)
        if not length:
            problem = ("audio.data", "is no Opus packet: one lasts 2.5 to 120 ms")
    if problem:
        raise invalid_fields([problem])
    call.receive(chunk.speaker, chunk.sequence, sample(chunk.start_offset), length, data)


def _problem(chunk: caption_pb2.AudioChunk) -> tuple[str, str] | None:
    """The first thing that is wrong with a chunk, but for its sound. Runs for every packet."""
    if not 1 <= len(chunk.speaker) <= MAX_SPEAKER_CHARACTERS:
        return "audio.speaker", f"must be 1 to {MAX_SPEAKER_CHARACTERS} characters"
    if CONTROL.search(chunk.speaker):
        return "audio.speaker", "holds control characters"
    if not 1 <= chunk.sequence < 1 << 53:
        return "audio.sequence", "must count from 1"
    start = chunk.start_offset
    if not (0 <= start.seconds <= MAX_OFFSET_SECONDS and 0 <= start.nanos < NANOSECONDS_PER_SECOND):
        return "audio.start_offset", "must be from the start of the call, at most 30 days"
    return None


def _change(call: Call, event: caption_pb2.SpeakerEvent) -> None:
    problems = Problems()
    problems.text("event.speaker", event.speaker, MAX_SPEAKER_CHARACTERS)
    problems.text("event.display_name", event.display_name, MAX_SPEAKER_CHARACTERS)
    if not event.speaker:
        problems.add("event.speaker", "is missing")
    if event.type not in caption_pb2.SpeakerEventType.values() or not event.type:
        problems.add("event.type", f"{event.type} is no value that this server knows")
    problems.raise_any()
    if event.type == caption_pb2.SPEAKER_EVENT_TYPE_JOINED:
        call.name(event.speaker, event.display_name)
    elif event.type != caption_pb2.SPEAKER_EVENT_TYPE_UNMUTED:
        call.pause(event.speaker)


def acks(speakers: Iterable[Speaker]) -> caption_pb2.StreamCaptionsResponse:
    """What the server has of some speakers' sound."""
    return caption_pb2.StreamCaptionsResponse(
        acks=[
            caption_pb2.AudioAck(
                speaker=speaker.name,
                received_sequence=speaker.received_sequence,
                received_offset=offset(speaker.received_sample),
                processed_offset=offset(speaker.durable_sample),
            )
            for speaker in speakers
        ]
    )


@functools.lru_cache(maxsize=SERIALISED_MESSAGES)
def published(item: Published[Caption] | Published[Event]) -> bytes:
    """A caption or an event as viewers are sent it."""
    message = _message(item.status, item.publish_time)
    if isinstance(item.content, Caption):
        message.caption.CopyFrom(_caption(item.content))
    else:
        message.event.CopyFrom(_event(item.content))
    return message.SerializeToString()


def kept(final: Final) -> bytes:
    """A final caption from the disk."""
    caption = Caption(
        sequence=final.sequence,
        speaker=final.position.speaker,
        display_name=final.position.display_name,
        words=final.words,
    )
    message = _message(CallStatus(processed_sample=final.words.heard_sample), datetime.now(UTC))
    message.caption.CopyFrom(_caption(caption))
    return message.SerializeToString()


def heartbeat(call: Call) -> bytes:
    """How a call is while nothing is said."""
    return _message(call.status(), datetime.now(UTC)).SerializeToString()


def _message(status: CallStatus, publish_time: datetime) -> caption_pb2.WatchCaptionsResponse:
    return caption_pb2.WatchCaptionsResponse(
        processed_offset=offset(status.processed_sample),
        lag=convert.duration(status.lag_seconds),
        real_time_factor=status.real_time_factor,
        publish_time=convert.timestamp(publish_time),
    )


def _caption(caption: Caption) -> caption_pb2.Caption:
    words = caption.words
    return caption_pb2.Caption(
        segment_id=segment_id(caption.speaker, words),
        revision=words.revision,
        is_final=caption.sequence > 0,
        sequence=caption.sequence,
        stability=words.stability,
        end_of_utterance=words.is_end_of_utterance,
        speaker=caption.speaker,
        text=words.text,
        start_offset=offset(words.start_sample),
        end_offset=offset(words.end_sample),
        language_code=words.language,
        display_name=caption.display_name,
        processed_offset=offset(words.heard_sample),
    )


def segment_id(speaker: str, words: Words) -> str:
    """Identity of an utterance within its call."""
    return f"{words.segment}/{speaker}"


def _event(event: Event) -> caption_pb2.CaptionEvent:
    message = caption_pb2.CaptionEvent(
        type=EVENTS[event.type],
        speaker=event.speaker,
        offset=offset(event.sample),
        detail=event.detail,
    )
    if event.skipped_samples:
        message.skipped.CopyFrom(offset(event.skipped_samples))
    return message


def offset(samples: int) -> Duration:
    """A position, to the microsecond: a sample is 62.5 of them."""
    message = Duration()
    message.FromMicroseconds(samples * 1_000_000 // SAMPLE_RATE_HZ)
    return message


def sample(position: Duration) -> int:
    """A position, to the nearest sample."""
    nanos = position.nanos * SAMPLE_RATE_HZ
    return position.seconds * SAMPLE_RATE_HZ + (nanos + 500_000_000) // 1_000_000_000
