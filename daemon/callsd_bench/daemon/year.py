# SPDX-License-Identifier: Apache-2.0
"""`callsd bench daemon --year`: what a store costs that has been in use for a year."""

import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

from callsd import Client
from callsd.v1.job_pb2 import JobFilter
from callsd_bench.daemon.inside import fill_store
from callsd_bench.daemon.plan import Plan
from callsd_bench.shared.progress import ProgressLine


PACE = timedelta(minutes=1)
LISTS = 20
"""Lists of which the median counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class YearReport:
    """A store after so many jobs, one a minute, of which the older ones were removed in time."""

    jobs: int
    kept_jobs: int
    store_mb: float
    """Database and log. Unit: 10^6 bytes."""
    start_seconds: float
    rss_mb: float
    list_page_ms: float
    """The newest 50 jobs."""
    list_label_ms: float
    """The one job with a label, in the middle of all."""
    list_all_seconds: float
    """All jobs, page after page."""

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def bench_year(plan: Plan) -> YearReport:
    """Fill a store, start a daemon on it and list."""
    jobs = plan.history_jobs
    with (
        tempfile.TemporaryDirectory(prefix="callsd-bench-") as scratch,
        ProgressLine("year") as line,
    ):
        directory = Path(scratch) / "daemon"
        line.step(f"{jobs} jobs, one a minute, come and go")
        fill_store(directory / "state", jobs, line, pace=PACE)
        store_bytes = sum(file.stat().st_size for file in (directory / "state").glob("callsd.db*"))
        line.step("a daemon starts with those that are left, and lists them")
        with plan.subject(directory) as subject, subject.client() as client:
            began = time.monotonic()
            kept = list(client.list_jobs(page_size=1000))
            list_all_seconds = time.monotonic() - began
            # Not the oldest: that one is removed within a minute.
            middle = JobFilter(labels=kept[len(kept) // 2].labels)
            return YearReport(
                jobs=jobs,
                kept_jobs=len(kept),
                store_mb=store_bytes / 1e6,
                start_seconds=subject.start_seconds,
                rss_mb=subject.process.memory_info().rss / 1e6,
                list_page_ms=1000 * _first_page_seconds(client, JobFilter()),
                list_label_ms=1000 * _first_page_seconds(client, middle),
                list_all_seconds=list_all_seconds,
            )


def _first_page_seconds(client: Client, wanted: JobFilter) -> float:
    """How long a first page of 50 jobs takes, in the median."""
    waits: list[float] = []
    for _ in range(LISTS):
        began = time.monotonic()
        next(client.list_jobs(wanted, page_size=50))
        waits.append(time.monotonic() - began)
    return median(waits)
