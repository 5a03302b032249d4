# SPDX-License-Identifier: Apache-2.0
"""`callsd captions watch`."""

from contextlib import closing

import click

from callsd import FINAL_STATES
from callsd.v1.job_pb2 import JOB_STATE_FAILED
from callsd_daemon.cli.captions.view import CaptionView
from callsd_daemon.cli.jobs.text import outcome
from callsd_daemon.cli.shared.context import Cli, json_option, pass_cli
from callsd_daemon.cli.shared.exit import Exit


@click.command()
@click.argument("job")
@click.option("--finals-only", is_flag=True, help="Leave out words that may still change.")
@click.option(
    "--from",
    "first",
    metavar="SEQUENCE",
    type=click.IntRange(1, 2**63 - 1),
    help="Begin with this caption; 1 is the first. Default: the last 10, or all of an ended call.",
)
@json_option
@pass_cli
def watch(cli: Cli, *, job: str, finals_only: bool, first: int | None) -> int:
    """Read a call's captions along, to its end; of a call that has ended, read them all.

    Survives restarts of the daemon without missing a caption. Off a terminal there is one final
    caption a line; with --json one message of WatchCaptions a line.
    """
    with cli.client() as client:
        found = client.get_job(job)
        has_ended = found.state in FINAL_STATES
        after = None if first is None else first - 1
        messages = client.watch_captions(
            found,
            resume_sequence=0 if after is None and has_ended else after,
            finals_only=finals_only,
        )
        with CaptionView(as_json=cli.json) as view, closing(messages):
            for message in messages:
                view.show(message)
        ended = client.get_job(found)
    if ended.state != JOB_STATE_FAILED:
        return Exit.OK
    for line in outcome(ended):
        click.echo(line, err=True)
    return Exit.FAILED
