# SPDX-License-Identifier: Apache-2.0
"""`callsd bench transcription`: speed, cost and accuracy beside the baseline, in one run.

Figures of different machines, or of one machine at different hours, do not compare: ours and the
baseline run one after the other, never at once, each as a whole fresh process in which starting,
importing, loading and decoding count.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from callsd_bench.shared.accuracy import word_error_rate
from callsd_bench.shared.call import Call, cut_call, load_call, load_clips, total_seconds
from callsd_bench.shared.errors import BenchError
from callsd_bench.shared.progress import ProgressLine
from callsd_bench.shared.transcribing import OURS, transcribe_apart
from callsd_bench.shared.weights import engine_of


_NEEDED_BY_BASELINE = Path("ggml") / "f16.bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one side did."""

    x_realtime: float
    """Seconds of call per second of work."""
    cpu_seconds: float
    wall_seconds: float
    wer: float
    """Word error rate, 0 is perfect."""
    peak_pss_mb: float
    """Unit: 10^6 bytes."""

    @property
    def cores(self) -> float:
        """Processor cores in use, on average."""
        return self.cpu_seconds / self.wall_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times better ours is."""

    throughput: float
    cpu: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One row of the table."""

    call: str
    call_seconds: float
    model: str
    threads: int
    engine: str
    ours: Figures
    baseline: Figures | None
    ratio: Ratio | None

    def as_json(self) -> dict[str, Any]:
        """For machines; `baseline` and `ratio` are null when none was run."""
        return asdict(self)


def bench_transcription(
    calls: Sequence[Call],
    *,
    name: str,
    models_directory: Path,
    model: str,
    threads: int,
    engine: str,
    baseline: bool,
) -> Report:
    """Measure one model at one number of threads. BenchError: what is missing."""
    directory = models_directory / model
    if baseline and not (directory / _NEEDED_BY_BASELINE).is_file():
        raise BenchError(
            f"the baseline needs {directory / _NEEDED_BY_BASELINE}: "
            f"callsd models pull {model}, or --baseline none"
        )

    used = engine_of(directory, engine)

    def measure(module: str, label: str) -> Figures:
        return _measure(
            calls, module=module, label=label, model=directory, threads=threads, engine=used
        )

    ours = measure(OURS, "ours")
    theirs = measure("callsd_bench.transcription.baseline", "baseline") if baseline else None
    return Report(
        call=name,
        call_seconds=round(total_seconds(calls), 3),
        model=model,
        threads=threads,
        engine=used,
        ours=ours,
        baseline=theirs,
        ratio=Ratio(
            throughput=round(ours.x_realtime / theirs.x_realtime, 2),
            cpu=round(theirs.cpu_seconds / ours.cpu_seconds, 2),
        )
        if theirs is not None
        else None,
    )


def open_calls(
    *, call: Path | None, clips: Path | None, seconds: float | None, scratch: Path
) -> tuple[str, tuple[Call, ...]]:
    """What to measure on: the name for the table, and the calls."""
    if call is not None:
        whole = load_call(call)
        if seconds is not None:
            whole = cut_call(whole, seconds=seconds, directory=scratch)
        return whole.name, (whole,)
    if clips is not None:
        return clips.resolve().name, load_clips(clips)
    raise BenchError("name a call directory (--call) or a directory of clips (--clips)")


def _measure(
    calls: Sequence[Call], *, module: str, label: str, model: Path, threads: int, engine: str
) -> Figures:
    with ProgressLine(f"{label}, {model.name}, {threads} thread(s)") as line:
        done = transcribe_apart(
            calls,
            module=module,
            model=model,
            threads=threads,
            engine=engine,
            on_progress=line.show,
        )
    cost = done.cost
    return Figures(
        x_realtime=round(total_seconds(calls) / cost.wall_seconds, 2),
        cpu_seconds=round(cost.cpu_seconds, 2),
        wall_seconds=round(cost.wall_seconds, 2),
        wer=round(word_error_rate(calls, done.heard), 4),
        peak_pss_mb=round(cost.peak_pss_bytes / 1e6, 1),
    )
