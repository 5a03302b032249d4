# SPDX-License-Identifier: Apache-2.0
"""The command `callsd bench repetition`."""

import json
from pathlib import Path

import click

from callsd_bench.repetition.bench import Report, bench_repetition
from callsd_bench.shared.errors import BenchError
from callsd_bench.shared.options import ENGINES, json_option, models_dir_option
from callsd_bench.shared.weights import ensure_model


_MAX_UTTERANCES = 10_000


@click.command()
@click.option("--model", default="tiny.en", show_default=True)
@click.option("--engine", type=click.Choice(ENGINES), default="auto", show_default=True)
@click.option(
    "--utterances",
    type=click.IntRange(1, _MAX_UTTERANCES),
    default=200,
    show_default=True,
    help="Of each kind: with true repetitions, and with provoked loops.",
)
@models_dir_option
@json_option
def repetition(
    *, model: str, engine: str, utterances: int, models_dir: Path | None, as_json: bool
) -> None:
    """Tell whether what is said again stays, and whether loops are shown."""
    try:
        directory = ensure_model(model, models_dir) / model
        report = bench_repetition(directory, engine=engine, utterances=utterances)
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(report.as_json()) if as_json else _lines(report))


def _lines(report: Report) -> str:
    return (
        f"{report.model}, {report.engine}\n"
        f"repetitions kept, of {report.repeated} utterances: "
        f"transcripts {report.kept_in_transcripts:.1%}, captions {report.kept_in_captions:.1%}\n"
        f"repetitions that nobody said, per one that was: "
        f"transcripts {report.added_to_transcripts:.1%}, "
        f"captions {report.added_to_captions:.1%}\n"
        f"loops shown, of {report.provoked} provoked: "
        f"transcripts {report.shown_in_transcripts:.1%}, captions {report.shown_in_captions:.1%}"
    )
