# SPDX-License-Identifier: Apache-2.0
"""Sound of a call that a worker captures in, its captions out."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator

import structlog

from callsd_daemon.domain.captions import SAMPLE_RATE_HZ, Encoding
from callsd_daemon.domain.errors import CallsdError
from callsd_daemon.domain.work import MAX_DURATION_SECONDS
from callsd_daemon.workers.captions.call import Call
from callsd_daemon.workers.captions.feed import Caption, Event, EventType, Published
from callsd_ipc.opus import claimed_samples
from callsd_ipc.v1 import worker_pb2


log = structlog.get_logger(__name__)

MAX_PACKET_BYTES = 1500
MAX_SAMPLE = int(MAX_DURATION_SECONDS) * SAMPLE_RATE_HZ
MAX_SEQUENCE = 1 << 53

LOOK_SECONDS = 1.0
"""How often it is looked whether the worker is still there."""

_SPEAKER = re.compile(r"[A-Za-z0-9_-]{1,64}")


async def converse(
    requests: AsyncIterator[worker_pb2.CaptionCallRequest], call: Call
) -> AsyncGenerator[worker_pb2.CaptionCallResponse, None]:
    """What the worker is told of its call, until its stream or the call ends.

    A stream that begins later takes over from this one, which ends then.
    """
    stream = call.attach(Encoding.OPUS)
    call.feed.wake()  # the stream before this one
    receiving = asyncio.create_task(_receive(requests, call, stream))
    feed, sequence, version = call.feed, call.feed.last_sequence, call.feed.version
    try:
        while not receiving.done() and not feed.ended.is_set():
            call.check_stream(stream)
            items, version = feed.after(sequence, version), feed.version
            for item in items:
                if isinstance(item.content, Caption) and item.content.sequence:
                    sequence = item.content.sequence
                if (response := _response(item)) is not None:
                    yield response
            if feed.version == version:
                await feed.wait(LOOK_SECONDS)
    except CallsdError as problem:
        log.info("captured_sound_elsewhere", job_id=call.job_id, problem=problem.message)
    finally:
        receiving.cancel()
        (end,) = await asyncio.gather(receiving, return_exceptions=True)
        if isinstance(end, Exception):  # the ends of streams, and of this one, are none
            log.error("captured_sound_failed", job_id=call.job_id, exc_info=end)
        call.detach(stream)


async def _receive(
    requests: AsyncIterator[worker_pb2.CaptionCallRequest], call: Call, stream: int
) -> None:
    is_told = False
    async for request in requests:
        try:
            call.check_stream(stream)
        except CallsdError:
            return
        for piece in request.audio:
            try:
                _take(call, piece)
            except CallsdError as problem:
                # Of one speaker, or of one too many: the others are captioned all the same.
                if not is_told:
                    log.warning(
                        "captured_sound_refused", job_id=call.job_id, problem=problem.message
                    )
                is_told = True
        for speaker in request.paused:
            if speaker in call.speakers:
                call.pause(speaker)
        # Who sends faster than can be worked off waits here.
        await call.until_room()


def _take(call: Call, piece: worker_pb2.SpeakerAudio) -> None:
    """Raises CallsdError when the sound contradicts what was before."""
    is_plausible = (
        _SPEAKER.fullmatch(piece.speaker)
        and 0 < piece.sequence < MAX_SEQUENCE
        and 0 <= piece.start_sample < MAX_SAMPLE
        and len(piece.data) <= MAX_PACKET_BYTES
    )
    if not is_plausible:
        return
    length = claimed_samples(piece.data, SAMPLE_RATE_HZ)
    if not length:
        return
    call.receive(piece.speaker, piece.sequence, piece.start_sample, length, piece.data)


def _response(item: Published[Caption] | Published[Event]) -> worker_pb2.CaptionCallResponse | None:
    content = item.content
    if isinstance(content, Caption):
        words = content.words
        return worker_pb2.CaptionCallResponse(
            words=worker_pb2.SpeakerWords(
                speaker=content.speaker,
                segment=words.segment,
                revision=words.revision,
                text=words.text,
                final=content.sequence > 0,
                end_of_utterance=words.is_end_of_utterance,
                heard_sample=words.heard_sample,
                start_sample=words.start_sample,
            )
        )
    match content.type:
        case EventType.AUDIO_SKIPPED:
            return worker_pb2.CaptionCallResponse(skipped=content.speaker)
        case EventType.DEGRADED | EventType.RECOVERED:
            return worker_pb2.CaptionCallResponse(degraded=content.type is EventType.DEGRADED)
        case _:
            return None
