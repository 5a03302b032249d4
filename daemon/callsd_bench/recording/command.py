# SPDX-License-Identifier: Apache-2.0
"""The command `callsd bench recording` and its table."""

import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from callsd_bench.recording.baseline.recorder import PROFILES
from callsd_bench.recording.bench import Figures, Plan, Report, bench_recording
from callsd_bench.shared.errors import BenchError


# More than any machine this runs on can record.
_MAX_JOBS = 100
# What the table needs: a narrower terminal wraps its lines, which is better than losing figures.
_TABLE_WIDTH = 120


@click.command()
@click.option(
    "--page",
    type=click.Choice(["typical", "busy"]),
    default="typical",
    show_default=True,
    help="typical: four people, one of whom speaks; busy: two videos and two canvases.",
)
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    type=click.Choice(list(PROFILES)),
    default=list(PROFILES),
    help="Repeatable. Default: all.",
)
@click.option(
    "--jobs", type=click.IntRange(1, _MAX_JOBS), default=1, show_default=True, help="At once."
)
@click.option("--seconds", type=click.FloatRange(10), default=60, show_default=True)
@click.option(
    "--baseline", type=click.Choice(["upstream", "none"]), default="upstream", show_default=True
)
@click.option(
    "--keep",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Leave the recordings here.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, or a list of several.")
def recording(
    *,
    page: str,
    profiles: tuple[str, ...],
    jobs: int,
    seconds: float,
    baseline: str,
    keep: Path | None,
    as_json: bool,
) -> None:
    """Record a page and tell cost, steadiness, sync and size.

    Records in real time: it takes as long as --seconds for each profile, and as long again for
    the baseline.
    """
    try:
        reports = [
            bench_recording(
                Plan(
                    page=page,
                    profile=profile,
                    jobs=jobs,
                    seconds=seconds,
                    baseline=baseline == "upstream",
                    keep=keep,
                )
            )
            for profile in profiles
        ]
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        documents = [report.as_json() for report in reports]
        click.echo(json.dumps(documents[0] if len(documents) == 1 else documents))
    else:
        Console(width=max(Console().width, _TABLE_WIDTH)).print(_table(reports))
    for report in reports:
        if report.baseline_error:
            raise click.ClickException(f"the baseline failed: {report.baseline_error}")


def _table(reports: Sequence[Report]) -> Table:
    first = reports[0]
    table = Table(
        box=None,
        padding=(0, 2, 0, 0),
        title=f"{first.jobs} × {first.page}, {first.seconds:g} s",
        title_justify="left",
    )
    for column in ("", "profile"):
        table.add_column(column, no_wrap=True)
    for column in (
        *("CPU avg", "memory", "per hour", "CPU s/min", "unique fps", "sync start", "end"),
        *("kbit/s", "SSIM", "× CPU", "× memory"),
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for report in reports:
        ratios = ("", "")
        if report.baseline is not None:
            table.add_row("baseline", report.profile, *_cells(report.baseline), "", "")
            ratio = report.as_json()["ratio"]
            ratios = (f"{ratio['cpu']:.2f}", f"{ratio['pss']:.2f}")
        table.add_row("callsd", report.profile, *_cells(report.ours), *ratios, end_section=True)
    return table


def _cells(figures: Figures) -> tuple[str, ...]:
    return (
        f"{figures.cpu_percent:.0f}%",
        f"{figures.pss_mb:.0f} MB",
        f"{figures.mb_per_hour:.0f} MB",
        f"{figures.cpu_s_per_min:.1f}",
        f"{figures.unique_fps:.2f}",
        _milliseconds(figures.sync_ms_start),
        _milliseconds(figures.sync_ms_end),
        f"{figures.kbps:.0f}",
        "" if figures.ssim is None else f"{figures.ssim:.4f}",
    )


def _milliseconds(value: float | None) -> str:
    return "none" if value is None else f"{value:+.0f} ms"
