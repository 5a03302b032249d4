# SPDX-License-Identifier: Apache-2.0
"""Changes by the public API on one side, many watchers on the other: nothing may be lost."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from callsd import AsyncClient, JobSpec
from callsd_bench.daemon.watchers import (
    ARRIVAL,
    LATE_SECONDS,
    READY_TIMEOUT_SECONDS,
    Order,
    Tally,
)
from callsd_bench.shared.errors import BenchError
from callsd_bench.shared.helper_process import HelperProcess
from callsd_bench.shared.subject import Subject


PROCESSES = 2
"""Processes among which the watchers are divided: one alone would be what is measured."""

# A child imports, and writes its arrivals, besides waiting.
_ANSWER_MARGIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOut:
    """How a daemon served its watchers."""

    watchers: int
    changes: int
    changes_per_second: float
    events_per_second: float
    """Events that arrived, at all watchers together."""
    lost: int
    """Revisions that some watcher never saw."""
    repeated: int
    """Revisions that some watcher saw twice or out of order."""
    delay_p50_seconds: float
    """From the answer to whoever made the change to the arrival at a watcher."""
    delay_p99_seconds: float
    daemon_cores: float
    """Processor cores in use by the daemon, on average."""
    client_cores: float
    """Processor cores in use by the watchers."""
    daemon_rss_mb: float
    """Memory of the daemon with all watchers connected. Unit: 10^6 bytes."""


def measure_fan_out(
    subject: Subject,
    spec: JobSpec,
    *,
    watchers: int,
    changes_per_second: float,
    seconds: float,
    scratch: Path,
    on_step: Callable[[str], None],
) -> FanOut:
    """Make changes for `seconds` and see them arrive.

    The daemon must be so configured that a job made from `spec` waits: a change is then either a
    job that is queued or one that is taken back. BenchError: a watcher fell out.
    """
    with contextlib.ExitStack() as stack:
        on_step(f"{watchers} watchers connect")
        orders = [
            Order(
                address=subject.address,
                token_file=str(subject.token_file),
                watchers=share,
                resume_revision=0,
                arrivals_path=str(scratch / f"arrivals{number}"),
            )
            for number, share in enumerate(_shares(watchers))
        ]
        children = [
            stack.enter_context(HelperProcess("callsd_bench.daemon.watchers", order))
            for order in orders
        ]
        for child in children:
            child.answer(READY_TIMEOUT_SECONDS + _ANSWER_MARGIN_SECONDS)
        rss_bytes = subject.process.memory_info().rss
        on_step(f"{seconds:g} s of {changes_per_second:g} changes/s to {watchers} watchers")
        cpu_before, client_before = subject.cpu_seconds, _cpu_seconds(children)
        began = time.monotonic()
        replies = asyncio.run(_make_changes(subject, spec, changes_per_second, seconds))
        for child in children:
            child.tell(str(max(replies)))
        tallies = [
            Tally(**child.answer_json(LATE_SECONDS + _ANSWER_MARGIN_SECONDS)) for child in children
        ]
        wall_seconds = time.monotonic() - began
        daemon_cores = (subject.cpu_seconds - cpu_before) / wall_seconds
        client_cores = (_cpu_seconds(children) - client_before) / wall_seconds
    arrivals = np.concatenate([np.fromfile(order.arrivals_path, ARRIVAL) for order in orders])
    if not len(arrivals):
        raise BenchError("not one event has arrived: look at what is written above")
    p50, p99 = np.percentile(_delays(arrivals, replies), (50, 99))
    return FanOut(
        watchers=watchers,
        changes=len(replies),
        changes_per_second=len(replies) / (max(replies.values()) - began),
        events_per_second=len(arrivals) / float(np.ptp(arrivals["monotonic_seconds"])),
        lost=sum(tally.lost for tally in tallies),
        repeated=sum(tally.repeated for tally in tallies),
        delay_p50_seconds=float(p50),
        delay_p99_seconds=float(p99),
        daemon_cores=daemon_cores,
        client_cores=client_cores,
        daemon_rss_mb=rss_bytes / 1e6,
    )


def _shares(watchers: int) -> list[int]:
    processes = min(PROCESSES, watchers)
    return [(watchers + number) // processes for number in range(processes)]


def _cpu_seconds(children: list[HelperProcess]) -> float:
    times = [psutil.Process(child.pid).cpu_times() for child in children]
    return sum(time.user + time.system for time in times)


async def _make_changes(
    subject: Subject, spec: JobSpec, per_second: float, seconds: float
) -> dict[int, float]:
    """Queue jobs and take them back; the revision of each change, and when it was answered."""
    replies: dict[int, float] = {}

    async def queue_and_take_back(client: AsyncClient) -> None:
        job = (await client.create_job(spec)).job
        replies[job.revision] = time.monotonic()
        job = await client.stop_job(job)
        replies[job.revision] = time.monotonic()

    pairs = max(1, round(seconds * per_second / 2))
    async with AsyncClient(subject.address, token_file=subject.token_file) as client:
        # The daemon reads the whole model before it believes in it, once: not what is measured.
        await client.create_job(spec, validate_only=True)
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(pairs):
                await asyncio.sleep(began + number * 2 / per_second - time.monotonic())
                group.create_task(queue_and_take_back(client))
    return replies


def _delays(arrivals: Any, replies: dict[int, float]) -> Any:
    """Seconds from answer to arrival, for each event of a change that was ours."""
    answered = np.full(int(arrivals["revision"].max()) + 1, np.nan)
    answered[list(replies)] = list(replies.values())
    delays = arrivals["monotonic_seconds"] - answered[arrivals["revision"]]
    return delays[~np.isnan(delays)]
