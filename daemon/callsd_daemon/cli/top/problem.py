# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a job that goes on, in words."""

from callsd.v1.error_pb2 import ErrorReason
from callsd.v1.job_pb2 import JOB_STATE_QUEUED, Job
from callsd.v1.recording_pb2 import PICTURE_STATE_BLANK
from callsd_daemon.cli.captions.view import HURTING_SECONDS
from callsd_daemon.cli.jobs.text import DRIFT_WORTH_TELLING_MS, reason
from callsd_daemon.cli.shared.output import printable, span


WAITS_FOR = {
    ErrorReason.ERROR_REASON_CPU_EXHAUSTED: "waits for cores",
    ErrorReason.ERROR_REASON_MEMORY_EXHAUSTED: "waits for memory",
    ErrorReason.ERROR_REASON_SLOTS_EXHAUSTED: "waits for its turn: a ceiling, or others before it",
    ErrorReason.ERROR_REASON_DISK_EXHAUSTED: "waits for disk space",
}
"""What a queued job waits for; a reason that is not here is shown by its name."""

DEGRADED_PHASE = "degraded"
"""What the progress of a captions job says while captions are less than asked for."""


def problem(job: Job, *, lag_seconds: float | None) -> str:
    """What a person should know of this job; empty when all is well.

    Args:
        job: The job, which has not ended.
        lag_seconds: Of a call that is captioned, if it is known.
    """
    said = []
    if job.state == JOB_STATE_QUEUED and job.waiting_for:
        said.append(WAITS_FOR.get(job.waiting_for, f"waits for {reason(job.waiting_for)}"))
    if job.progress.phase == DEGRADED_PHASE:
        said.append("captions are slower or simpler than asked for")
    if lag_seconds is not None and lag_seconds >= HURTING_SECONDS:
        said.append(f"captions come {span(lag_seconds)} late")
    if job.progress.HasField("recording"):
        health = job.progress.recording
        if health.picture == PICTURE_STATE_BLANK:
            still = health.still_duration.ToNanoseconds() / 1e9
            said.append(f"nothing is to be seen, for {span(still)}")
        if abs(health.drift_ms) > DRIFT_WORTH_TELLING_MS:
            said.append(f"sound off by {health.drift_ms:.0f} ms")
        if health.segment > 1:
            said.append(f"was started again, this is piece {health.segment}")
    if job.notices:
        said.append(printable(job.notices[-1].message))
    return "; ".join(said)
