# SPDX-License-Identifier: Apache-2.0
"""What `callsd bench daemon` shows."""

from rich import box
from rich.table import Table

from callsd_bench.daemon.bench import DaemonReport
from callsd_bench.daemon.hostile import HostileReport
from callsd_bench.daemon.year import YearReport


def table(report: DaemonReport | HostileReport | YearReport) -> Table:
    """A report for people."""
    match report:
        case DaemonReport():
            return _of_daemon(report)
        case HostileReport():
            return _of_hostile(report)
        case YearReport():
            return _of_year(report)


def _empty(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("what", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _of_daemon(report: DaemonReport) -> Table:
    table = _empty("measured", "target")
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


def _of_hostile(report: HostileReport) -> Table:
    table = _empty("alone", "among strangers", "target")
    alone, hostile = report.alone, report.hostile
    rows = (
        ("health, p50", alone.health_p50_ms, hostile.health_p50_ms, "ms", ""),
        ("health, p99", alone.health_p99_ms, hostile.health_p99_ms, "ms", "< 100 ms"),
        ("CreateJob, p50", alone.create_p50_ms, hostile.create_p50_ms, "ms", ""),
        ("CreateJob, p99", alone.create_p99_ms, hostile.create_p99_ms, "ms", "< 250 ms"),
        *(
            (f"memory {when}", alone.rss_mb[at], hostile.rss_mb[at], "MB", target)
            for at, when, target in (
                (0, "at the begin", ""),
                (1, "after a quarter of the time", ""),
                (-1, "at the end", "as after a quarter"),
            )
        ),
        ("CPU", 100 * alone.daemon_cores, 100 * hostile.daemon_cores, "%", ""),
    )
    for what, quiet, loud, unit, target in rows:
        table.add_row(what, f"{quiet:.0f} {unit}", f"{loud:.0f} {unit}", target)
    counts = (
        ("lists answered", str(report.lists), ""),
        ("messages of sound taken", str(report.sound_messages), ""),
        ("uploads taken / refused", f"{report.uploads} / {report.uploads_refused}", ""),
        (f"events lost by {report.watchers} watchers", str(report.events_lost), "0"),
    )
    for what, count, target in counts:
        table.add_row(what, "", count, target)
    return table


def _of_year(report: YearReport) -> Table:
    table = _empty("measured")
    rows = (
        ("jobs, one a minute", str(report.jobs)),
        ("of which are kept", str(report.kept_jobs)),
        ("database", f"{report.store_mb:.0f} MB"),
        ("start", f"{report.start_seconds:.2f} s"),
        ("memory after that, RSS", f"{report.rss_mb:.0f} MB"),
        ("the newest 50 jobs", f"{report.list_page_ms:.0f} ms"),
        ("the job with a label", f"{report.list_label_ms:.0f} ms"),
        ("all jobs", f"{report.list_all_seconds:.1f} s"),
    )
    for row in rows:
        table.add_row(*row)
    return table
