# SPDX-License-Identifier: Apache-2.0
"""The figures of `callsd bench captions`, ours and those of the baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from callsd_bench.captions.figures import (
    Shares,
    Shown,
    Slices,
    erased_ratio,
    first_word_delays,
    latencies,
    percentile,
    shares,
)
from callsd_bench.captions.viewers import Report as Viewers
from callsd_bench.shared.accuracy import HeardSegment, word_error_rate
from callsd_bench.shared.call import Call
from callsd_bench.shared.measure import Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Seconds from a sound to the caption that has it; None = some never got one."""

    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstWordDelay:
    """Seconds from the start of a turn to its first caption; None = some never got one."""

    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What went missing, as each side counts it."""

    skipped_seconds: float | None
    """Sound that the daemon says was left out. The baseline does not know: None."""
    windows_dropped: int
    """Baseline: windows thrown away. Ours: events that say that sound was left out."""
    buffer_full: int
    """Baseline: windows for which no recogniser was free. Ours: messages not taken at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one side did."""

    timely: Shares
    """Of speech: how much had its caption so soon after it was said."""
    latency: Latency
    first_word_delay: FirstWordDelay
    published: Shares
    """Of captions: how many brought no more new sound than that."""
    wer: float
    """Word error rate of what stayed, 0 is perfect."""
    erased_ratio: float
    captions: int
    counts: Counts
    pss_mb: float
    """Peak of all processes together. Unit: 10^6 bytes."""
    cores: float
    """Processor cores in use, on average."""
    cpu_percent: float
    """The same, of the whole machine."""

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        document = asdict(self)
        return {**document.pop("timely"), **document.pop("counts"), **document}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What there is to compute figures from."""

    captions: Sequence[Shown]
    new_audio_seconds: Sequence[float]
    """How much new sound each caption brought."""
    finals: Sequence[Sequence[HeardSegment]]
    """What stayed, for each call."""
    counts: Counts
    cost: Cost


def figures(
    call: Call, speech: Mapping[str, Slices], measured: Measured, *, machine_cores: float
) -> Figures:
    """Compute all figures; there are as many copies of `call` as lists of finals."""
    calls = len(measured.finals)
    late = latencies(speech, measured.captions, calls=calls)
    first = first_word_delays(call.turns, measured.captions, calls=calls)
    cores = measured.cost.cpu_seconds / measured.cost.wall_seconds
    return Figures(
        timely=_rounded(shares(late)),
        latency=Latency(
            p50=_milliseconds(percentile(late, 50)),
            p95=_milliseconds(percentile(late, 95)),
            p99=_milliseconds(percentile(late, 99)),
        ),
        first_word_delay=FirstWordDelay(
            p50=_milliseconds(percentile(first, 50)), p95=_milliseconds(percentile(first, 95))
        ),
        published=_rounded(shares(measured.new_audio_seconds)),
        wer=round(word_error_rate([call] * calls, measured.finals), 4),
        erased_ratio=round(erased_ratio(measured.captions), 4),
        captions=len(measured.captions),
        counts=measured.counts,
        pss_mb=round(measured.cost.peak_pss_bytes / 1e6, 1),
        cores=round(cores, 3),
        cpu_percent=round(100 * cores / machine_cores, 1),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """Figures of the daemon, and how it was measured."""

    figures: Figures
    finals: int
    lost_finals: int
    """Finals that the daemon counted but a viewer of the call never saw."""
    degraded: int
    """How often the daemon announced that captions are slower or simpler."""
    restarts: int
    """How often the captioning process had to be started again."""
    player_late_messages: int
    """Messages of sound that the benchmark itself sent too late: such a run proves nothing."""
    player_late_seconds: float
    """Worst case of these."""
    viewers: Viewers | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """Figures of the baseline."""

    figures: Figures
    packets_dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionsReport:
    """All figures of one run."""

    call: str
    calls: int
    seconds: float
    """Length of each call."""
    stagger_seconds: float
    model: str
    encoding: str
    ours: Ours
    baseline: Baseline | None
    baseline_error: str = ""
    """Why there is no baseline although one was wanted."""

    def as_json(self) -> dict[str, Any]:
        """For machines; `baseline` and `viewers` are null when there were none."""
        ours, baseline = self.ours, self.baseline
        extras = asdict(ours)
        del extras["figures"]
        return {
            "call": self.call,
            "calls": self.calls,
            "seconds": self.seconds,
            "stagger_seconds": self.stagger_seconds,
            "model": self.model,
            "encoding": self.encoding,
            **ours.figures.as_json(),
            **extras,
            "baseline": None
            if baseline is None
            else {**baseline.figures.as_json(), "packets_dropped": baseline.packets_dropped},
        }


def _rounded(values: Shares) -> Shares:
    return Shares(**{name: round(share, 4) for name, share in asdict(values).items()})


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
