# SPDX-License-Identifier: Apache-2.0
"""What is said in a captioner's session: its messages, and the daemon's own types for them."""

from collections.abc import AsyncIterator, Iterable, Iterator

import structlog

from callsd_daemon.domain.captions import Encoding, SpeechChange, TrackUpdate, Words
from callsd_daemon.domain.jobs import Failure
from callsd_daemon.kinds.captions import CaptionerAssignment
from callsd_daemon.workers.captions.link import (
    CaptionerCommand,
    CaptionerStatus,
    CloseTrack,
    EndSpeech,
    Link,
    OpenTrack,
    Sound,
)
from callsd_daemon.workers.session.messages import (
    MAX_LOG_BYTES,
    MAX_TEXT,
    amount,
    known_reason,
    pins,
)
from callsd_daemon.workers.session.pace import Pace
from callsd_ipc.v1 import worker_pb2


log = structlog.get_logger(__name__)

PARCEL_BYTES = 256 * 1024
"""Audio in one message: far below the limit of a message, far above what comes in 20 ms."""

MAX_ENGINE_LETTERS = 64
"""The name is in each line of captions.jsonl; ours have a dozen letters."""

MAX_LANGUAGE_LETTERS = 16
MAX_FINALS = 64
"""In one update. A captioner has one or two, and one for each utterance it works off at an end."""

MAX_SAMPLE = 2**40
"""Of a position: two years. What is told of it later must be a time that can be told."""

MAX_REVISION = 2**30
"""Of an utterance. When its captioner is lost one more is counted, and told as 32 bits."""

UPDATES_A_SECOND = 1_000
"""A captioner sends some updates of each speaker in a second."""

NEWS_BYTES = 1024
"""Of an update; longer messages count for as many as they are long."""

_SPEECH = {
    worker_pb2.SPEECH_CHANGE_BEGIN: SpeechChange.BEGIN,
    worker_pb2.SPEECH_CHANGE_END: SpeechChange.END,
}


def work(order: CaptionerAssignment, *, log_kept: int) -> worker_pb2.CaptionResponse:
    """The first message to a captioner."""
    return worker_pb2.CaptionResponse(
        work=worker_pb2.CaptionerWork(
            model_name=order.model,
            model_files=pins(order.model_files),
            workers=order.workers,
            fallback_files=pins(order.fallback_files),
            engine=order.engine,
            fallback_engine=order.fallback_engine,
            log_kept=log_kept,
        )
    )


def orders(batch: Iterable[CaptionerCommand]) -> Iterator[worker_pb2.CaptionResponse]:
    """Commands as messages, adjacent pieces of audio in one."""
    pieces: list[worker_pb2.TrackAudio] = []
    size_bytes = 0
    for order in batch:
        if isinstance(order, Sound):
            chunk = order.chunk
            pieces.append(
                worker_pb2.TrackAudio(
                    track=order.track,
                    sequence=chunk.sequence,
                    start_sample=chunk.start_sample,
                    data=chunk.data,
                )
            )
            size_bytes += len(chunk.data)
        if pieces and (not isinstance(order, Sound) or size_bytes > PARCEL_BYTES):
            yield worker_pb2.CaptionResponse(audio=worker_pb2.AudioParcel(pieces=pieces))
            pieces, size_bytes = [], 0
        match order:
            case OpenTrack():
                yield worker_pb2.CaptionResponse(
                    open=worker_pb2.OpenTrack(
                        track=order.track,
                        job_id=order.job_id,
                        language=order.language,
                        is_opus=order.encoding is Encoding.OPUS,
                        start_sample=order.start_sample,
                    )
                )
            case EndSpeech():
                yield worker_pb2.CaptionResponse(end=worker_pb2.EndSpeech(track=order.track))
            case CloseTrack():
                yield worker_pb2.CaptionResponse(close=worker_pb2.CloseTrack(track=order.track))
            case Sound():
                pass
    if pieces:
        yield worker_pb2.CaptionResponse(audio=worker_pb2.AudioParcel(pieces=pieces))


async def follow(requests: AsyncIterator[worker_pb2.CaptionRequest], link: Link) -> None:
    """Take a captioner's reports until it or its link ends."""
    pace = Pace(rate=UPDATES_A_SECOND, burst=UPDATES_A_SECOND)
    try:
        async for request in requests:
            if link.is_closed:
                return
            await pace.wait(1 + request.ByteSize() // NEWS_BYTES)
            if request.HasField("log"):
                await link.log.take(request.log.offset, request.log.data[:MAX_LOG_BYTES])
            else:
                report(request, link)
    except Exception:
        # The captioner exits with its session, and another one is started.
        log.exception("captioner_report_failed")
    finally:
        link.close()


def report(message: worker_pb2.CaptionRequest, link: Link) -> None:
    """Pass on a captioner's report to the link's observer."""
    match message.WhichOneof("report"):
        case "status":
            status = message.status
            link.observer.on_status(
                CaptionerStatus(
                    load=amount(status.load),
                    lag_seconds=amount(status.lag_seconds),
                    degraded=status.degraded[:200],
                    real_time_factor=amount(status.real_time_factor),
                    cpu_seconds={cost.job_id: amount(cost.cpu_seconds) for cost in status.costs},
                    peak_memory_bytes=status.peak_memory_bytes,
                    engine=status.engine[:MAX_ENGINE_LETTERS],
                )
            )
        case "news":
            link.observer.on_update(message.news.track, _update(message.news))
        case "failure":
            link.observer.on_failure(
                Failure(
                    reason=known_reason(message.failure.reason),
                    message=message.failure.message[:MAX_TEXT],
                )
            )
        case _:
            # A second hello, or a report that only newer captioners know.
            pass


def _update(message: worker_pb2.TrackNews) -> TrackUpdate:
    return TrackUpdate(
        finals=tuple(_words(words) for words in message.finals[:MAX_FINALS]),
        interim=_words(message.interim) if message.HasField("interim") else None,
        processed_sample=_sample(message.processed_sample),
        recognised_sample=_sample(message.heard_sample),
        speech=_SPEECH.get(message.speech),
        is_drained=message.is_drained,
        skipped_samples=_sample(message.skipped_samples),
    )


def _words(message: worker_pb2.CaptionWords) -> Words:
    start_sample = _sample(message.start_sample)
    return Words(
        segment=message.segment,
        revision=min(max(message.revision, 0), MAX_REVISION),
        text=message.text[:MAX_TEXT],
        start_sample=start_sample,
        end_sample=max(start_sample, _sample(message.end_sample)),
        heard_sample=_sample(message.heard_sample),
        language=message.language[:MAX_LANGUAGE_LETTERS],
        stability=min(amount(message.stability), 1.0),
        is_end_of_utterance=message.end_of_utterance,
    )


def _sample(position: int) -> int:
    return min(max(position, 0), MAX_SAMPLE)
