# SPDX-License-Identifier: Apache-2.0
"""`callsd top`."""

import asyncio
import math
import shutil
import sys
from contextlib import aclosing, suppress
from dataclasses import asdict
from typing import Any

import click

from callsd import AsyncClient, CallsdError
from callsd.v1.capacity_pb2 import ResourceCapacity
from callsd_daemon.cli.shared.context import Cli, json_option, pass_cli
from callsd_daemon.cli.shared.output import print_json, print_table
from callsd_daemon.cli.top.screen import Screen
from callsd_daemon.cli.top.state import TopState
from callsd_daemon.cli.top.view import COLUMNS, WORDS_FROM_WIDTH, cells, frame, header


MAX_WATCHED_CALLS = 32
"""Calls whose lag is shown: each takes one of the daemon's places for streams."""

LOOK_SECONDS = 1.0
"""How often we look for calls that have begun."""

LAG_SECONDS = 6.0
"""How long one picture waits for the lag of its calls: viewers are told every 5 s at least."""

FIRST_SECONDS = 30.0
"""How long one picture waits for the jobs there are."""

MAX_LINES = 10_000
"""Lines of one picture that scrolls away: more jobs than that a daemon does not hold."""


@click.command()
@click.option("--once", is_flag=True, help="Print one picture as plain text.")
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 60.0),
    default=1.0,
    show_default=True,
    help="Draw a new picture so often.",
)
@json_option
@pass_cli
def top(cli: Cli, *, once: bool, interval: float) -> None:
    """Show the machine and every job that runs or waits, live; q ends it.

    Goes on over restarts of the daemon. Off a terminal it prints one picture, as with --once; with
    --json one object, whose keys stay.
    """
    is_live = sys.stdout.isatty() and not once and not cli.json
    state = asyncio.run(_top(cli, interval_seconds=interval if is_live else None))
    if cli.json:
        print_json(_as_dict(state))
    elif not is_live:
        _print(state)


async def _top(cli: Cli, *, interval_seconds: float | None) -> TopState:
    """Show pictures until the user has seen enough, or, without an interval, only learn."""
    client = AsyncClient(
        cli.address,
        token_file=cli.token_file,
        ca_file=cli.ca_file,
        # Somebody is looking, who can press q when there is no more hope.
        patience_seconds=math.inf,
    )
    async with client:
        info = await client.get_server_info()
        state = TopState(address=client.endpoint.address, version=info.version)
        state.measure(await client.get_capacity())
        if interval_seconds is None:
            await _look_once(client, state)
        else:
            await _watch(client, state, interval_seconds)
    return state


async def _look_once(client: AsyncClient, state: TopState) -> None:
    async with aclosing(client.watch_jobs(timeout_seconds=FIRST_SECONDS)) as events:
        while not state.is_complete:
            state.observe(await anext(events))
    with suppress(TimeoutError):
        async with asyncio.timeout(LAG_SECONDS), asyncio.TaskGroup() as group:
            for name in state.captioned()[:MAX_WATCHED_CALLS]:
                group.create_task(_watch_call(client, state, name, is_once=True))


async def _watch(client: AsyncClient, state: TopState, interval_seconds: float) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            watching = [
                group.create_task(_watch_jobs(client, state)),
                group.create_task(_watch_capacity(client, state)),
                group.create_task(_watch_calls(client, state)),
            ]
            with Screen() as screen:
                await screen.show(state, interval_seconds=interval_seconds)
            for task in watching:
                task.cancel()
    except ExceptionGroup as errors:
        # One is told: they have one cause, such as a token that was revoked.
        raise errors.exceptions[0] from None


async def _watch_jobs(client: AsyncClient, state: TopState) -> None:
    async with aclosing(client.watch_jobs()) as events:
        async for event in events:
            state.observe(event)


async def _watch_capacity(client: AsyncClient, state: TopState) -> None:
    async with aclosing(client.watch_capacity()) as changes:
        async for capacity in changes:
            state.measure(capacity)


async def _watch_calls(client: AsyncClient, state: TopState) -> None:
    """Stay with the captions of each call that goes on, for their lag."""
    tasks: dict[str, asyncio.Task[None]] = {}
    async with asyncio.TaskGroup() as group:
        while True:
            tasks = {name: task for name, task in tasks.items() if not task.done()}
            for name in state.captioned():
                if name not in tasks and len(tasks) < MAX_WATCHED_CALLS:
                    tasks[name] = group.create_task(_watch_call(client, state, name))
            await asyncio.sleep(LOOK_SECONDS)


async def _watch_call(
    client: AsyncClient, state: TopState, name: str, *, is_once: bool = False
) -> None:
    # Without its lag a call is still shown: it may have ended, or there is no place for a stream.
    with suppress(CallsdError):
        async with aclosing(client.watch_captions(name)) as messages:
            async for message in messages:
                if state.hear(name, message) and is_once:
                    return


def _print(state: TopState) -> None:
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        for line in frame(state, width=width, height=MAX_LINES):
            click.echo(line.plain)
        return
    # For programs: no bars, nothing is cut, and tables as they are everywhere.
    for line in header(state, width=WORDS_FROM_WIDTH):
        click.echo(line.plain)
    print_table(COLUMNS, [cells(line) for line in state.lines()])


def _as_dict(state: TopState) -> dict[str, Any]:
    capacity = state.capacity
    has_pressure = capacity.HasField("cpu_pressure")
    return {
        "address": state.address,
        "version": state.version,
        "health": state.health,
        "running_jobs": capacity.running_jobs,
        "queued_jobs": capacity.queued_jobs,
        "cpu_pressure": capacity.cpu_pressure if has_pressure else None,
        "cores": _account(capacity.cores),
        "memory_bytes": _account(capacity.memory_bytes),
        "disk_bytes": _account(capacity.disk_bytes),
        "jobs": [asdict(line) for line in state.lines()],
    }


def _account(account: ResourceCapacity) -> dict[str, float]:
    return {
        "total": account.total,
        "headroom": account.headroom,
        "reserved": account.reserved,
        "external": account.external,
        "available": account.available,
    }
