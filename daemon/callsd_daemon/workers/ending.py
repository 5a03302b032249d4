# SPDX-License-Identifier: Apache-2.0
"""What the end of an attempt means for its job."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from callsd_daemon.domain.errors import Reason
from callsd_daemon.domain.jobs import Failure, Job, Notice, Outcome, Progress, State
from callsd_daemon.metrics import JOBS_ENDED, MEDIA_SECONDS, WORKERS_LOST
from callsd_daemon.workers.launchers.launcher import End


log = structlog.get_logger(__name__)

CRASH_SIGNALS = frozenset({"SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE"})
"""What a speech library dies of when it is given a model that it cannot read."""

LOADING_PHASE = "loading"

RETRYABLE = frozenset(
    {
        Reason.WORKER_KILLED,
        Reason.WORKER_START_TIMEOUT,
        Reason.WORKER_UNRESPONSIVE,
        Reason.HOST_REBOOT,
    }
)
"""Ends that say nothing about the job itself: another worker may well get it done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndRules:
    """The administrator's settings for how jobs end."""

    max_attempts: int
    retention: timedelta | None


def ran_seconds(job: Job, now: datetime) -> float:
    """How long a job has run under earlier daemons and with earlier workers."""
    if job.start_time is None:
        return 0.0
    return max(0.0, (now - job.start_time).total_seconds())


def is_retried(job: Job, failure: Failure, rules: EndRules, *, is_at_end: bool) -> bool:
    """Whether another worker shall go on with a job whose worker ended by `failure`.

    `is_at_end` is what the job's kind says: there is nothing to go on with.
    """
    return (
        not is_at_end
        and job.state is not State.STOPPING
        and failure.reason in RETRYABLE
        and job.attempt < rules.max_attempts
    )


def is_lost(job: Job, outcome: Outcome | None, failure: Failure) -> bool:
    """Whether an attempt has ended through no fault of its job, with nothing to show for it."""
    is_done = outcome is not None and not outcome.cancelled
    return not is_done and job.state is not State.STOPPING and failure.reason in RETRYABLE


def settle(
    job: Job,
    outcome: Outcome | None,
    failure: Failure,
    now: datetime,
    rules: EndRules,
    *,
    is_at_end: bool,
) -> Job:
    """The job after an attempt that left `outcome`, or ended by `failure` if it left none."""
    retention = rules.retention
    # What the worker got done counts, even if it was told to end in the meantime.
    if outcome is not None and not outcome.cancelled:
        return job.finished(outcome, now, retention=retention)
    if job.state is State.STOPPING:
        return job.cancelled(now, retention=retention)
    if is_at_end or not is_lost(job, outcome, failure):
        return job.failed(failure, now, retention=retention)
    if is_retried(job, failure, rules, is_at_end=is_at_end):
        notice = Notice(
            code="WORKER_RESTARTED",
            message=f"attempt {job.attempt} was lost, another worker takes over: {failure.message}",
        )
        return job.requeued(notice, now)
    if job.attempt > 1:
        failure = Failure(
            reason=Reason.CRASH_LOOP,
            message=f"{job.attempt} workers were lost, the last one so: {failure.message}",
            metadata={**failure.metadata, "last_reason": failure.reason},
        )
    return job.failed(failure, now, retention=retention)


def killed(message: str, **metadata: str) -> Failure:
    """A worker that is gone, through no fault of its job."""
    return Failure(reason=Reason.WORKER_KILLED, message=message, metadata=metadata)


NO_RESULT = "the worker ended without a result: look at the job's log"


def death(end: End, progress: Progress | None, *, message: str = NO_RESULT) -> Failure:
    """What a worker's end means, should it have left no outcome; `message` if nothing is known."""
    if end.is_out_of_memory:
        return Failure(
            reason=Reason.OUT_OF_MEMORY,
            message="the worker took more memory than it was given: see usage.peak_memory_bytes "
            "of such jobs, and take a smaller model or picture",
        )
    if end.signal in CRASH_SIGNALS and progress and progress.phase == LOADING_PHASE:
        return Failure(
            reason=Reason.MODEL_INVALID,
            message=f"the speech engine died of {end.signal} while it read the model: "
            "pull the model again",
            metadata={"signal": end.signal},
        )
    if end.signal:
        return killed(f"the worker was killed by {end.signal}", signal=end.signal)
    if end.exit_code:
        return killed(
            f"the worker ended with exit code {end.exit_code}: look at the job's log",
            exit_code=str(end.exit_code),
        )
    return killed(message)


def count_lost(job: Job, failure: Failure) -> None:
    """Tell log and metrics of an attempt that was lost."""
    WORKERS_LOST.labels(reason=failure.reason).inc()
    log.warning("worker_lost", job_id=job.id, attempt=job.attempt, reason=failure.reason)


def count(job: Job) -> None:
    """Tell log and metrics of a job that has ended."""
    reason = job.failure.reason if job.failure else ""
    JOBS_ENDED.labels(kind=job.kind, state=job.state, reason=reason).inc()
    for kind, result in job.results.items():
        MEDIA_SECONDS.labels(kind=kind).inc(result.media_seconds)
    log.info(
        "job_ended",
        job_id=job.id,
        state=job.state,
        reason=reason,
        attempt=job.attempt,
        cpu_seconds=round(job.usage.cpu_seconds, 2) if job.usage else None,
    )
