# SPDX-License-Identifier: Apache-2.0
"""Staying with a job until it has ended."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import click

from callsd import FINAL_STATES, Client, Interrupted, JobChanged, JobDeleted, job_filter
from callsd.v1.job_pb2 import JOB_STATE_SUCCEEDED, Job
from callsd_daemon.cli.jobs.display import JobDisplay
from callsd_daemon.cli.jobs.text import short
from callsd_daemon.cli.shared.exit import Exit, Problem


def follow(client: Client, job: Job, *, as_json: bool) -> Job:
    """Show a job's progress until it has ended; returns it as it ended.

    Ctrl-C leaves the job running and says how to come back.
    """
    with _left_running(job):
        return stay(client, job, as_json=as_json)


def stay(client: Client, job: Job, *, as_json: bool) -> Job:
    """As `follow`, saying nothing on Ctrl-C."""
    events = client.watch_jobs(job_filter(names=[job.name]))
    with JobDisplay(as_json=as_json) as display, closing(events):
        for event in events:
            match event:
                case JobChanged(job=changed):
                    display.update(changed)
                    if changed.state in FINAL_STATES:
                        return changed
                case JobDeleted(name=name):
                    raise Problem(f"{name} was deleted", exit_code=Exit.NOT_FOUND)
                case Interrupted(error=error, retry_seconds=retry_seconds):
                    display.interrupted(error.message, retry_seconds)
                case _:
                    pass
    raise AssertionError("a watch does not end by itself")


def wait_for(client: Client, job: Job) -> Job:
    """As `follow`, showing nothing."""
    with _left_running(job):
        return client.wait_job(job)


@contextmanager
def _left_running(job: Job) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        click.echo(
            f"{job.name} goes on without you; return to it with: callsd jobs watch {short(job)}",
            err=True,
        )
        raise


def exit_code(job: Job) -> Exit:
    """What a finished job means for the exit code."""
    return Exit.OK if job.state == JOB_STATE_SUCCEEDED else Exit.FAILED
