# SPDX-License-Identifier: Apache-2.0
"""The command `callsd bench daemon` and its table."""

import json
from pathlib import Path

import click
from rich.console import Console

from callsd_bench.daemon.bench import DaemonReport, bench_daemon
from callsd_bench.daemon.hostile import HostileReport, bench_hostile
from callsd_bench.daemon.plan import Plan
from callsd_bench.daemon.tables import table
from callsd_bench.daemon.year import YearReport, bench_year
from callsd_bench.shared.call import SAMPLE_CALL, load_call
from callsd_bench.shared.errors import BenchError
from callsd_bench.shared.options import json_option, models_dir_option
from callsd_bench.shared.weights import ensure_model


# More streams than a machine of this kind has files for.
_MAX_WATCHERS = 10_000
_HISTORY_JOBS = {"hostile": 100_000, "year": 365 * 24 * 60}


@click.command()
@click.option(
    "--call",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=SAMPLE_CALL,
    help="Directory with turns.json and a track per speaker. Default: the sample call.",
)
@click.option("--model", default="tiny.en", show_default=True)
@models_dir_option
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
@click.option(
    "--hostile",
    "other",
    flag_value="hostile",
    help="Instead: how quickly others are answered while clients misbehave, beside without them.",
)
@click.option(
    "--year",
    "other",
    flag_value="year",
    help="Instead: what a store costs after a year with a job every minute.",
)
@click.option(
    "--history-jobs",
    type=click.IntRange(1),
    help=f"Jobs that the store has seen. Default: {_HISTORY_JOBS['hostile']} with --hostile, "
    f"{_HISTORY_JOBS['year']} with --year.",
)
@json_option
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
    other: str | None,
    history_jobs: int | None,
    as_json: bool,
) -> None:
    """Measure the daemon itself: memory, start, answers, watchers, admission.

    It starts daemons of its own in a temporary directory and removes them again; one that runs
    on this machine is left alone, but disturbs the figures.
    """
    report: DaemonReport | HostileReport | YearReport
    try:
        plan = Plan(
            call=load_call(call),
            models=ensure_model(model, models_dir),
            model=model,
            jobs=jobs,
            calls=calls,
            watchers=watchers,
            changes_per_second=changes_per_second,
            seconds=seconds,
            history_jobs=history_jobs or _HISTORY_JOBS.get(other or "", 0),
        )
        match other:
            case "hostile":
                report = bench_hostile(plan)
            case "year":
                report = bench_year(plan)
            case _:
                report = bench_daemon(plan)
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(report.as_json()))
    else:
        Console().print(table(report))
