# SPDX-License-Identifier: Apache-2.0
"""The command `callsd bench robustness` and its table."""

import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from callsd_bench.robustness.bench import Plan, Report, Result, bench_robustness
from callsd_bench.robustness.chart import draw
from callsd_bench.robustness.conditions import CONDITIONS, read_clips
from callsd_bench.shared.errors import BenchError
from callsd_bench.shared.options import ENGINES, json_option, models_dir_option
from callsd_bench.shared.weights import ensure_model


# A processor count beyond any machine this runs on.
_MAX_THREADS = 1024

# What the table needs: a narrower terminal wraps its lines, which is better than losing figures.
_CONDITION_WIDTH, _SIDE_WIDTH = 16, 42


def _chosen(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Conditions by their names, in the order in which the table has them."""
    if value is None:
        return CONDITIONS
    names = {name.strip() for name in value.split(",")}
    unknown = sorted(names - set(CONDITIONS))
    if unknown:
        raise click.BadParameter(
            f"there is no condition {', '.join(map(repr, unknown))}: {', '.join(CONDITIONS)}"
        )
    return tuple(name for name in CONDITIONS if name in names)


@click.command()
@click.option(
    "--clips",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Directory with transcripts.tsv and short clips.",
)
@click.option("--model", "models", multiple=True, default=["base"], show_default=True)
@click.option(
    "--engine",
    "engines",
    multiple=True,
    type=click.Choice(ENGINES),
    default=["auto"],
    show_default=True,
)
@click.option(
    "--conditions",
    callback=_chosen,
    metavar="NAME,…",
    help=f"Of {', '.join(CONDITIONS)}. Default: all.",
)
@click.option(
    "--baseline", type=click.Choice(["stock", "none"]), default="stock", show_default=True
)
@click.option("--threads", type=click.IntRange(1, _MAX_THREADS), default=1, show_default=True)
@models_dir_option
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Draw word error rate over noise into this SVG file.",
)
@json_option
def robustness(
    *,
    clips: Path,
    models: tuple[str, ...],
    engines: tuple[str, ...],
    conditions: tuple[str, ...],
    baseline: str,
    threads: int,
    models_dir: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Transcribe English clips in noise, in rooms and over bad lines, and tell the accuracy.

    --model and --engine may be repeated. Noise and damage are made on the fly, the same each time.
    """
    try:
        recordings = read_clips(clips)
        # All of them before the first is measured: nobody waits minutes for a misspelt name.
        directories = [ensure_model(model, models_dir) / model for model in models]
        report = bench_robustness(
            recordings,
            Plan(
                conditions=conditions,
                models=directories,
                engines=engines,
                threads=threads,
                baseline=baseline == "stock",
            ),
            name=clips.resolve().name,
        )
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(report.as_json()))
    else:
        width = _CONDITION_WIDTH + _SIDE_WIDTH * len(report.sides)
        Console(width=max(Console().width, width)).print(_table(report))
    if plot is not None:
        try:
            plot.write_text(draw(report), encoding="utf-8")
        except OSError as error:
            raise click.ClickException(f"{plot} cannot be written: {error.strerror}") from error


def _table(report: Report) -> Table:
    table = Table(
        box=None,
        padding=(0, 2, 0, 0),
        title=f"{report.clips}, {report.clips_seconds:.0f} s, {report.threads} thread(s)",
        title_justify="left",
    )
    table.add_column("condition", no_wrap=True)
    for side in report.sides:
        header = f"{side.model}\n{side.system}\n{side.engine}"
        table.add_column(header, justify="right", no_wrap=True)
        table.add_column("sub/del/ins", justify="right", no_wrap=True)
        table.add_column("CPU", justify="right", no_wrap=True)
    for row in report.rows:
        table.add_row(row.condition, *(cell for result in row.results for cell in _cells(result)))
    table.add_section()
    sides = range(len(report.sides))
    _add_cpu(table, "all", [f"{report.cpu_seconds(at):.1f} s" for at in sides])
    ratios = [report.cpu_ratio(at) for at in sides]
    if any(ratios):
        _add_cpu(table, "× less CPU", [f"{ratio:.2f}" if ratio else "" for ratio in ratios])
    return table


def _add_cpu(table: Table, name: str, figures: Sequence[str]) -> None:
    table.add_row(name, *(cell for figure in figures for cell in ("", "", figure)))


def _cells(result: Result) -> tuple[str, str, str]:
    errors = result.errors
    kinds = f"{errors.substitutions}/{errors.deletions}/{errors.insertions}"
    return result.summary, kinds, f"{result.cpu_seconds:.1f} s"
