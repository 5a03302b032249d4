# SPDX-License-Identifier: Apache-2.0
"""Between the corridor's messages and the domain's words."""

import math
from pathlib import Path

from google.protobuf.message import DecodeError

from callsd_daemon.domain.captions import CaptionsResult
from callsd_daemon.domain.errors import Reason
from callsd_daemon.domain.jobs import Artifact, Failure, Notice, Outcome, Progress, Usage
from callsd_daemon.domain.recording import Picture, RecordingHealth, RecordingResult
from callsd_daemon.domain.transcription import Engine, TrackResult, TranscriptionResult
from callsd_daemon.workers.seat import Assignment, RecordingAssignment, TranscriptionAssignment
from callsd_ipc.v1 import worker_pb2


OUTCOME_FILE = "outcome.binpb"
MAX_OUTCOME_BYTES = 4 * 1024 * 1024
"""An outcome names at most 256 tracks and some files; anything larger was not written by us."""

CANCELLED = "CANCELLED"
"""What a worker reports as its failure when it ended because it was asked to."""


def bootstrap(
    *,
    job_id: str,
    generation: int,
    token: str,
    socket: Path,
    directory: Path,
    salvage: Failure | None = None,
) -> bytes:
    """What a worker reads from its standard input; with `salvage`, that it saves what there is."""
    message = worker_pb2.Bootstrap(
        job_id=job_id,
        generation=generation,
        token=token,
        socket_path=str(socket),
        job_directory=str(directory),
    )
    if salvage is not None:
        message.salvage.reason, message.salvage.message = salvage.reason, salvage.message
    return message.SerializeToString()


def assignment(seat: Assignment) -> worker_pb2.Assignment:
    """The work, as the worker is told it."""
    match seat:
        case TranscriptionAssignment():
            return worker_pb2.Assignment(transcription=_transcription_work(seat))
        case RecordingAssignment():
            return worker_pb2.Assignment(recording=_recording_work(seat))


def _recording_work(seat: RecordingAssignment) -> worker_pb2.RecordingWork:
    spec, quality, fragment = seat.spec, seat.spec.quality, seat.secrets.url_fragment
    return worker_pb2.RecordingWork(
        url=f"{spec.url}#{fragment}" if fragment else spec.url,
        headers=seat.secrets.headers,
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
        min_free_bytes=seat.min_free_bytes,
        max_seconds=seat.max_seconds,
    )


def _transcription_work(seat: TranscriptionAssignment) -> worker_pb2.TranscriptionWork:
    spec = seat.spec
    tracks = [
        worker_pb2.TrackWork(
            path=str(path),
            speaker=track.speaker,
            start_offset_seconds=track.start_offset_seconds,
            language=track.language,
        )
        for track, path in zip(spec.tracks, seat.media, strict=True)
    ]
    pins = [
        worker_pb2.FilePin(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256)
        for file in seat.model_files
    ]
    return worker_pb2.TranscriptionWork(
        tracks=tracks,
        model_name=spec.model,
        model_directory=str(seat.model_directory),
        model_files=pins,
        engine=spec.engine,
        threads=seat.threads,
        language=spec.language,
        task=spec.task,
        initial_prompt=spec.initial_prompt,
        vocabulary=spec.vocabulary,
        formats=spec.formats,
        webvtt_omit_speaker=spec.webvtt_omit_speaker,
    )


def progress(status: worker_pb2.Status) -> Progress:
    """How far the worker says it is."""
    return Progress(
        phase=status.phase[:64],
        fraction=min(max(finite(status.fraction), 0.0), 1.0),
        processed_seconds=finite(status.processed_seconds),
        total_seconds=finite(status.total_seconds),
        real_time_factor=finite(status.real_time_factor),
        recording=_health(status.recording) if status.HasField("recording") else None,
    )


