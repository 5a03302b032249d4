# SPDX-License-Identifier: Apache-2.0
"""From the domain's words to the API's messages."""

from datetime import datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from callsd.v1 import (
    capacity_pb2,
    caption_pb2,
    error_pb2,
    job_pb2,
    kind_pb2,
    recording_pb2,
    transcription_pb2,
)
from callsd_daemon.domain.captions import CaptionsResult
from callsd_daemon.domain.errors import Reason
from callsd_daemon.domain.jobs import Artifact, Job, Kind, Reservation, State
from callsd_daemon.domain.recording import (
    Picture,
    Profile,
    RecordingHealth,
    RecordingResult,
    RecordingSpec,
)
from callsd_daemon.domain.transcription import (
    Engine,
    Format,
    Task,
    Track,
    TranscriptionResult,
    TranscriptionSpec,
)


KINDS = {kind: kind_pb2.JobKind.Value(f"JOB_KIND_{kind.name}") for kind in Kind}
STATES = {state: job_pb2.JobState.Value(f"JOB_STATE_{state.name}") for state in State}
REASONS = {reason: error_pb2.ErrorReason.Value(f"ERROR_REASON_{reason.name}") for reason in Reason}
ENGINES = {
    engine: transcription_pb2.SpeechEngine.Value(f"SPEECH_ENGINE_{engine.name}")
    for engine in Engine
}
TASKS = {
    task: transcription_pb2.TranscriptionTask.Value(f"TRANSCRIPTION_TASK_{task.name}")
    for task in Task
}
FORMATS = {
    format_: transcription_pb2.TranscriptFormat.Value(f"TRANSCRIPT_FORMAT_{format_.name}")
    for format_ in Format
}

PROFILE_NUMBERS = {
    profile: recording_pb2.RecordingProfile.Value(f"RECORDING_PROFILE_{profile.name}")
    for profile in Profile
}
PICTURES = {
    picture: recording_pb2.PictureState.Value(f"PICTURE_STATE_{picture.name}")
    for picture in Picture
}

MAX_SECONDS = 315_576_000_000.0
"""The longest duration that protobuf knows: a worker may count wrongly."""


def job_name(job_id: str) -> str:
    """A job's resource name."""
    return f"jobs/{job_id}"


def etag(job: Job) -> str:
    """Changes with every revision of the job."""
    return f"r{job.revision}"


def job_message(job: Job, *, queue_position: int = 0) -> job_pb2.Job:
    """A job as clients see it."""
    message = job_pb2.Job(
        name=job_name(job.id) if job.revision else "",
        etag=etag(job) if job.revision else "",
        kind=KINDS[job.kind],
        state=STATES[job.state],
        labels=job.labels,
        max_duration=duration(job.max_duration_seconds),
        notices=[
            job_pb2.Notice(code=notice.code, message=notice.message) for notice in job.notices
        ],
        artifacts=[artifact_message(job.id, artifact) for artifact in job.artifacts],
        reservation=reservation_message(job.reservation),
        queue_position=queue_position,
        attempt=job.attempt,
        creator=job.creator,
        revision=job.revision,
        create_time=timestamp(job.create_time),
        update_time=timestamp(job.update_time),
    )
    _add_kind(message, job)
    if job.progress.phase:
        progress = job.progress
        message.progress.phase = progress.phase
        message.progress.fraction = progress.fraction
        message.progress.real_time_factor = progress.real_time_factor
        message.progress.processed.CopyFrom(duration(progress.processed_seconds))
        message.progress.total.CopyFrom(duration(progress.total_seconds))
        if progress.recording is not None:
            message.progress.recording.CopyFrom(_health(progress.recording))
    if job.failure is not None:
        message.failure.reason = REASONS[job.failure.reason]
        message.failure.message = job.failure.message
        message.failure.metadata.update(job.failure.metadata)
    if job.usage is not None:
        message.usage.cpu_seconds = job.usage.cpu_seconds
        message.usage.peak_memory_bytes = job.usage.peak_memory_bytes
    if job.waiting_for is not None:
        message.waiting_for = REASONS[job.waiting_for]
    for field, stamp in (
        (message.start_time, job.start_time),
        (message.end_time, job.end_time),
        (message.expire_time, job.expire_time),
    ):
        if stamp is not None:
            field.CopyFrom(timestamp(stamp))
    return message


def _add_kind(message: job_pb2.Job, job: Job) -> None:
    """What only jobs of one kind have."""
    if job.transcription is not None:
        message.transcription.CopyFrom(_spec(job.transcription))
    if job.captions is not None:
        message.captions.model = job.captions.model
        message.captions.language = job.captions.language
        message.captions.max_active_speakers = job.captions.max_active_speakers
    if job.recording is not None:
        message.recording.CopyFrom(_recording(job.recording))
    if job.recording_result is not None:
        message.recording_result.CopyFrom(_recording_result(job.recording_result))
    if job.transcription_result is not None:
        message.transcription_result.CopyFrom(_result(job.transcription_result))
    if job.captions_result is not None:
        message.captions_result.CopyFrom(_captions_result(job.captions_result))


