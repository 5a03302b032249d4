# SPDX-License-Identifier: Apache-2.0
"""Converts between messages of the private API and the daemon's own types."""

import math
import unicodedata
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from callsd_daemon.domain.capture import CAPTURE, CapturedTrack, CaptureResult
from callsd_daemon.domain.errors import Reason
from callsd_daemon.domain.jobs import Artifact, Failure, Notice, Outcome, Progress, Usage
from callsd_daemon.domain.recording import RECORDING, Picture, RecordingHealth, RecordingResult
from callsd_daemon.domain.transcription import (
    TRANSCRIPTION,
    Engine,
    TrackResult,
    TranscriptionResult,
)
from callsd_daemon.domain.work import Result
from callsd_daemon.files import PASSING_ERRNOS, read_regular
from callsd_daemon.kinds import Assignment, ModelFile, Role
from callsd_daemon.kinds.capture import CaptureAssignment
from callsd_daemon.kinds.recording import RecordingAssignment
from callsd_daemon.kinds.transcription import TranscriptionAssignment
from callsd_daemon.workers.slot import Endpoint
from callsd_ipc.names import MAX_OUTCOME_BYTES, OUTCOME
from callsd_ipc.v1 import worker_pb2


MAX_NAME = 200
MAX_TEXT = 2_000
MAX_NOTICES = 64
MAX_TRACKS = 256
"""Limits of what is stored of a worker's outcome. Texts in characters."""

MAX_LOG_BYTES = 64 * 1024
"""Of a log, in one report."""

MAX_UNIX_MILLISECONDS = 4_102_444_800_000
"""The year 2100."""

MAX_NUMBER = 1e9
"""No number that a worker reports is larger: seconds of audio, loudness, ratios."""

CANCELLED = "CANCELLED"
"""What a worker reports as its failure when it ended because it was asked to."""

_NO_TEXT = frozenset({"Cc", "Zl", "Zp"})
"""Categories of control characters, and of what ends a line or paragraph."""

_ROLES = {
    Role.TRANSCRIBER: worker_pb2.ROLE_TRANSCRIBER,
    Role.RECORDER: worker_pb2.ROLE_RECORDER,
    Role.CAPTIONER: worker_pb2.ROLE_CAPTIONER,
    Role.CAPTURER: worker_pb2.ROLE_CAPTURER,
}


def bootstrap(
    *,
    name: str,
    role: Role,
    generation: int,
    token: str,
    endpoint: Endpoint,
    salvage: Failure | None = None,
) -> bytes:
    """What a worker reads from its standard input; with `salvage` it only delivers what is left."""
    message = worker_pb2.Bootstrap(
        job_id=name,
        role=_ROLES[role],
        generation=generation,
        token=token,
        endpoint=endpoint.address,
        tls_roots=endpoint.tls_roots,
        file_socket=endpoint.file_socket,
    )
    if salvage is not None:
        message.salvage.reason, message.salvage.message = salvage.reason, salvage.message
    return message.SerializeToString()


def pins(files: tuple[ModelFile, ...]) -> list[worker_pb2.FilePin]:
    """The files of a model as messages."""
    return [
        worker_pb2.FilePin(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256)
        for file in files
    ]


def assignment(assignment: Assignment) -> worker_pb2.Assignment:
    """The work, as the worker is told it."""
    return WORK[type(assignment)](assignment)


def _recording_work(assignment: RecordingAssignment) -> worker_pb2.Assignment:
    spec, fragment = assignment.spec, assignment.secrets.url_fragment
    quality = spec.quality
    work = worker_pb2.RecordingWork(
        url=f"{spec.url}#{fragment}" if fragment else spec.url,
        headers=assignment.secrets.headers,
        header_origins=spec.header_origins,
        width=quality.width,
        height=quality.height,
        frame_rate=quality.frame_rate,
        video_kbps=quality.video_kbps,
        audio_kbps=quality.audio_kbps,
        audio_only=spec.audio_only,
        ready_expression=spec.ready_expression,
        over_expression=spec.over_expression,
        leave_expression=spec.leave_expression,
        ready_timeout_seconds=spec.ready_timeout_seconds,
        min_free_bytes=assignment.min_free_bytes,
        max_seconds=assignment.max_seconds,
        secrets=assignment.hidden,
        patience_seconds=assignment.patience_seconds,
        open_delay_seconds=assignment.open_delay_seconds,
        certificates=assignment.certificates,
        begun_expression=assignment.begun_expression,
    )
    return worker_pb2.Assignment(recording=work)


