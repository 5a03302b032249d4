# SPDX-License-Identifier: Apache-2.0
"""`callsd jobs watch`."""

from contextlib import closing

import click

from callsd import FINAL_STATES, Bookmark, Interrupted, JobChanged, JobDeleted
from callsd_daemon.cli.jobs.display import JobDisplay
from callsd_daemon.cli.jobs.follow import exit_code, follow
from callsd_daemon.cli.jobs.text import outcome
from callsd_daemon.cli.shared.context import Cli, json_option, pass_cli


@click.command()
@click.argument("job", required=False)
@json_option
@pass_cli
def watch(cli: Cli, *, job: str | None) -> int:
    """Follow all jobs, or one JOB until it has ended.

    Survives restarts of the daemon without missing a change. With --json one object a line:
    {"job_changed": …} or {"job_deleted": NAME}.
    """
    with cli.client() as client:
        if job is not None:
            ended = follow(client, client.get_job(job), as_json=cli.json)
            if not cli.json:
                for line in outcome(ended):
                    click.echo(line)
            return exit_code(ended)
        events = client.watch_jobs()
        is_initial = True
        with JobDisplay(as_json=cli.json) as display, closing(events):
            for event in events:
                match event:
                    case JobChanged(job=changed):
                        # What had ended before is history, not news.
                        if cli.json or not is_initial or changed.state not in FINAL_STATES:
                            display.update(changed)
                    case JobDeleted(name=name):
                        display.remove(name)
                    case Interrupted(error=error, retry_seconds=retry_seconds):
                        display.interrupted(error.message, retry_seconds)
                    case Bookmark():
                        is_initial = False
    return 0
