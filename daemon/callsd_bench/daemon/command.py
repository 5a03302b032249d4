# SPDX-License-Identifier: Apache-2.0
"""The command `callsd bench daemon` and its table."""

import json
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table

from callsd_bench.daemon.bench import DaemonReport, Plan, bench_daemon
from callsd_bench.shared.call import SAMPLE_CALL, load_call
from callsd_bench.shared.errors import BenchError
from callsd_bench.shared.weights import ensure_model


# More streams than a machine of this kind has files for.
_MAX_WATCHERS = 10_000


@click.command()
@click.option(
    "--call",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=SAMPLE_CALL,
    help="Directory with turns.json and a track per speaker. Default: the sample call.",
)
@click.option("--model", default="tiny.en", show_default=True)
@click.option(
    "--models-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the models lie; one that is missing is fetched. Default: the daemon's.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Jobs to start for the time from submission to running.",
)
@click.option(
    "--calls",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="CreateJob calls while a job is transcribed, at a pace and again back to back.",
)
@click.option("--watchers", type=click.IntRange(1, _MAX_WATCHERS), default=1000, show_default=True)
@click.option(
    "--changes-per-second",
    type=click.FloatRange(min=0, min_open=True),
    default=50,
    show_default=True,
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=10,
    show_default=True,
    help="How long changes are made for the watchers.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def daemon(
    *,
    call: Path,
    model: str,
    models_dir: Path | None,
    jobs: int,
    calls: int,
    watchers: int,
    changes_per_second: float,
    seconds: float,
    as_json: bool,
) -> None:
    """Measure the daemon itself: memory, start, answers, watchers, admission.

    It starts daemons of its own in a temporary directory and removes them again; one that runs
    on this machine is left alone, but disturbs the figures.
    """
    try:
        report = bench_daemon(
            Plan(
                call=load_call(call),
                models=ensure_model(model, models_dir),
                model=model,
                jobs=jobs,
                calls=calls,
                watchers=watchers,
                changes_per_second=changes_per_second,
                seconds=seconds,
            )
        )
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(report.as_json()))
    else:
        Console().print(_table(report))


def _table(report: DaemonReport) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("what", no_wrap=True)
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("target", justify="right", no_wrap=True)
    start, submit, watch = report.start, report.submit_to_running, report.watch
    paced, rush = report.create_job_paced, report.create_job_back_to_back
    rows = (
        ("idle memory, RSS", f"{report.idle.rss_mb:.0f} MB", "< 80 MB"),
        ("idle memory, PSS", f"{report.idle.pss_mb:.0f} MB", ""),
        ("start, empty store", f"{start.empty_seconds:.2f} s", ""),
        (f"start, {start.history_jobs} jobs", f"{start.history_seconds:.2f} s", "≤ 2 s"),
        ("submit → running, p50", f"{submit.p50_seconds:.2f} s", ""),
        ("submit → running, p99", f"{submit.p99_seconds:.2f} s", "< 1.5 s"),
        ("CreateJob at a pace, p50", f"{paced.p50_ms:.1f} ms", ""),
        ("CreateJob at a pace, p99", f"{paced.p99_ms:.1f} ms", "< 25 ms"),
        ("CreateJob back to back, p50", f"{rush.p50_ms:.1f} ms", ""),
        ("CreateJob back to back, p99", f"{rush.p99_ms:.1f} ms", "< 25 ms"),
        (f"changes/s to {watch.watchers} watchers", f"{watch.changes_per_second:.0f}", ""),
        ("events/s, all watchers", f"{watch.events_per_second:.0f}", ""),
        ("events lost / repeated", f"{watch.lost} / {watch.repeated}", "0 / 0"),
        ("delay at a watcher, p50", f"{watch.delay_p50_seconds:.2f} s", ""),
        ("delay at a watcher, p99", f"{watch.delay_p99_seconds:.2f} s", ""),
        ("daemon under watchers, CPU", f"{watch.daemon_cores:.0%}", ""),
        ("daemon under watchers, RSS", f"{watch.daemon_rss_mb:.0f} MB", ""),
        ("watchers themselves, CPU", f"{watch.client_cores:.0%}", ""),
        ("admission decisions/s", f"{report.decisions_per_second:.0f}", ""),
    )
    for row in rows:
        table.add_row(*row)
    return table
