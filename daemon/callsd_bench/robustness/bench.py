# SPDX-License-Identifier: Apache-2.0
"""`callsd bench robustness`: what noise, rooms and lines do to accuracy, beside stock Whisper.

In each condition all sides hear the same sound, one after the other and never at once, each as a
whole fresh process in which starting, importing and loading count.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from callsd_bench.robustness.conditions import ALONE, ALONE_SECONDS, Clip, write_condition
from callsd_bench.shared.accuracy import Errors, count_errors
from callsd_bench.shared.call import Call
from callsd_bench.shared.errors import BenchError
from callsd_bench.shared.progress import ProgressLine
from callsd_bench.shared.transcribing import OURS, OnProgress, transcribe_apart
from callsd_bench.shared.weights import engine_of


LANGUAGE = "en"
"""Of references: they are normalised as English. It is given, as detecting it is another skill."""

_STOCK = "callsd_bench.robustness.stock"
_NEEDED_BY_STOCK = Path("ctranslate2") / "model.bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Who transcribes with what."""

    is_ours: bool
    engine: str
    model: str

    @property
    def system(self) -> str:
        """For people."""
        return "callsd" if self.is_ours else "baseline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How one side did in one condition."""

    condition: str
    side: Side
    errors: Errors
    cpu_seconds: float
    """User and system time of the whole process."""
    peak_pss_bytes: int

    @property
    def summary(self) -> str:
        """How good it was, for people."""
        if self.words_per_minute is not None:
            return f"{self.words_per_minute:g} words/min"
        return f"{self.errors.rate:.1%}"

    @property
    def words_per_minute(self) -> float | None:
        """Words heard where nobody spoke; None where somebody did."""
        if self.condition not in ALONE:
            return None
        return round(self.errors.insertions * 60 / ALONE_SECONDS, 1)

    def as_json(self) -> dict[str, Any]:
        """For machines: `wer` is null where nobody spoke."""
        errors = asdict(self.errors)
        return {
            "condition": self.condition,
            "system": self.side.system,
            "engine": self.side.engine,
            "model": self.side.model,
            "wer": None if self.condition in ALONE else round(self.errors.rate, 4),
            **errors,
            "words_per_minute": self.words_per_minute,
            "cpu_seconds": round(self.cpu_seconds, 2),
            "peak_pss_mb": round(self.peak_pss_bytes / 1e6),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A condition, and how each side did in it, in the order in which they ran."""

    condition: str
    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All of a run; each row has the same sides."""

    clips: str
    clips_seconds: float
    threads: int
    rows: tuple[Row, ...]

    @property
    def sides(self) -> tuple[Side, ...]:
        """Who ran, in the order of the results of a row."""
        return tuple(result.side for result in self.rows[0].results)

    def cpu_seconds(self, at: int) -> float:
        """Of one side, in all conditions."""
        return sum(row.results[at].cpu_seconds for row in self.rows)

    def cpu_ratio(self, at: int) -> float | None:
        """How many times more the baseline took with the same model; None without a baseline."""
        side = self.sides[at]
        for baseline, other in enumerate(self.sides):
            if side.is_ours and not other.is_ours and other.model == side.model:
                return round(self.cpu_seconds(baseline) / self.cpu_seconds(at), 2)
        return None

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "clips": self.clips,
            "clips_seconds": self.clips_seconds,
            "threads": self.threads,
            "results": [result.as_json() for row in self.rows for result in row.results],
            "cpu_ratio": [
                {"engine": side.engine, "model": side.model, "ratio": ratio}
                for at, side in enumerate(self.sides)
                if (ratio := self.cpu_ratio(at)) is not None
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run: each model as the baseline, and with each engine as ours."""

    conditions: Sequence[str]
    models: Sequence[Path]
    engines: Sequence[str]
    threads: int
    baseline: bool


def bench_robustness(clips: Sequence[Clip], plan: Plan, *, name: str) -> Report:
    """Measure all sides in all conditions. BenchError: what is missing."""
    candidates = _candidates(plan)
    steps = len(plan.conditions) * len(candidates)
    rows: list[Row] = []
    with ProgressLine("robustness") as line:
        for condition in plan.conditions:
            results: list[Result] = []
            with tempfile.TemporaryDirectory(prefix="callsd-bench-") as scratch:
                call = write_condition(condition, clips, Path(scratch))
                for candidate in candidates:
                    what = f"{condition}, {candidate.label}"
                    step = len(rows) * len(candidates) + len(results)
                    tell = partial(_tell, line, what, step, steps)
                    result = _measure(call, candidate, plan.threads, tell)
                    # A run may take hours: whoever stops it keeps what there is.
                    line.step(f"{what}: {result.summary}")
                    results.append(result)
            rows.append(Row(condition=condition, results=tuple(results)))
    return Report(
        clips=name,
        clips_seconds=round(sum(clip.seconds for clip in clips), 3),
        threads=plan.threads,
        rows=tuple(rows),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A side before it has run."""

    is_ours: bool
    engine: str
    model: Path

    @property
    def label(self) -> str:
        return f"{'ours' if self.is_ours else 'baseline'}, {self.model.name}"


def _candidates(plan: Plan) -> list[_Candidate]:
    found = []
    for model in plan.models:
        if plan.baseline:
            if not (model / _NEEDED_BY_STOCK).is_file():
                raise BenchError(f"the baseline needs {model / _NEEDED_BY_STOCK}: --baseline none")
            found.append(_Candidate(is_ours=False, engine="", model=model))
        found += [
            _Candidate(is_ours=True, engine=engine_of(model, engine), model=model)
            for engine in plan.engines
        ]
    return found


def _measure(call: Call, candidate: _Candidate, threads: int, tell: OnProgress) -> Result:
    done = transcribe_apart(
        [call],
        module=OURS if candidate.is_ours else _STOCK,
        model=candidate.model,
        threads=threads,
        engine=candidate.engine,
        language=LANGUAGE,
        on_progress=tell,
    )
    return Result(
        condition=call.name,
        side=Side(is_ours=candidate.is_ours, engine=done.engine, model=candidate.model.name),
        errors=count_errors([call], done.heard),
        cpu_seconds=done.cost.cpu_seconds,
        peak_pss_bytes=done.cost.peak_pss_bytes,
    )


def _tell(
    line: ProgressLine, what: str, step: int, steps: int, share_done: float, *_: float
) -> None:
    line.tell(f"{(step + share_done) / steps:4.0%}, {what}")