def _transcription_work(assignment: TranscriptionAssignment) -> worker_pb2.Assignment:
    spec, rule = assignment.spec, assignment.spec.text_compaction
    tracks = [
        worker_pb2.TrackWork(
            speaker=track.speaker,
            start_offset_seconds=track.start_offset_seconds,
            language=track.language,
            speaker_id=track.speaker_id,
        )
        for track in spec.tracks
    ]
    work = worker_pb2.TranscriptionWork(
        tracks=tracks,
        model_name=spec.model,
        model_files=pins(assignment.model_files),
        engine=spec.engine,
        threads=assignment.threads,
        language=spec.language,
        task=spec.task,
        initial_prompt=spec.initial_prompt,
        vocabulary=spec.vocabulary,
        formats=spec.formats,
        webvtt_omit_speaker=spec.webvtt_omit_speaker,
        text_compaction=None
        if rule is None
        else worker_pb2.TextCompaction(
            silence_seconds=rule.silence_seconds, max_seconds=rule.max_seconds
        ),
        mattermost_names=spec.call is not None,
    )
    return worker_pb2.Assignment(transcription=work)


def _capture_work(assignment: CaptureAssignment) -> worker_pb2.Assignment:
    call = assignment.spec.call
    work = worker_pb2.CaptureWork(
        site_url=call.site_url,
        call_id=call.call_id,
        job_id=call.job_id,
        token=assignment.secrets.token,
        certificates=assignment.certificates,
        captions=assignment.spec.captions is not None,
        max_seconds=assignment.max_seconds,
        min_free_bytes=assignment.min_free_bytes,
    )
    return worker_pb2.Assignment(capture=work)


WORK: dict[type, Callable[[Any], worker_pb2.Assignment]] = {
    TranscriptionAssignment: _transcription_work,
    RecordingAssignment: _recording_work,
    CaptureAssignment: _capture_work,
}
"""How each kind of work is told."""


def progress(status: worker_pb2.Status) -> Progress:
    """The progress that a worker reports."""
    return Progress(
        phase=status.phase[:64],
        fraction=min(amount(status.fraction), 1.0),
        processed_seconds=amount(status.processed_seconds),
        total_seconds=amount(status.total_seconds),
        real_time_factor=amount(status.real_time_factor),
        recording=_health(status.recording) if status.HasField("recording") else None,
    )


def _health(status: worker_pb2.RecordingStatus) -> RecordingHealth:
    return RecordingHealth(
        frame_count=max(0, status.frame_count),
        changed_frame_rate=amount(status.changed_frame_rate),
        audio_level_db=finite(status.audio_level_db),
        picture=Picture(status.picture) if status.picture in set(Picture) else None,
        still_seconds=amount(status.still_seconds),
        drift_ms=finite(status.drift_ms),
        size_bytes=max(0, status.size_bytes),
        disk_free_bytes=max(0, status.disk_free_bytes),
        segment=max(0, status.segment),
    )


def read_outcome(directory: Path, generation: int) -> Outcome | None:
    """The outcome of this generation in a job's directory; None if there is no valid one.

    Raises OSError when that cannot be told now. The file is not trusted: workers of the release
    before wrote it themselves.
    """
    try:
        message = worker_pb2.Outcome.FromString(
            read_regular(directory / OUTCOME, MAX_OUTCOME_BYTES)
        )
    except DecodeError:
        return None
    except OSError as problem:
        if problem.errno in PASSING_ERRNOS:
            raise
        return None
    return outcome(message) if message.generation == generation else None


def outcome(message: worker_pb2.Outcome) -> Outcome:
    """The outcome that a worker reports; texts are cut, and numbers that cannot be become 0."""
    failure = None
    if message.failure_reason and message.failure_reason != CANCELLED:
        failure = Failure(
            reason=known_reason(message.failure_reason),
            message=message.failure_message[:MAX_TEXT],
            metadata={
                key[:MAX_NAME]: value[:MAX_NAME]
                for key, value in sorted(message.failure_metadata.items())[:MAX_NOTICES]
            },
        )
    return Outcome(
        failure=failure,
        cancelled=message.failure_reason == CANCELLED,
        artifacts=tuple(
            Artifact(
                file_name=file.file_name,
                media_type=file.media_type[:MAX_NAME],
                size_bytes=file.size_bytes,
                sha256=file.sha256[:MAX_NAME],
            )
            for file in message.artifacts
        ),
        notices=tuple(
            Notice(code=notice.code[:MAX_NAME], message=notice.message[:MAX_TEXT])
            for notice in message.notices[:MAX_NOTICES]
        ),
        results=_results(message),
        usage=Usage(
            cpu_seconds=amount(message.cpu_seconds),
            peak_memory_bytes=max(0, message.peak_memory_bytes),
            wall_seconds=amount(message.wall_seconds),
        ),
    )