def _health(status: worker_pb2.RecordingStatus) -> RecordingHealth:
    return RecordingHealth(
        frame_count=status.frame_count,
        changed_frame_rate=finite(status.changed_frame_rate),
        audio_level_db=finite(status.audio_level_db),
        picture=Picture(status.picture) if status.picture in set(Picture) else None,
        still_seconds=finite(status.still_seconds),
        drift_ms=finite(status.drift_ms),
        size_bytes=status.size_bytes,
        disk_free_bytes=status.disk_free_bytes,
        segment=status.segment,
    )


def read_outcome(directory: Path, generation: int) -> Outcome | None:
    """What the worker of this generation left behind; None if it left nothing (valid)."""
    path = directory / OUTCOME_FILE
    try:
        if path.stat().st_size > MAX_OUTCOME_BYTES:
            return None
        message = worker_pb2.Outcome.FromString(path.read_bytes())
    except (OSError, DecodeError):
        return None
    return _outcome(message) if message.generation == generation else None


def _outcome(message: worker_pb2.Outcome) -> Outcome:
    failure = None
    if message.failure_reason and message.failure_reason != CANCELLED:
        failure = Failure(
            reason=_reason(message.failure_reason),
            message=message.failure_message,
            metadata=dict(message.failure_metadata),
        )
    return Outcome(
        failure=failure,
        cancelled=message.failure_reason == CANCELLED,
        artifacts=tuple(
            Artifact(
                file_name=file.file_name,
                media_type=file.media_type,
                size_bytes=file.size_bytes,
                sha256=file.sha256,
            )
            for file in message.artifacts
        ),
        notices=tuple(
            Notice(code=notice.code, message=notice.message) for notice in message.notices
        ),
        transcription=(
            _transcription(message.transcription) if message.HasField("transcription") else None
        ),
        captions=_captions(message.captions) if message.HasField("captions") else None,
        recording=_recording(message.recording) if message.HasField("recording") else None,
        usage=Usage(
            cpu_seconds=finite(message.cpu_seconds),
            peak_memory_bytes=message.peak_memory_bytes,
            wall_seconds=finite(message.wall_seconds),
        ),
    )


def _transcription(message: worker_pb2.TranscriptionOutcome) -> TranscriptionResult:
    return TranscriptionResult(
        tracks=tuple(
            TrackResult(
                speaker=track.speaker,
                duration_seconds=finite(track.duration_seconds),
                speech_seconds=finite(track.speech_seconds),
                language=track.language,
                failure_reason=_reason(track.failure_reason) if track.failure_reason else None,
                failure_message=track.failure_message,
            )
            for track in message.tracks
        ),
        language=message.language,
        engine=Engine(message.engine) if message.engine in set(Engine) else Engine.AUTO,
        segment_count=message.segment_count,
        word_count=message.word_count,
        audio_seconds=finite(message.audio_seconds),
        real_time_factor=finite(message.real_time_factor),
    )


def _captions(message: worker_pb2.CaptionsOutcome) -> CaptionsResult:
    return CaptionsResult(
        caption_count=message.caption_count,
        word_count=message.word_count,
        speaker_count=message.speaker_count,
        audio_seconds=finite(message.audio_seconds),
        skipped_seconds=finite(message.skipped_seconds),
        restart_count=message.restart_count,
    )


def _recording(message: worker_pb2.RecordingOutcome) -> RecordingResult:
    return RecordingResult(
        duration_seconds=finite(message.duration_seconds),
        width=message.width,
        height=message.height,
        frame_rate=finite(message.frame_rate),
        size_bytes=message.size_bytes,
        segment_count=message.segment_count,
        gap_seconds=finite(message.gap_seconds),
        is_cut_short=message.cut_short,
    )


def finite(value: float) -> float:
    """What a worker sends may be nonsense, but must not spoil what is stored of the job."""
    return value if math.isfinite(value) else 0.0


def _reason(name: str) -> Reason:
    """A worker may be older or newer than we are: what we do not know is a bug of ours."""
    return Reason(name) if name in set(Reason) else Reason.INTERNAL
