# SPDX-License-Identifier: Apache-2.0
"""What is to be delivered of one job, and how far that is, as the store knows it."""

from dataclasses import dataclass
from pathlib import Path

from callsd_daemon.domain.capture import CAPTURE, CaptureResult
from callsd_daemon.domain.delivery import Delivery
from callsd_daemon.domain.jobs import Artifact, Job
from callsd_daemon.domain.mattermost import SiteSecrets
from callsd_daemon.domain.recording import RECORDING
from callsd_daemon.domain.transcription import TRANSCRIPTION, TranscriptionResult
from callsd_daemon.store.read_transaction import ReadTransaction
from callsd_ipc.names import CAPTURING_PHASE, RECORDING_FILES


JOB_TYPES = {RECORDING: "recording", CAPTURE: "transcribing", TRANSCRIPTION: "transcribing"}
"""What the plugin calls our kinds of jobs. What it takes for one is two of ours: the call is
captured while it goes on, and transcribed afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a courier decides by."""

    job: Job
    delivery: Delivery
    token: str
    newer_token: str
    """That of the latest job of the same client and site, if the own one has failed; else empty."""
    recording: Job | None
    """The recording of the same call, if this job begins after it."""


def look(tx: ReadTransaction, job_id: str) -> Work | None:
    """What there is to do; None: nothing any more."""
    job = tx.get(job_id)
    if job is None or job.delivery is None or not job.is_undelivered:
        return None
    token = _token(tx, job)
    newest_token = _newest_token(tx, job, job.delivery) if job.delivery.failures else token
    return Work(
        job=job,
        delivery=job.delivery,
        token=token,
        newer_token=newest_token if newest_token != token else "",
        recording=_recording(tx, job),
    )


def _recording(tx: ReadTransaction, job: Job) -> Job | None:
    before = (tx.get(job_id) for job_id in job.after_jobs)
    return next((one for one in before if one is not None and one.kind == RECORDING), None)


def _token(tx: ReadTransaction, job: Job) -> str:
    secrets = tx.secrets(job)
    return secrets.token if isinstance(secrets, SiteSecrets) else ""


def _newest_token(tx: ReadTransaction, job: Job, delivery: Delivery) -> str:
    """The token of the latest job of the same client and site that the site has not refused.

    Only the latest counts: a delivery must not go back and forth between refused tokens.
    """
    # In the order in which they were accepted: clocks may be set back.
    for other in reversed(tx.undelivered()):
        if other.id == job.id:
            break
        if (
            other.delivery is not None
            and other.creator == job.creator
            and other.delivery.call.site_url == delivery.call.site_url
            and not other.delivery.is_token_refused
        ):
            return _token(tx, other)
    return _token(tx, job)


def has_begun(work: Work) -> bool:
    """Whether a recording has its first picture, and a capture is in its call.

    A transcript begins with its recording.
    """
    if work.job.kind == CAPTURE:
        return work.job.progress.phase == CAPTURING_PHASE
    if work.job.kind == RECORDING:
        health = work.job.progress.recording
        return health is not None and health.frame_count > 0
    recording = work.recording
    return recording is None or recording.delivery is None or recording.delivery.is_start_told


def files(job: Job) -> list[Artifact]:
    """What is published of a job, in the order in which it is named."""
    if job.kind == CAPTURE:
        return []  # its transcription is, in its turn
    if job.kind == RECORDING:
        return [one for one in job.artifacts if one.file_name in RECORDING_FILES]
    result = job.results.get(job.kind)
    if isinstance(result, TranscriptionResult) and not result.segment_count:
        return []  # nobody has said anything
    by_suffix = {Path(one.file_name).suffix: one for one in job.artifacts}
    return [by_suffix[suffix] for suffix in (".vtt", ".txt") if suffix in by_suffix]


def failure(job: Job) -> str:
    """What the plugin is told of a job that ended otherwise than it should have; else empty."""
    if (captured := job.results.get(CAPTURE)) is not None:
        assert isinstance(captured, CaptureResult)
        return captured.problem
    return job.failure.message if job.failure else ""


def language(job: Job) -> str:
    """Of a transcript; English when nothing says otherwise, as the plugin wants one."""
    result = job.results.get(job.kind)
    return (result.language if isinstance(result, TranscriptionResult) else "") or "en"
