# SPDX-License-Identifier: Apache-2.0
"""What was measured of each model with each engine, and the choice of an engine by it.

Which commands measured it, on which sound and on which machine, is told in docs/models.md beside
the table that is made of this. Nothing stands here that was not measured.
"""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from callsd_daemon.models.manifest import Trial
from callsd_daemon.models.store import ModelStatus


LANGUAGE = "en"
"""Of the clips. How many errors there are in other languages was not measured."""

TRIAL_SECONDS = 6.554
"""Length of the sample that each model transcribes when it is pulled or verified."""


class Hearing(StrEnum):
    """How a speaker is heard: `clean`, `far`, `pink-10` and `babble-10` of the benchmark."""

    CLOSE = "close"
    FAR = "far"
    NOISE = "noise"
    VOICES = "voices"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One model with one engine."""

    word_errors: Mapping[Hearing, float]
    """Wrong, missing and added words over words said: CLOSE, and others that were measured."""
    cpu_seconds: float
    """Processor time for a second of a call, with one thread, loading the model included."""
    memory_bytes: int
    """Peak of the process, its share of shared pages (PSS)."""
    trial_cpu_seconds: float
    """Of the model's trial, on the machine on which the above was measured."""


def _measured(percent: tuple[float, ...], *, cpu: float, memory_mb: int, trial: float) -> Measured:
    rates = (round(each / 100, 4) for each in percent)
    return Measured(
        word_errors=MappingProxyType(dict(zip(Hearing, rates, strict=False))),
        cpu_seconds=cpu,
        memory_bytes=memory_mb * 1_000_000,
        trial_cpu_seconds=trial,
    )


MEASURED: Mapping[tuple[str, str], Measured] = MappingProxyType(
    {
        # close, far, noise, voices
        ("tiny.en", "ctranslate2"): _measured(
            (2.60, 15.2, 8.0, 9.8), cpu=0.0463, memory_mb=372, trial=0.18
        ),
        ("tiny.en", "whispercpp"): _measured((2.60,), cpu=0.1363, memory_mb=337, trial=0.72),
        ("base", "ctranslate2"): _measured(
            (2.19, 12.2, 5.2, 7.3), cpu=0.0678, memory_mb=441, trial=0.38
        ),
        ("base", "whispercpp"): _measured((2.33,), cpu=0.387, memory_mb=418, trial=1.55),
        ("moonshine-base", "onnx"): _measured((2.2, 12.9), cpu=0.067, memory_mb=354, trial=0.33),
    }
)


def engine_for(model: ModelStatus, language: str) -> str:
    """The engine that gets most words right for its processor time, of those the model has here.

    Those of a model that is not there are the ones that were measured. `language` empty: not known.
    """
    return min(
        model.engines or measured_engines(model.name),
        key=lambda engine: _cost_of_a_word(model, engine, language),
    )


def measured_engines(model: str) -> tuple[str, ...]:
    """Engines with which a model was measured; none of most models."""
    return tuple(engine for name, engine in MEASURED if name == model)


def cpu_seconds_here(model: ModelStatus, engine: str, slowness: float) -> float:
    """Processor time for a second of speech on this machine.

    By the model's own trial here, else by `slowness`. Of what was not measured there is only the
    trial.
    """
    trial, measured = _trial(model, engine), MEASURED.get((model.name, engine))
    if measured is None:
        return trial.cpu_seconds / TRIAL_SECONDS if trial else float("inf")
    if trial is not None:
        slowness = trial.cpu_seconds / measured.trial_cpu_seconds
    return measured.cpu_seconds * slowness


def slowness_here(models: Iterable[ModelStatus]) -> float | None:
    """How many times what it was measured with a trial takes here; None: no model has one."""
    ratios = [
        trial.cpu_seconds / measured.trial_cpu_seconds
        for model in models
        for engine in model.engines
        if (trial := _trial(model, engine)) and (measured := MEASURED.get((model.name, engine)))
    ]
    return statistics.median(ratios) if ratios else None


def _cost_of_a_word(model: ModelStatus, engine: str, language: str) -> float:
    cpu_seconds = cpu_seconds_here(model, engine, 1.0)
    measured = MEASURED.get((model.name, engine))
    # In another language nothing is known by which engines of one model would differ.
    if measured is None or language not in ("", LANGUAGE):
        return cpu_seconds
    return cpu_seconds / (1 - measured.word_errors[Hearing.CLOSE])


def _trial(model: ModelStatus, engine: str) -> Trial | None:
    if not model.engines or model.manifest is None:
        return None
    # Of the two files that whisper.cpp can have the faster one is used.
    trials = [trial for trial in model.manifest.trials if trial.engine == engine]
    return min(trials, key=lambda trial: trial.cpu_seconds, default=None)
