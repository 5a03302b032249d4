# SPDX-License-Identifier: Apache-2.0
"""Jobs, as clients ask for them and see them."""

import hashlib
from itertools import islice

from callsd.v1 import capacity_pb2, job_pb2, kind_pb2, mattermost_pb2, recording_pb2
from callsd_daemon.domain.admission import Decision, Queue
from callsd_daemon.domain.delivery import Delivery
from callsd_daemon.domain.jobs import Artifact, Job, Reservation, job_name
from callsd_daemon.domain.recording import Picture, RecordingHealth
from callsd_daemon.domain.work import MAX_DURATION_SECONDS, Spec
from callsd_daemon.kinds import Kinds
from callsd_daemon.rpc.convert import (
    DELIVERIES,
    KINDS,
    REASONS,
    STATES,
    duration,
    timestamp,
)
from callsd_daemon.rpc.kinds import TRANSLATIONS
from callsd_daemon.rpc.problems import Problems
from callsd_daemon.usecases.jobs import JobRequest


MAX_JOB_BYTES = 128 * 1024
"""Length of a job in a request. Room for 256 tracks with their paths, names in any script, a
vocabulary and a prompt; it is kept with each of the job's changes, and sent with each of them."""

MAX_LABELS = 32

PICTURES = {
    picture: recording_pb2.PictureState.Value(f"PICTURE_STATE_{picture.name}")
    for picture in Picture
}


def job_request(request: job_pb2.CreateJobRequest, kinds: Kinds) -> JobRequest:
    """What a CreateJob request asks for; raises FIELD_INVALID naming every field that is wrong."""
    problems, job = Problems(is_preview=request.validate_only), request.job
    if request.request_id:
        problems.uuid("request_id", request.request_id)
    if len(job.labels) > MAX_LABELS:
        problems.add("job.labels", f"has {len(job.labels)} labels, at most {MAX_LABELS}")
    for key, value in islice(job.labels.items(), MAX_LABELS):
        problems.label("job.labels", key, value)
    max_duration_seconds = None
    if job.HasField("max_duration"):
        max_duration_seconds = problems.seconds(
            "job.max_duration", job.max_duration, 1, MAX_DURATION_SECONDS
        )
    name = job.WhichOneof("spec")
    spec, secrets = Spec(), None
    if name is None:
        problems.add("job.spec", "is missing: say what to do, such as `transcription`")
    else:
        spec, secrets = TRANSLATIONS[name].parse(problems, getattr(job, name), kinds[name])
    if (size := job.ByteSize()) > MAX_JOB_BYTES:
        problems.add("job", f"has {size} bytes, at most {MAX_JOB_BYTES} are allowed")
    problems.raise_any()
    assert name is not None
    return JobRequest(
        kind=name,
        spec=spec,
        secrets=secrets,
        labels=dict(job.labels),
        max_duration_seconds=max_duration_seconds,
        may_queue=not request.no_queue,
        request_id=request.request_id,
        fingerprint=fingerprint(request),
    )


def fingerprint(request: job_pb2.CreateJobRequest) -> str:
    """What tells whether two requests ask for the same; what the server sets is left out."""
    asked = job_pb2.CreateJobRequest(no_queue=request.no_queue)
    asked.job.labels.update(request.job.labels)
    if request.job.HasField("max_duration"):
        asked.job.max_duration.CopyFrom(request.job.max_duration)
    if name := request.job.WhichOneof("spec"):
        getattr(asked.job, name).CopyFrom(getattr(request.job, name))
    return hashlib.sha256(asked.SerializeToString(deterministic=True)).hexdigest()


def job_message(job: Job, *, queue_position: int = 0) -> job_pb2.Job:
    """A job as clients see it."""
    message = job_pb2.Job(
        name=job.name if job.revision else "",
        etag=job.etag if job.revision else "",
        kind=KINDS.get(job.kind, kind_pb2.JOB_KIND_UNSPECIFIED),
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
    if job.delivery is not None:
        message.delivery.CopyFrom(_delivery(job.delivery))
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
    """What only jobs of its kind have, as far as this API knows the kind."""
    if (known := TRANSLATIONS.get(job.kind)) is not None:
        getattr(message, job.kind).CopyFrom(known.spec(job.spec))
    for kind, result in job.results.items():
        if (known := TRANSLATIONS.get(kind)) is not None:
            getattr(message, f"{kind}_result").CopyFrom(known.result(result))


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


def _delivery(delivery: Delivery) -> mattermost_pb2.Delivery:
    message = mattermost_pb2.Delivery(
        state=DELIVERIES[delivery.state],
        start_reported=delivery.is_start_told,
        failures=delivery.failures,
        problem=delivery.problem,
    )
    if delivery.try_time is not None:
        message.try_time.CopyFrom(timestamp(delivery.try_time))
    return message


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


def admission_message(job: Job, decision: Decision) -> capacity_pb2.Admission:
    """What was decided about a new job, as clients see it."""
    message = capacity_pb2.Admission(
        decision=capacity_pb2.ADMISSION_DECISION_ADMIT,
        reservation=reservation_message(job.reservation),
    )
    if isinstance(decision, Queue):
        message.decision = capacity_pb2.ADMISSION_DECISION_QUEUE
        message.queue_position = decision.position
        if decision.reason is not None:
            message.waiting_for = REASONS[decision.reason]
    return message
