# SPDX-License-Identifier: Apache-2.0
"""Requests as both clients build them."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from uuid import UUID, uuid4

from google.protobuf.duration_pb2 import Duration

from callsd.v1.caption_pb2 import CaptionsSpec
from callsd.v1.capture_pb2 import CaptureSpec
from callsd.v1.job_pb2 import CreateJobRequest, Job, JobFilter, JobState, ListJobsRequest
from callsd.v1.kind_pb2 import JobKind
from callsd.v1.mattermost_pb2 import DeliveryState
from callsd.v1.recording_pb2 import RecordingSpec
from callsd.v1.transcription_pb2 import TranscriptionSpec


JobSpec = TranscriptionSpec | CaptionsSpec | RecordingSpec | CaptureSpec
"""What a job can be made of."""


def job_name(job: str | Job) -> str:
    """A job's full name, from a job, its name or its bare identifier."""
    if isinstance(job, Job):
        return job.name
    return job if "/" in job else f"jobs/{job}"


def artifact_name(job: str | Job, file: str) -> str:
    """The name of one of a job's artifacts, such as `transcript.vtt`."""
    return f"{job_name(job)}/artifacts/{file}"


def duration(seconds: float) -> Duration:
    """A protobuf duration."""
    message = Duration()
    message.FromTimedelta(timedelta(seconds=seconds))
    return message


def create_job_request(
    spec: JobSpec,
    *,
    labels: Mapping[str, str] | None,
    max_duration_seconds: float | None,
    request_id: UUID | None,
    validate_only: bool,
    no_queue: bool,
) -> CreateJobRequest:
    """A request that may safely be sent twice: it always carries a request id."""
    job = Job(labels=labels)
    match spec:
        case TranscriptionSpec():
            job.transcription.CopyFrom(spec)
        case CaptionsSpec():
            job.captions.CopyFrom(spec)
        case RecordingSpec():
            job.recording.CopyFrom(spec)
        case CaptureSpec():
            job.capture.CopyFrom(spec)
    if max_duration_seconds is not None:
        job.max_duration.CopyFrom(duration(max_duration_seconds))
    return CreateJobRequest(
        job=job,
        request_id=str(request_id or uuid4()),
        validate_only=validate_only,
        no_queue=no_queue,
    )


def job_filter(
    *,
    states: Iterable[JobState.ValueType] = (),
    kinds: Iterable[JobKind.ValueType] = (),
    labels: Mapping[str, str] | None = None,
    names: Iterable[str] = (),
    deliveries: Iterable[DeliveryState.ValueType] = (),
) -> JobFilter:
    """A filter that takes what a person has at hand."""
    return JobFilter(
        states=states,
        kinds=kinds,
        labels=labels,
        names=[job_name(name) for name in names],
        deliveries=deliveries,
    )


def list_jobs_request(filter_: JobFilter | None, *, page_size: int, token: str) -> ListJobsRequest:
    """One page."""
    return ListJobsRequest(filter=filter_, page_size=page_size, page_token=token)
