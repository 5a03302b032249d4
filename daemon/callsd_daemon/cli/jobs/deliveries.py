# SPDX-License-Identifier: Apache-2.0
"""`callsd jobs deliveries` and `publish`: what is on its way to a call's thread."""

from itertools import islice
from typing import BinaryIO

import click

from callsd import job_filter
from callsd.v1.job_pb2 import Job
from callsd.v1.kind_pb2 import JobKind
from callsd.v1.mattermost_pb2 import DeliveryState
from callsd_daemon.cli.jobs.text import delivery, short
from callsd_daemon.cli.shared.context import Cli, json_option, pass_cli
from callsd_daemon.cli.shared.output import ago, as_dict, print_json, print_table, word


WAITING = (DeliveryState.DELIVERY_STATE_PENDING, DeliveryState.DELIVERY_STATE_GIVEN_UP)
ALL = tuple(state for state in DeliveryState.values() if state)

COLUMNS = ("JOB", "KIND", "ENDED", "DELIVERY")

MAX_TOKEN_BYTES = 4096


@click.command()
@click.option("--all", "show_all", is_flag=True, help="Also those that are done.")
@click.option(
    "--limit",
    type=click.IntRange(1, 2**31 - 1),
    default=50,
    show_default=True,
    help="At most so many.",
)
@json_option
@pass_cli
def deliveries(cli: Cli, *, show_all: bool, limit: int) -> None:
    """List what is to be put into a call's thread and is not there yet, and why not."""
    chosen = job_filter(deliveries=ALL if show_all else WAITING)
    with cli.client() as client:
        found = list(islice(client.list_jobs(chosen, page_size=min(limit, 1000)), limit))
    if cli.json:
        print_json([as_dict(job) for job in found])
        return
    print_table(COLUMNS, [_row(job) for job in found])
    if not found:
        click.echo("nothing waits: all that was recorded is in its thread", err=True)


@click.command()
@click.argument("job")
@click.option(
    "--token-file",
    metavar="FILE",
    type=click.File("rb"),
    help="Use the bot's token in this file from now on; - is standard input.",
)
@json_option
@pass_cli
def publish(cli: Cli, *, job: str, token_file: BinaryIO | None) -> None:
    """Put what a finished job has made into its call's thread, now.

    Also when it was given up: then the site needs to be told a token again, by --token-file.
    """
    token = "" if token_file is None else token_file.read(MAX_TOKEN_BYTES).decode().strip()
    with cli.client() as client:
        found = client.publish_job(job, token=token)
    if cli.json:
        print_json(found)
    else:
        click.echo(f"{short(found)}  {delivery(found.delivery)}")


def _row(job: Job) -> tuple[str, ...]:
    return (
        short(job),
        word(JobKind.Name(job.kind), prefix="JOB_KIND_"),
        ago(job.end_time) if job.HasField("end_time") else "goes on",
        delivery(job.delivery),
    )
