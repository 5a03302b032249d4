# SPDX-License-Identifier: Apache-2.0
"""`callsd jobs`: look at jobs, stop and delete them, fetch what they made."""

import sys
from itertools import islice
from pathlib import Path

import click

from callsd import job_filter
from callsd.v1.job_pb2 import Job, JobState
from callsd.v1.kind_pb2 import JobKind
from callsd_daemon.cli.jobs.create import create
from callsd_daemon.cli.jobs.deliveries import deliveries, publish
from callsd_daemon.cli.jobs.fetch import fetch_all
from callsd_daemon.cli.jobs.text import ROW_COLUMNS, describe, job_row
from callsd_daemon.cli.jobs.watch import watch
from callsd_daemon.cli.shared.context import Cli, json_option, pass_cli
from callsd_daemon.cli.shared.output import as_dict, print_json, print_table
from callsd_daemon.cli.shared.params import parse_labels


STATES = {name.removeprefix("JOB_STATE_").lower(): name for name in JobState.keys()[1:]}
KINDS = {name.removeprefix("JOB_KIND_").lower(): name for name in JobKind.keys()[1:]}


@click.group()
def jobs() -> None:
    """Create, follow and stop jobs, fetch results.

    A JOB is a name as `create` and `list` print it, with or without `jobs/` before it.
    """


jobs.add_command(create)
jobs.add_command(watch)
jobs.add_command(deliveries)
jobs.add_command(publish)


@jobs.command()
@click.argument("job")
@json_option
@pass_cli
def get(cli: Cli, *, job: str) -> None:
    """Show one job."""
    with cli.client() as client:
        found = client.get_job(job)
    if cli.json:
        print_json(found)
        return
    for line in describe(found):
        click.echo(line)


@jobs.command("list")
@click.option("--state", "states", multiple=True, type=click.Choice(list(STATES)))
@click.option("--kind", "kinds", multiple=True, type=click.Choice(list(KINDS)))
@click.option("--label", "labels", metavar="K=V", multiple=True, help="With this label.")
@click.option(
    "--limit",
    type=click.IntRange(1, 2**31 - 1),
    default=50,
    show_default=True,
    help="At most so many.",
)
@json_option
@pass_cli
def list_jobs(
    cli: Cli,
    *,
    states: tuple[str, ...],
    kinds: tuple[str, ...],
    labels: tuple[str, ...],
    limit: int,
) -> None:
    """List jobs, newest first."""
    chosen = job_filter(
        states=[JobState.Value(STATES[state]) for state in states],
        kinds=[JobKind.Value(KINDS[kind]) for kind in kinds],
        labels=parse_labels(labels),
    )
    with cli.client() as client:
        found = list(islice(client.list_jobs(chosen, page_size=min(limit, 1000)), limit))
    if cli.json:
        print_json([as_dict(job) for job in found])
        return
    print_table(ROW_COLUMNS, [job_row(job) for job in found], right="SPEED")


@jobs.command()
@click.argument("job")
@click.option("--wait", is_flag=True, help="Return when the job has ended.")
@json_option
@pass_cli
def stop(cli: Cli, *, job: str, wait: bool) -> None:
    """End a job. Asking twice is harmless."""
    with cli.client() as client:
        found = client.stop_job(job)
        if wait:
            found = client.wait_job(found)
    _show(found, as_json=cli.json)


@jobs.command()
@click.argument("jobs", metavar="JOB...", nargs=-1, required=True)
@json_option
@pass_cli
def delete(cli: Cli, *, jobs: tuple[str, ...]) -> None:
    """Remove finished jobs with their logs and results."""
    with cli.client() as client:
        for job in jobs:
            client.delete_job(job)
            if cli.json:
                print_json({"deleted": job})
            else:
                click.echo(f"{job} deleted")


@jobs.command()
@click.argument("job")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@pass_cli
def logs(cli: Cli, *, job: str, follow: bool) -> None:
    """Print a job's log."""
    out = sys.stdout.buffer
    with cli.client() as client:
        for piece in client.read_log(job, follow=follow):
            out.write(piece)
            out.flush()


@jobs.command()
@click.argument("job")
@click.argument("file", required=False)
@click.option(
    "-o",
    "--output",
    "directory",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Where to put them. Default: here.",
)
@json_option
@pass_cli
def fetch(cli: Cli, *, job: str, file: str | None, directory: Path) -> None:
    """Fetch a job's results, or the FILE named."""
    with cli.client() as client:
        fetch_all(cli, client, client.get_job(job), directory=directory, only=file)


def _show(job: Job, *, as_json: bool) -> None:
    if as_json:
        print_json(job)
    else:
        click.echo("  ".join(cell for cell in job_row(job) if cell))
