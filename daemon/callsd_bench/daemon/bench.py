# SPDX-License-Identifier: Apache-2.0
"""`callsd bench daemon`: what the daemon itself costs, and how quickly it answers.

Daemons are started as users start them and asked through the public API, with real workers on a
real call; each measurement has a daemon of its own, so that none sees what another has left.
"""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from callsd import CallsdError, Client, JobChanged, WatchEvent
from callsd.v1.job_pb2 import JOB_STATE_CANCELLED, JOB_STATE_RUNNING, Job, JobState
from callsd_bench.daemon.fanout import FanOut, measure_fan_out
from callsd_bench.daemon.inside import decisions_per_second, fill_store
from callsd_bench.daemon.plan import Plan
from callsd_bench.shared.errors import BenchError
from callsd_bench.shared.progress import ProgressLine
from callsd_daemon.domain import costs
from callsd_daemon.domain.transcription import TranscriptionSpec as Spec
from callsd_daemon.host.probe import limits


STARTS = 3
"""Starts of which the median counts."""

HISTORY_JOBS = 10_000
SETTLE_SECONDS = 3.0
"""An idle daemon looks at the machine once a second: its memory is that after a few looks."""

PACED_PER_SECOND = 20.0

LONG_CALL_REPEATS = 40
"""How often the call is transcribed in one job, to have it last as long as a measurement."""

CHANGE_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """Memory of a daemon that has nothing to do. Unit: 10^6 bytes."""

    rss_mb: float
    pss_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """From the start of the program until it says that it serves; medians."""

    empty_seconds: float
    history_jobs: int
    """Finished jobs in the store for the next figure."""
    history_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitToRunning:
    """From sending CreateJob to learning that the worker is at work; nothing is kept warm."""

    jobs: int
    p50_seconds: float
    p99_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateJob:
    """How long CreateJob takes for its caller, while another job is being transcribed."""

    calls: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonReport:
    """All figures of one run."""

    idle: Idle
    start: Start
    submit_to_running: SubmitToRunning
    create_job_paced: CreateJob
    create_job_back_to_back: CreateJob
    watch: FanOut
    decisions_per_second: float

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def bench_daemon(plan: Plan) -> DaemonReport:
    """Measure everything; takes about a minute. BenchError: what is missing."""
    with (
        tempfile.TemporaryDirectory(prefix="callsd-bench-") as scratch,
        ProgressLine("daemon") as line,
    ):
        bench = _Bench(plan, Path(scratch), line)
        try:
            idle, start = bench.start()
            submit = bench.submit_to_running()
            paced, back_to_back = bench.create_job()
            watch = bench.watch()
        except CallsdError as error:
            raise BenchError(f"the daemon refused: {error}") from error
        line.step("decisions of admission")
        return DaemonReport(
            idle=idle,
            start=start,
            submit_to_running=submit,
            create_job_paced=paced,
            create_job_back_to_back=back_to_back,
            watch=watch,
            decisions_per_second=decisions_per_second(),
        )


