# SPDX-License-Identifier: Apache-2.0
"""`callsd bench daemon --hostile`: how quickly others are answered while clients misbehave.

One daemon, with a long history and a call that it captions, is measured twice: alone, and with all
of them at once, who watch, list, talk and upload as much as they are let.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from callsd import CallsdError, Client, JobSpec
from callsd.v1.caption_pb2 import CaptionsSpec
from callsd.v1.job_pb2 import JOB_STATE_RUNNING
from callsd_bench.daemon.inside import fill_store, make_tokens
from callsd_bench.daemon.plan import Plan
from callsd_bench.daemon.strangers import Order as StrangersOrder
from callsd_bench.daemon.watchers import LATE_SECONDS, Tally
from callsd_bench.daemon.watchers import Order as WatchersOrder
from callsd_bench.shared.errors import BenchError
from callsd_bench.shared.helper_process import HelperProcess
from callsd_bench.shared.progress import ProgressLine
from callsd_bench.shared.subject import Subject


LISTING_CLIENTS = 8
MAX_UPLOADS = 8
"""What one client may keep: it gets there within seconds."""

ALONE_SECONDS = 60.0
"""At most: there is nothing that would add up."""
QUARTERS = 4

HEALTH_PERIOD_SECONDS = 0.05
CREATE_PERIOD_SECONDS = 0.1
RUNNING_TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.05

# A child imports, opens its connections and waits for its first answer.
ANSWER_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What an ordinary client sees, and what the daemon takes meanwhile."""

    health_p50_ms: float
    health_p99_ms: float
    create_p50_ms: float
    create_p99_ms: float
    rss_mb: list[float]
    """At the begin, after each quarter of the time, and so at the end. Unit: 10^6 bytes."""
    daemon_cores: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HostileReport:
    """The same daemon alone, and among clients who misbehave."""

    history_jobs: int
    watchers: int
    seconds: float
    alone: Answers
    hostile: Answers
    lists: int
    """Pages of jobs that were answered, to all clients that list."""
    sound_messages: int
    uploads: int
    uploads_refused: int
    events_lost: int
    """By watchers, who behave, but are many."""

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def bench_hostile(plan: Plan) -> HostileReport:
    """Measure both. BenchError: what is missing, or who fell out."""
    with (
        tempfile.TemporaryDirectory(prefix="callsd-bench-") as scratch,
        ProgressLine("daemon among strangers") as line,
    ):
        line.step(f"a store with {plan.history_jobs} finished jobs is filled")
        directory = Path(scratch) / "daemon"
        fill_store(directory / "state", plan.history_jobs, line)
        settings = {
            # The call that is captioned has the only place: what is created waits.
            "jobs.max_concurrent_jobs": "1",
            "jobs.max_queued_jobs": "100000",
            "media.max_client_uploads": str(MAX_UPLOADS),
            "server.max_watches": str(plan.watchers + 10),
        }
        try:
            with plan.subject(directory, settings) as subject, subject.client() as client:
                return _measure(plan, subject, client, Path(scratch), line)
        except CallsdError as error:
            raise BenchError(f"the daemon refused: {error}") from error


def _measure(
    plan: Plan, subject: Subject, client: Client, scratch: Path, line: ProgressLine
) -> HostileReport:
    call = _start_call(client, plan.model)
    alone_seconds = min(plan.seconds, ALONE_SECONDS)
    alone, last_revision = _ask(subject, alone_seconds, plan.spec(), line, "alone")
    with contextlib.ExitStack() as stack:
        line.step("watchers connect, then strangers")
        watching = stack.enter_context(
            HelperProcess(
                "callsd_bench.daemon.watchers",
                WatchersOrder(
                    address=subject.address,
                    token_file=str(subject.token_file),
                    watchers=plan.watchers,
                    # So that there is news for each from the beginning.
                    resume_revision=last_revision - 1,
                    arrivals_path=str(scratch / "arrivals"),
                ),
            )
        )
        watching.answer(ANSWER_SECONDS)
        parts = {
            part: stack.enter_context(HelperProcess("callsd_bench.daemon.strangers", order))
            for part, order in _orders(subject, call).items()
        }
        for child in parts.values():
            child.answer(ANSWER_SECONDS)
        hostile, last_revision = _ask(subject, plan.seconds, plan.spec(), line, "among them")
        watching.tell(str(last_revision))
        tally = Tally(**watching.answer_json(LATE_SECONDS + ANSWER_SECONDS))
        came = {}
        for part, child in parts.items():
            child.tell("enough")
            came[part] = child.answer_json(ANSWER_SECONDS)
    return HostileReport(
        history_jobs=plan.history_jobs,
        watchers=plan.watchers,
        seconds=plan.seconds,
        alone=alone,
        hostile=hostile,
        lists=came["lists"]["answered"],
        sound_messages=came["sound"]["answered"],
        uploads=came["uploads"]["answered"],
        uploads_refused=came["uploads"]["refused"],
        events_lost=tally.lost,
    )


