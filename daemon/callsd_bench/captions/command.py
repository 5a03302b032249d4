# SPDX-License-Identifier: Apache-2.0
"""The command `callsd bench captions` and its tables."""

import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from callsd_bench.captions.bench import Plan, bench_captions
from callsd_bench.captions.report import CaptionsReport, Figures
from callsd_bench.captions.sound import Encoding
from callsd_bench.shared.call import SAMPLE_CALL, load_call
from callsd_bench.shared.errors import BenchError
from callsd_bench.shared.options import json_option, models_dir_option
from callsd_bench.shared.weights import ensure_model


# More than any machine this runs on can hear, and than it has files for.
_MAX_CALLS = 1000
_MAX_WORKERS = 256
_MAX_VIEWERS = 10_000
# What the tables need: a narrower terminal wraps their lines, which is better than losing figures.
_TABLE_WIDTH = 100


@click.command()
@click.option(
    "--call",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=SAMPLE_CALL,
    help="Directory with turns.json and a track per speaker. Default: the sample call.",
)
@click.option("--model", default="base", show_default=True)
@click.option(
    "--workers",
    type=click.IntRange(0, _MAX_WORKERS),
    default=0,
    show_default=True,
    help="Threads of the captioner. 0 = the daemon's default.",
)
@click.option(
    "--calls",
    type=click.IntRange(1, _MAX_CALLS),
    default=1,
    show_default=True,
    help="Copies of the call at the same time.",
)
@click.option(
    "--stagger",
    "stagger_seconds",
    type=click.FloatRange(0),
    default=60,
    show_default=True,
    help="Seconds between the starts of two calls.",
)
@click.option("--seconds", type=click.FloatRange(1), help="Only the first seconds of the call.")
@click.option(
    "--encoding",
    type=click.Choice([encoding.value for encoding in Encoding]),
    default=Encoding.S16LE.value,
    show_default=True,
)
@click.option("--language", default="en", show_default=True, help='"" = detected.')
@click.option(
    "--baseline", type=click.Choice(["upstream", "none"]), default="upstream", show_default=True
)
@click.option(
    "--viewers",
    type=click.IntRange(0, _MAX_VIEWERS),
    default=0,
    show_default=True,
    help="Viewers of the first call, in a process of their own.",
)
@click.option(
    "--frozen-viewers",
    type=click.IntRange(0, _MAX_VIEWERS),
    default=0,
    show_default=True,
    help="Viewers more that never read what they are sent.",
)
@models_dir_option
@json_option
def captions(
    *,
    call: Path,
    model: str,
    workers: int,
    calls: int,
    stagger_seconds: float,
    seconds: float | None,
    encoding: str,
    language: str,
    baseline: str,
    viewers: int,
    frozen_viewers: int,
    models_dir: Path | None,
    as_json: bool,
) -> None:
    """Caption calls live and tell delay, accuracy and cost.

    Plays in real time: it takes as long as the calls, and as long again for the baseline. All
    speakers send all the time, whether they speak or not, as if nobody ever muted a microphone;
    only the baseline, which cannot do with silence, is spared the pauses.
    """
    if frozen_viewers and not viewers:
        raise click.UsageError("--frozen-viewers are there to disturb --viewers: give both")
    if baseline == "upstream" and not language:
        raise click.UsageError("the baseline detects no language: give one, or --baseline none")
    try:
        report = bench_captions(
            Plan(
                call=load_call(call),
                seconds=seconds,
                calls=calls,
                stagger_seconds=stagger_seconds,
                encoding=Encoding(encoding),
                models=ensure_model(model, models_dir),
                model=model,
                workers=workers,
                language=language,
                baseline=baseline == "upstream",
                viewers=viewers,
                frozen_viewers=frozen_viewers,
            )
        )
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(report.as_json()))
    else:
        Console(width=max(Console().width, _TABLE_WIDTH)).print(_tables(report))
    if report.baseline_error:
        raise click.ClickException(f"the baseline failed: {report.baseline_error}")


def _tables(report: CaptionsReport) -> Group:
    sides = [("callsd", report.ours.figures)]
    if report.baseline is not None:
        sides.insert(0, ("baseline", report.baseline.figures))
    title = (
        f"{report.calls} × {report.call}, {report.seconds:g} s, {report.stagger_seconds:g} s apart,"
        f" model {report.model}, {report.encoding}"
    )
    return Group(
        Text(title, style="italic"),
        Text(),
        _table(
            ("CPU avg", "memory", "< 2 s", "< 4 s", "< 6 s", "< 8 s", "buffer full", "dropped"),
            [(name, _cost_cells(figures)) for name, figures in sides],
        ),
        Text(),
        _table(
            ("p50", "p95", "p99", "first word", "p95", "WER", "erased", "skipped"),
            [(name, _quality_cells(figures)) for name, figures in sides],
        ),
        *(Text(line, style="bold") for line in _remarks(report)),
    )


def _table(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True, min_width=max(len("baseline"), len("callsd")))
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for name, cells in rows:
        table.add_row(name, *cells)
    return table


def _cost_cells(figures: Figures) -> tuple[str, ...]:
    timely, counts = figures.timely, figures.counts
    shares = (timely.lt_2s, timely.lt_4s, timely.lt_6s, timely.lt_8s)
    return (
        f"{figures.cpu_percent:.0f}%",
        f"{figures.pss_mb:.0f} MB",
        *(f"{share:.1%}" for share in shares),
        str(counts.buffer_full),
        str(counts.windows_dropped),
    )


def _quality_cells(figures: Figures) -> tuple[str, ...]:
    latency, first, skipped = figures.latency, figures.first_word_delay, figures.counts
    return (
        *map(_seconds, (latency.p50, latency.p95, latency.p99, first.p50, first.p95)),
        f"{figures.wer:.1%}",
        f"{figures.erased_ratio:.1%}",
        "" if skipped.skipped_seconds is None else f"{skipped.skipped_seconds:.1f} s",
    )


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.2f} s"


def _remarks(report: CaptionsReport) -> list[str]:
    ours, remarks = report.ours, []
    if (viewers := ours.viewers) is not None:
        p50, p99 = (1000 * (value or 0.0) for value in (viewers.p50, viewers.p99))
        remarks.append(
            f"{viewers.count} viewers, {viewers.frozen} more frozen: delay p50 {p50:.1f} ms, "
            f"p99 {p99:.1f} ms; finals lost {viewers.lost_finals}, repeated "
            f"{viewers.repeated_finals}"
        )
        if viewers.error:
            remarks.append(f"a viewer fell out: {viewers.error}")
    if ours.lost_finals:
        remarks.append(f"{ours.lost_finals} final captions never reached their viewer")
    if ours.degraded:
        remarks.append(f"captions were degraded {ours.degraded} ×")
    if ours.restarts:
        remarks.append(f"the captioner was started again {ours.restarts} ×")
    if ours.player_late_messages:
        remarks.append(
            f"the benchmark itself was late {ours.player_late_messages} ×, by up to "
            f"{ours.player_late_seconds:.2f} s: something else kept the machine busy, run it again"
        )
    return remarks
