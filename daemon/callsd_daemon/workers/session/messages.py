# SPDX-License-Identifier: Apache-2.0
"""Between the corridor's messages and the domain's words."""

import math
from pathlib import Path

from google.protobuf.message import DecodeError

from callsd_daemon.domain.captions import CaptionsResult
from callsd_daemon.domain.errors import Reason
from callsd_daemon.domain.jobs import Artifact, Failure, Notice, Outcome, Progress, Usage
from callsd_daemon.domain.transcription import Engine, TrackResult, TranscriptionResult
from callsd_daemon.workers.seat import Assignment
from callsd_ipc.v1 import worker_pb2


OUTCOME_FILE = "outcome.binpb"
MAX_OUTCOME_BYTES = 4 * 1024 * 1024
"""An outcome names at most 256 tracks and some files; anything larger was not written by us."""

CANCELLED = "CANCELLED"
"""What a worker reports as its failure when it ended because it was asked to."""


def bootstrap(*, job_id: str, generation: int, token: str, socket: Path, directory: Path) -> bytes:
    """What a worker reads from its standard input."""
    return worker_pb2.Bootstrap(
        job_id=job_id,
        generation=generation,
        token=token,
        socket_path=str(socket),
        job_directory=str(directory),
    ).SerializeToString()


def assignment(seat: Assignment) -> worker_pb2.Assignment:
    """The work, as the worker is told it."""
    spec = seat.job.transcription
    assert spec is not None
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
    return worker_pb2.Assignment(
        transcription=worker_pb2.TranscriptionWork(
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
    )


def progress(status: worker_pb2.Status) -> Progress:
    """How far the worker says it is."""
    return Progress(
        phase=status.phase[:64],
        fraction=min(max(finite(status.fraction), 0.0), 1.0),
        processed_seconds=finite(status.processed_seconds),
        total_seconds=finite(status.total_seconds),
        real_time_factor=finite(status.real_time_factor),
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


def finite(value: float) -> float:
    """What a worker sends may be nonsense, but must not spoil what is stored of the job."""
    return value if math.isfinite(value) else 0.0


def _reason(name: str) -> Reason:
    """A worker may be older or newer than we are: what we do not know is a bug of ours."""
    return Reason(name) if name in set(Reason) else Reason.INTERNAL
