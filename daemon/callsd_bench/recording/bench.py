# SPDX-License-Identifier: Apache-2.0
"""`callsd bench recording`: recordings of pages of our own, beside the way it is done today.

Ours goes through the public API of a daemon of its own; daemon and workers count as its cost. Both
record the same page one after the other, never at once.
"""

import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from callsd import CallsdError, Client
from callsd.v1.job_pb2 import JOB_STATE_SUCCEEDED, Job
from callsd.v1.recording_pb2 import RecordingProfile, RecordingSpec
from callsd_bench.recording.baseline.recorder import PROFILES, record_baseline
from callsd_bench.recording.cost import CostMeter, TreeCost
from callsd_bench.recording.measure import Measured, measure
from callsd_bench.recording.pages import PageServer
from callsd_bench.recording.quality import Ssim, compare_coding
from callsd_bench.shared.errors import BenchError
from callsd_bench.shared.progress import ProgressLine
from callsd_bench.shared.subject import Subject
from callsd_daemon.host.probe import limits


READY = "window.callsClient && window.callsClient.connected"
OVER = "!window.callsClient || window.callsClient.closed"
LEAVE = "window.callsClient && window.callsClient.disconnect()"

START_TIMEOUT_SECONDS = 60.0
END_TIMEOUT_SECONDS = 120.0
SETTLE_SECONDS = 2.0
"""What starting costs is not what recording costs."""

POLL_SECONDS = 0.1
MB = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to record."""

    page: str
    profile: str
    jobs: int
    seconds: float
    baseline: bool
    keep: Path | None = None
    """Where to put the recordings, for those who want to look at them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one side did; of several recordings the worst, and of costs the average of each."""

    cpu_s_per_min: float
    """Processor seconds for each minute of one recording."""
    cpu_percent: float
    """Of the whole machine, by all of them."""
    pss_mb: float
    """Of each, on the average over the time."""
    unique_fps: float
    longest_still_seconds: float
    sync_ms_start: float | None
    sync_ms_end: float | None
    kbps: float
    mb_per_hour: float
    ssim: float | None
    cpu_by_program: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Both sides, and what ours takes of what the baseline takes."""

    page: str
    profile: str
    jobs: int
    seconds: float
    ours: Figures
    baseline: Figures | None
    baseline_error: str = ""

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        document = asdict(self)
        if self.baseline is not None:
            document["ratio"] = {
                "cpu": self.ours.cpu_s_per_min / self.baseline.cpu_s_per_min,
                "pss": self.ours.pss_mb / self.baseline.pss_mb,
            }
        return document


def bench_recording(plan: Plan) -> Report:
    """Measure; takes a little longer than what is recorded, twice with the baseline.

    BenchError: what failed of ours; what failed of the baseline is in the report.
    """
    with (
        tempfile.TemporaryDirectory(prefix="callsd-bench-") as scratch,
        PageServer() as pages,
    ):
        directory = plan.keep or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        pages.make_clips()
        url = pages.url(plan.page)
        baseline, baseline_error, ssim = None, "", None
        if plan.baseline:
            ssim = compare_coding(url, plan.profile, Path(scratch))
        try:
            ours = _ours(plan, url, Path(scratch), directory, ssim)
        except CallsdError as error:
            raise BenchError(f"the daemon refused: {error}") from error
        try:
            if plan.baseline:
                baseline = _baseline(plan, url, directory, ssim)
        except BenchError as error:
            baseline_error = str(error)
        return Report(
            page=plan.page,
            profile=plan.profile,
            jobs=plan.jobs,
            seconds=plan.seconds,
            ours=ours,
            baseline=baseline,
            baseline_error=baseline_error,
        )


