# SPDX-License-Identifier: Apache-2.0
"""`callsd captions create`."""

import click

from callsd.v1.caption_pb2 import CaptionsSpec
from callsd_daemon.cli.jobs.admission import show_created
from callsd_daemon.cli.shared.context import Cli, json_option, pass_cli
from callsd_daemon.cli.shared.params import INT32, parse_labels, parse_span


@click.command()
@click.option("--model", default="", help="Speech model. Default: the server's.")
@click.option("--language", default="", help="Such as `en`. Default: detected for each speaker.")
@click.option(
    "--active-speakers",
    type=INT32,
    default=0,
    help="Most speakers that talk at once, for whom room is kept. Default: the server's, 2.",
)
@click.option("--label", "labels", metavar="KEY=VALUE", multiple=True, help="A mark. Repeatable.")
@click.option("--max-duration", metavar="SPAN", help="Longest time to run, such as 2h.")
@click.option("--validate-only", is_flag=True, help="Check everything, create nothing.")
@json_option
@pass_cli
def create(
    cli: Cli,
    *,
    model: str,
    language: str,
    active_speakers: int,
    labels: tuple[str, ...],
    max_duration: str | None,
    validate_only: bool,
) -> None:
    """Create the job of a call whose sound another program sends.

    Captions are live: the job starts at once or is refused.
    """
    spec = CaptionsSpec(model=model, language=language, max_active_speakers=active_speakers)
    with cli.client() as client:
        created = client.create_job(
            spec,
            labels=parse_labels(labels),
            max_duration_seconds=parse_span(max_duration) if max_duration else None,
            validate_only=validate_only,
        )
    show_created(created, as_json=cli.json, hint="read along: callsd captions watch {job}")