def artifact_message(job_id: str, artifact: Artifact) -> job_pb2.Artifact:
    """An artifact as clients see it."""
    return job_pb2.Artifact(
        name=f"{job_name(job_id)}/artifacts/{artifact.file_name}",
        media_type=artifact.media_type,
        size_bytes=artifact.size_bytes,
        sha256=artifact.sha256,
    )


def reservation_message(reservation: Reservation) -> capacity_pb2.Reservation:
    """A reservation as clients see it."""
    return capacity_pb2.Reservation(
        cores=reservation.cores,
        memory_bytes=reservation.memory_bytes,
        disk_bytes=reservation.disk_bytes,
    )


def _spec(spec: TranscriptionSpec) -> transcription_pb2.TranscriptionSpec:
    return transcription_pb2.TranscriptionSpec(
        tracks=[_track(track) for track in spec.tracks],
        model=spec.model,
        engine=ENGINES[spec.engine],
        threads=spec.threads or None,
        language=spec.language,
        task=TASKS[spec.task],
        initial_prompt=spec.initial_prompt,
        vocabulary=spec.vocabulary,
        formats=[FORMATS[format_] for format_ in spec.formats],
        webvtt_omit_speaker=spec.webvtt_omit_speaker,
    )


def _track(track: Track) -> transcription_pb2.Track:
    message = transcription_pb2.Track(
        speaker=track.speaker,
        start_offset=duration(track.start_offset_seconds),
        language=track.language,
    )
    if track.upload_id:
        message.upload = f"uploads/{track.upload_id}"
    else:
        message.path = track.path
    return message


def _result(result: TranscriptionResult) -> transcription_pb2.TranscriptionResult:
    return transcription_pb2.TranscriptionResult(
        tracks=[
            transcription_pb2.TrackResult(
                speaker=track.speaker,
                duration=duration(track.duration_seconds),
                speech_duration=duration(track.speech_seconds),
                language=track.language,
                failure_reason=(
                    REASONS[track.failure_reason]
                    if track.failure_reason
                    else error_pb2.ERROR_REASON_UNSPECIFIED
                ),
                failure_message=track.failure_message,
            )
            for track in result.tracks
        ],
        language=result.language,
        engine=ENGINES[result.engine],
        segment_count=result.segment_count,
        word_count=result.word_count,
        audio_duration=duration(result.audio_seconds),
        real_time_factor=result.real_time_factor,
    )


def _captions_result(result: CaptionsResult) -> caption_pb2.CaptionsResult:
    return caption_pb2.CaptionsResult(
        caption_count=result.caption_count,
        word_count=result.word_count,
        speaker_count=result.speaker_count,
        audio_duration=duration(result.audio_seconds),
        skipped_duration=duration(result.skipped_seconds),
        restart_count=result.restart_count,
    )


def _recording(spec: RecordingSpec) -> recording_pb2.RecordingSpec:
    quality = spec.quality
    return recording_pb2.RecordingSpec(
        url=spec.url,
        headers=dict.fromkeys(spec.header_names, ""),
        profile=PROFILE_NUMBERS[spec.profile],
        width=quality.width,
        height=quality.height,
        frame_rate=quality.frame_rate,
        video_kbps=quality.video_kbps,
        audio_kbps=quality.audio_kbps,
        audio_only=spec.audio_only,
        ready_expression=spec.ready_expression,
        over_expression=spec.over_expression,
        leave_expression=spec.leave_expression,
        ready_timeout=duration(spec.ready_timeout_seconds),
    )


def _recording_result(result: RecordingResult) -> recording_pb2.RecordingResult:
    return recording_pb2.RecordingResult(
        duration=duration(result.duration_seconds),
        width=result.width,
        height=result.height,
        frame_rate=result.frame_rate,
        size_bytes=result.size_bytes,
        segment_count=result.segment_count,
        gap_duration=duration(result.gap_seconds),
        cut_short=result.is_cut_short,
    )


def _health(health: RecordingHealth) -> recording_pb2.RecordingHealth:
    return recording_pb2.RecordingHealth(
        frame_count=health.frame_count,
        changed_frame_rate=health.changed_frame_rate,
        audio_level_db=health.audio_level_db,
        picture=(
            recording_pb2.PICTURE_STATE_UNSPECIFIED
            if health.picture is None
            else PICTURES[health.picture]
        ),
        drift_ms=health.drift_ms,
        size_bytes=health.size_bytes,
        disk_free_bytes=health.disk_free_bytes,
        segment=health.segment,
        still_duration=duration(health.still_seconds),
    )


def duration(seconds: float) -> Duration:
    """Seconds as a message, to the millisecond."""
    message = Duration()
    message.FromMilliseconds(round(min(max(seconds, -MAX_SECONDS), MAX_SECONDS) * 1000))
    return message


def timestamp(stamp: datetime) -> Timestamp:
    """A time as a message."""
    message = Timestamp()
    message.FromDatetime(stamp)
    return message
