# SPDX-License-Identifier: Apache-2.0
"""What was decided about a job that was asked for."""

import click

from callsd.v1.capacity_pb2 import ADMISSION_DECISION_QUEUE
from callsd.v1.job_pb2 import CreateJobResponse
from callsd_daemon.cli.jobs.text import reason, short
from callsd_daemon.cli.shared.output import figure, print_json, size


def show_created(
    created: CreateJobResponse, *, as_json: bool, hint: str = "follow it: callsd jobs watch {job}"
) -> None:
    """What was decided; the job's name stands alone on stdout, for scripts."""
    if as_json:
        print_json(created)
        return
    job, admission = created.job, created.admission
    for notice in job.notices:
        click.echo(f"notice: {notice.message} [{notice.code}]", err=True)
    reserved = admission.reservation
    needs = f"{figure(reserved.cores)} cores, {size(reserved.memory_bytes)}"
    if not job.name:
        verdict = "it would start now"
        if admission.decision == ADMISSION_DECISION_QUEUE:
            place = admission.queue_position
            verdict = f"it would wait at place {place} for {reason(admission.waiting_for)}"
        click.echo(f"valid: {verdict} ({needs})")
        return
    click.echo(job.name)
    if admission.decision == ADMISSION_DECISION_QUEUE:
        waiting = reason(admission.waiting_for)
        click.echo(f"waits at place {admission.queue_position} for {waiting} ({needs})", err=True)
    click.echo(hint.format(job=short(job)), err=True)