def _ours(plan: Plan, url: str, scratch: Path, directory: Path, ssim: Ssim | None) -> Figures:
    # What admission allows is not asked here: what more would cost is to be seen as well.
    settings = {"admission.enforced": "false"}
    with (
        ProgressLine(f"{plan.jobs} × {plan.page}, {plan.profile}, callsd") as progress,
        Subject(scratch, models=scratch, settings=settings) as subject,
        subject.client() as client,
    ):
        spec = RecordingSpec(
            url=url,
            profile=RecordingProfile.Value(f"RECORDING_PROFILE_{plan.profile.upper()}"),
            ready_expression=READY,
            over_expression=OVER,
            leave_expression=LEAVE,
        )
        jobs = [client.create_job(spec).job for _ in range(plan.jobs)]
        _await_recording(client, jobs)
        meter = CostMeter([subject.process.pid])
        meter.start()
        _let_pass(plan.seconds, progress)
        cost = meter.stop()
        for job in jobs:
            client.stop_job(job)
        files = [
            _fetch(client, job, directory / f"{plan.page}-{plan.profile}-{number}.mp4")
            for number, job in enumerate(jobs)
        ]
    fps = PROFILES[plan.profile].fps
    found = [measure(file, fps=fps) for file in files]
    return _figures([cost], found, plan.jobs, None if ssim is None else ssim.ours)


def _await_recording(client: Client, jobs: Sequence[Job]) -> None:
    """Wait until all of them have recorded for a moment."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    for job in jobs:
        while not (now := client.get_job(job)).progress.recording.frame_count:
            if now.HasField("failure"):
                raise BenchError(f"a recording failed: {now.failure.message}")
            if time.monotonic() > deadline:
                raise BenchError("a recording did not begin in time")
            time.sleep(POLL_SECONDS)
    time.sleep(SETTLE_SECONDS)


def _let_pass(seconds: float, progress: ProgressLine) -> None:
    began = time.monotonic()
    while (gone := time.monotonic() - began) < seconds:
        progress.tell(f"{gone:.0f} of {seconds:.0f} s")
        time.sleep(min(1.0, seconds - gone))


def _fetch(client: Client, job: Job, target: Path) -> Path:
    ended = client.wait_job(job, timeout_seconds=END_TIMEOUT_SECONDS)
    if ended.state != JOB_STATE_SUCCEEDED:
        raise BenchError(f"a recording failed: {ended.failure.message}")
    client.fetch_artifact(ended, "recording.mp4", target)
    return target


def _baseline(plan: Plan, url: str, directory: Path, ssim: Ssim | None) -> Figures:
    profile = PROFILES[plan.profile]
    files = [
        directory / f"{plan.page}-{plan.profile}-{number}-baseline.mp4"
        for number in range(plan.jobs)
    ]
    with (
        ProgressLine(f"{plan.jobs} × {plan.page}, {plan.profile}, baseline"),
        ThreadPoolExecutor(plan.jobs) as together,
    ):
        costs = list(
            together.map(
                lambda file: record_baseline(url, profile, seconds=plan.seconds, target=file),
                files,
            )
        )
    found = [measure(file, fps=profile.fps) for file in files]
    return _figures(costs, found, plan.jobs, None if ssim is None else ssim.baseline)


def _figures(
    costs: Sequence[TreeCost], found: Sequence[Measured], jobs: int, ssim: float | None
) -> Figures:
    per_minute = sum(cost.cpu_seconds_per_minute for cost in costs)
    programs: dict[str, float] = {}
    for cost in costs:
        for program, seconds in cost.cpu_seconds_by_program.items():
            used = seconds * 60 / cost.wall_seconds / jobs
            programs[program] = programs.get(program, 0.0) + used
    return Figures(
        cpu_s_per_min=per_minute / jobs,
        cpu_percent=100 * per_minute / 60 / limits().cores,
        pss_mb=sum(cost.mean_pss_bytes for cost in costs) / jobs / MB,
        unique_fps=min(one.unique_fps for one in found),
        longest_still_seconds=max(one.missing_seconds for one in found),
        sync_ms_start=_furthest([one.sync_ms_start for one in found]),
        sync_ms_end=_furthest([one.sync_ms_end for one in found]),
        kbps=mean(one.kbps for one in found),
        mb_per_hour=mean(one.mb_per_hour for one in found),
        ssim=ssim,
        cpu_by_program={name: used for name, used in programs.items() if used},
    )


def _furthest(offsets: Sequence[float | None]) -> float | None:
    known = [offset for offset in offsets if offset is not None]
    return max(known, key=abs) if len(known) == len(offsets) else None
