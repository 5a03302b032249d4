# SPDX-License-Identifier: Apache-2.0
"""The command `callsd bench transcription` and its table."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from callsd_bench.shared.errors import BenchError
from callsd_bench.shared.options import ENGINES, models_dir_option
from callsd_bench.shared.weights import ensure_model
from callsd_bench.transcription.bench import Figures, Report, bench_transcription, open_calls


# A processor count beyond any machine this runs on.
_MAX_THREADS = 1024

# What the table needs: a narrower terminal wraps its lines, which is better than losing figures.
_TABLE_WIDTH = 100

_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option("--call", type=_DIRECTORY, help="Directory with turns.json and a track per speaker.")
@click.option("--clips", type=_DIRECTORY, help="Directory with transcripts.tsv and short clips.")
@click.option("--model", "models", multiple=True, default=["base"], show_default=True)
@click.option(
    "--threads",
    multiple=True,
    type=click.IntRange(1, _MAX_THREADS),
    default=[1],
    show_default=True,
)
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="auto",
    show_default=True,
)
@click.option(
    "--baseline", type=click.Choice(["upstream", "none"]), default="upstream", show_default=True
)
@click.option("--seconds", type=click.FloatRange(1), help="Only the first seconds of the call.")
@models_dir_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object, or a list of several.")
def transcription(
    *,
    call: Path | None,
    clips: Path | None,
    models: tuple[str, ...],
    threads: tuple[int, ...],
    engine: str,
    baseline: str,
    seconds: float | None,
    models_dir: Path | None,
    as_json: bool,
) -> None:
    """Transcribe a call and tell speed, cost and accuracy.

    --model and --threads may be repeated: each pair is a row.
    """
    if (call is None) == (clips is None):
        raise click.UsageError("give either --call or --clips")
    try:
        with tempfile.TemporaryDirectory(prefix="callsd-bench-") as scratch:
            name, calls = open_calls(call=call, clips=clips, seconds=seconds, scratch=Path(scratch))
            # All of them before the first is measured: nobody waits minutes for a misspelt name.
            directories = {model: ensure_model(model, models_dir) for model in models}
            reports = [
                bench_transcription(
                    calls,
                    name=name,
                    models_directory=directories[model],
                    model=model,
                    threads=count,
                    engine=engine,
                    baseline=baseline == "upstream",
                )
                for model in models
                for count in threads
            ]
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        documents = [report.as_json() for report in reports]
        click.echo(json.dumps(documents[0] if len(documents) == 1 else documents))
    else:
        Console(width=max(Console().width, _TABLE_WIDTH)).print(_table(reports))


def _table(reports: Sequence[Report]) -> Table:
    table = Table(
        box=None,
        padding=(0, 2, 0, 0),
        title=f"{reports[0].call}, {_clock(reports[0].call_seconds)}",
        title_justify="left",
    )
    table.add_column("engine", no_wrap=True)
    table.add_column("model", no_wrap=True)
    for column in (
        "threads",
        "CPU avg",
        "memory",
        "time",
        "× real time",
        "WER",
        "× as fast",
        "× less CPU",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for report in reports:
        if report.baseline is not None:
            table.add_row("baseline", *_cells(report, report.baseline), "", "")
        ratios = ("", "")
        if report.ratio is not None:
            ratios = (f"{report.ratio.throughput:.1f}", f"{report.ratio.cpu:.1f}")
        table.add_row(report.engine, *_cells(report, report.ours), *ratios, end_section=True)
    return table


def _cells(report: Report, figures: Figures) -> tuple[str, ...]:
    return (
        report.model,
        str(report.threads),
        f"{figures.cores:.0%}",
        f"{figures.peak_pss_mb:.0f} MB",
        f"{figures.wall_seconds:.1f} s",
        f"{figures.x_realtime:.2f}",
        f"{figures.wer:.1%}",
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"
