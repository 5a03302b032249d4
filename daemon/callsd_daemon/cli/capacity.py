# SPDX-License-Identifier: Apache-2.0
"""`callsd capacity`."""

import sys
from collections.abc import Callable
from contextlib import closing

import click

from callsd.v1.capacity_pb2 import Capacity, ResourceCapacity
from callsd.v1.kind_pb2 import JobKind
from callsd_daemon.cli.shared.context import Cli, json_option, pass_cli
from callsd_daemon.cli.shared.output import as_dict, json_line, print_json, print_table, size, word


@click.command()
@click.option("--watch", is_flag=True, help="Show it again whenever it changes.")
@json_option
@pass_cli
def capacity(cli: Cli, *, watch: bool) -> None:
    """Show what the machine has, what is promised to jobs, and what is left."""
    with cli.client() as client:
        if not watch:
            _show(client.get_capacity(), cli)
            return
        with closing(client.watch_capacity()) as changes:
            for changed in changes:
                if cli.json:
                    click.echo(json_line(as_dict(changed)))
                    continue
                if sys.stdout.isatty():
                    click.clear()
                _show(changed, cli)


def _show(found: Capacity, cli: Cli) -> None:
    if cli.json:
        print_json(found)
        return
    rows = [
        _row("cores", found.cores, lambda cores: f"{round(cores, 2) + 0:.2f}"),
        _row("memory", found.memory_bytes, size),
        _row("disk", found.disk_bytes, size),
    ]
    columns = ("RESOURCE", "TOTAL", "KEPT-FREE", "JOBS", "OTHERS", "LEFT")
    print_table(columns, rows, right="TOTAL KEPT-FREE JOBS OTHERS LEFT")
    kinds = ", ".join(
        f"{one.running}{f' of {one.limit}' if one.limit else ''}"
        f" {word(JobKind.Name(one.kind), prefix='JOB_KIND_')}"
        for one in found.kinds
    )
    ceiling = f" of {found.max_concurrent_jobs}" if found.max_concurrent_jobs else ""
    click.echo(f"running: {found.running_jobs}{ceiling}{f' ({kinds})' if kinds else ''}")
    click.echo(f"waiting: {found.queued_jobs} of {found.max_queued_jobs}")
    if found.HasField("cpu_pressure"):
        click.echo(f"pressure: {found.cpu_pressure:.0%} of the last 10 s a task waited for a core")
    if found.draining:
        click.secho("the daemon is shutting down and takes no new jobs", fg="yellow")


def _row(name: str, resource: ResourceCapacity, text: Callable[[float], str]) -> tuple[str, ...]:
    figures = (
        resource.total,
        resource.headroom,
        resource.reserved,
        resource.external,
        resource.available,
    )
    return (name, *(text(figure) for figure in figures))