def _results(message: worker_pb2.Outcome) -> dict[str, Result]:
    results = dict[str, Result]()
    if message.HasField("transcription"):
        results[TRANSCRIPTION] = _transcription(message.transcription)
    if message.HasField("recording"):
        results[RECORDING] = _recording(message.recording)
    if message.HasField("capture"):
        files = {file.file_name for file in message.artifacts}
        results[CAPTURE] = _capture(message.capture, files)
    return results


def _transcription(message: worker_pb2.TranscriptionOutcome) -> TranscriptionResult:
    return TranscriptionResult(
        tracks=tuple(
            TrackResult(
                speaker=track.speaker[:MAX_NAME],
                duration_seconds=amount(track.duration_seconds),
                speech_seconds=amount(track.speech_seconds),
                language=track.language[:MAX_NAME],
                failure_reason=known_reason(track.failure_reason) if track.failure_reason else None,
                failure_message=track.failure_message[:MAX_TEXT],
            )
            for track in message.tracks[:MAX_TRACKS]
        ),
        language=message.language[:MAX_NAME],
        engine=Engine(message.engine) if message.engine in set(Engine) else Engine.AUTO,
        segment_count=max(0, message.segment_count),
        word_count=max(0, message.word_count),
        audio_seconds=amount(message.audio_seconds),
        real_time_factor=amount(message.real_time_factor),
    )


def _recording(message: worker_pb2.RecordingOutcome) -> RecordingResult:
    return RecordingResult(
        duration_seconds=amount(message.duration_seconds),
        width=max(0, message.width),
        height=max(0, message.height),
        frame_rate=amount(message.frame_rate),
        size_bytes=max(0, message.size_bytes),
        segment_count=max(0, message.segment_count),
        gap_seconds=amount(message.gap_seconds),
        is_cut_short=message.cut_short,
        start_time=_time(message.start_ms),
    )


def _capture(message: worker_pb2.CaptureOutcome, files: Collection[str]) -> CaptureResult:
    """The result, with those tracks whose file is among `files`, each once."""
    found = dict[str, worker_pb2.CapturedTrack]()
    for track in message.tracks[:MAX_TRACKS]:
        if track.file_name in files:
            found.setdefault(track.file_name, track)
    return CaptureResult(
        tracks=tuple(
            CapturedTrack(
                file_name=track.file_name,
                speaker=_line(track.speaker[:MAX_NAME]),
                speaker_id=_line(track.speaker_id[:MAX_NAME]),
                start_time=start_time,
                duration_seconds=amount(track.duration_seconds),
            )
            for track in found.values()
            if (start_time := _time(track.start_ms)) is not None
        ),
        recording_start_time=_time(message.recording_start_ms),
        caption_count=max(0, message.caption_count),
        problem=_line(message.problem[:MAX_TEXT]),
    )


def _line(text: str) -> str:
    """The text without what would steer a terminal, or begin another line of a transcript."""
    return "".join(" " if unicodedata.category(sign) in _NO_TEXT else sign for sign in text).strip()


def _time(milliseconds: int) -> datetime | None:
    """A moment of Unix time; None if it is not told, or is no plausible one."""
    if not 0 < milliseconds < MAX_UNIX_MILLISECONDS:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def amount(value: float) -> float:
    """The value, or 0 if it is negative or no plausible number."""
    return max(0.0, finite(value))


def finite(value: float) -> float:
    """The value, or 0 if it is no plausible number: it is stored with the job."""
    return min(max(value, -MAX_NUMBER), MAX_NUMBER) if math.isfinite(value) else 0.0


def known_reason(name: str) -> Reason:
    """The reason of that name; INTERNAL if only another release knows it."""
    return Reason(name) if name in set(Reason) else Reason.INTERNAL