def _start_call(client: Client, model: str) -> str:
    """A call whose captioner listens."""
    job = client.create_job(CaptionsSpec(model=model, max_active_speakers=1), no_queue=True).job
    deadline = time.monotonic() + RUNNING_TIMEOUT_SECONDS
    while job.state != JOB_STATE_RUNNING:
        if job.HasField("end_time") or time.monotonic() > deadline:
            raise BenchError(f"the call is not captioned: {job.failure.message or 'no captioner'}")
        time.sleep(POLL_SECONDS)
        job = client.get_job(job)
    return job.name


def _orders(subject: Subject, call: str) -> dict[str, StrangersOrder]:
    clients = {"lists": LISTING_CLIENTS, "sound": 1, "uploads": 1}
    return {
        part: StrangersOrder(
            address=subject.address,
            part=part,
            tokens=make_tokens(subject.state, [f"{part}{number}" for number in range(count)]),
            job=call,
        )
        for part, count in clients.items()
    }


def _ask(
    subject: Subject, seconds: float, spec: JobSpec, line: ProgressLine, where: str
) -> tuple[Answers, int]:
    """Ask for health and for jobs at a steady pace; also the last revision that this made."""
    line.step(f"{seconds:g} s {where}")
    end = time.monotonic() + seconds
    rss_mb: list[float] = []

    def on_left(left: float) -> None:
        line.tell(f"{seconds - left:.0f} of {seconds:g} s {where}")
        if seconds - left >= len(rss_mb) * seconds / QUARTERS:
            rss_mb.append(subject.process.memory_info().rss / 1e6)

    cpu_begin = subject.cpu_seconds
    with ThreadPoolExecutor(1) as pool, subject.client() as client, subject.client() as other:
        checks = pool.submit(_check_health, other, end)
        waits, revision = _create_jobs(client, spec, end, on_left)
        checked = checks.result()
    on_left(0.0)
    health_p50, health_p99 = 1000 * np.percentile(checked, (50, 99))
    create_p50, create_p99 = 1000 * np.percentile(waits, (50, 99))
    return Answers(
        health_p50_ms=float(health_p50),
        health_p99_ms=float(health_p99),
        create_p50_ms=float(create_p50),
        create_p99_ms=float(create_p99),
        rss_mb=rss_mb,
        daemon_cores=(subject.cpu_seconds - cpu_begin) / seconds,
    ), revision


def _check_health(client: Client, end: float) -> list[float]:
    waits: list[float] = []
    while (began := time.monotonic()) < end:
        if not client.is_serving():
            raise BenchError("the daemon says that it is not well")
        waits.append(time.monotonic() - began)
        time.sleep(HEALTH_PERIOD_SECONDS)
    return waits


def _create_jobs(
    client: Client, spec: JobSpec, end: float, on_left: Callable[[float], None]
) -> tuple[list[float], int]:
    """Queue jobs, and take each back, so that the queue stays short."""
    waits: list[float] = []
    revision = 0
    while (left := end - time.monotonic()) > 0:
        on_left(left)
        began = time.monotonic()
        job = client.create_job(spec).job
        waits.append(time.monotonic() - began)
        revision = client.stop_job(job).revision
        time.sleep(CREATE_PERIOD_SECONDS)
    return waits, revision