class _Bench:
    def __init__(self, plan: Plan, scratch: Path, line: ProgressLine) -> None:
        self._plan = plan
        self._scratch = scratch
        self._line = line

    def start(self) -> tuple[Idle, Start]:
        """Starts on an empty and on a full store, and the memory after one on the empty."""
        empty: list[float] = []
        full: list[float] = []
        self._line.step(f"a store with {HISTORY_JOBS} finished jobs is filled")
        fill_store(self._scratch / "full" / "state", HISTORY_JOBS, self._line)
        for number in range(STARTS):
            self._line.step(f"start {number + 1} of {STARTS}, empty and with {HISTORY_JOBS} jobs")
            with self._plan.subject(self._scratch / f"empty{number}") as subject:
                empty.append(subject.start_seconds)
            with self._plan.subject(self._scratch / "full") as subject:
                full.append(subject.start_seconds)
        with self._plan.subject(self._scratch / "idle") as subject:
            self._line.step("idle")
            time.sleep(SETTLE_SECONDS)
            memory = subject.process.memory_full_info()
        return (
            Idle(rss_mb=memory.rss / 1e6, pss_mb=memory.pss / 1e6),
            Start(
                empty_seconds=median(empty),
                history_jobs=HISTORY_JOBS,
                history_seconds=median(full),
            ),
        )

    def submit_to_running(self) -> SubmitToRunning:
        """One job after the other, each stopped when it runs."""
        waits: list[float] = []
        with self._plan.subject(self._scratch / "submit") as subject, subject.client() as client:
            events = client.watch_jobs()
            for number in range(self._plan.jobs):
                self._line.step(f"job {number + 1} of {self._plan.jobs} until it runs")
                began = time.monotonic()
                job = client.create_job(self._plan.spec()).job
                _await_state(events, job, JOB_STATE_RUNNING)
                waits.append(time.monotonic() - began)
                client.stop_job(job)
                _await_state(events, job, JOB_STATE_CANCELLED)
            events.close()
        p50, p99 = np.percentile(waits, (50, 99))
        return SubmitToRunning(jobs=len(waits), p50_seconds=float(p50), p99_seconds=float(p99))

    def create_job(self) -> tuple[CreateJob, CreateJob]:
        """Jobs that queue up behind a transcription, some at a steady pace, then at once."""
        one_at_a_time = {"jobs.max_transcription_jobs": "1", "jobs.max_queued_jobs": "100000"}
        with (
            self._plan.subject(self._scratch / "create", one_at_a_time) as subject,
            subject.client() as client,
        ):
            events = client.watch_jobs()
            long = client.create_job(self._plan.spec(repeats=LONG_CALL_REPEATS)).job
            _await_state(events, long, JOB_STATE_RUNNING)
            events.close()
            results = []
            for name, pause_seconds in (
                (f"{PACED_PER_SECOND:g}/s", 1 / PACED_PER_SECOND),
                ("back to back", 0.0),
            ):
                self._line.step(f"{self._plan.calls} × CreateJob, {name}, while one is transcribed")
                results.append(self._create_jobs(client, pause_seconds))
            if client.get_job(long).state != JOB_STATE_RUNNING:
                raise BenchError("the transcription ended before the measurement: take less calls")
        return results[0], results[1]

    def _create_jobs(self, client: Client, pause_seconds: float) -> CreateJob:
        spec, waits = self._plan.spec(), []
        for _ in range(self._plan.calls):
            began = time.monotonic()
            client.create_job(spec)
            waits.append(time.monotonic() - began)
            time.sleep(max(0.0, pause_seconds - waits[-1]))
        p50, p99 = 1000 * np.percentile(waits, (50, 99))
        return CreateJob(calls=len(waits), p50_ms=float(p50), p99_ms=float(p99))

    def watch(self) -> FanOut:
        """Changes without workers: by configuration there is never enough memory for a job."""
        need = costs.transcription_cost(Spec(tracks=(), model=self._plan.model), 1, ())
        # A job would fit if nobody else used any memory; so it waits instead of being refused.
        headroom_bytes = limits().memory_bytes - need.memory_bytes
        with self._plan.subject(
            self._scratch / "watch",
            {
                "admission.headroom_memory_bytes": str(headroom_bytes),
                "jobs.max_queued_jobs": "100000",
                "server.max_watches": str(self._plan.watchers + 10),
            },
        ) as subject:
            return measure_fan_out(
                subject,
                self._plan.spec(),
                watchers=self._plan.watchers,
                changes_per_second=self._plan.changes_per_second,
                seconds=self._plan.seconds,
                scratch=self._scratch,
                on_step=self._line.step,
            )


def _await_state(events: Iterator[WatchEvent], job: Job, state: JobState.ValueType) -> None:
    """Read events until the job is in `state`. BenchError: it has ended otherwise."""
    deadline = time.monotonic() + CHANGE_TIMEOUT_SECONDS
    for event in events:
        if isinstance(event, JobChanged) and event.job.name == job.name:
            if event.job.state == state:
                return
            if event.job.HasField("end_time"):
                raise BenchError(f"a job failed: {event.job.failure.message}")
        if time.monotonic() > deadline:
            raise BenchError(f"a job is not where it should be after {CHANGE_TIMEOUT_SECONDS:g} s")
