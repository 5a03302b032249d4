# SPDX-License-Identifier: Apache-2.0
"""Which model hears best here, of those that were measured, at the load that is asked for."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from callsd_daemon.domain.captions import CaptionsSpec
from callsd_daemon.domain.costs import captioner_cost, captions_cost
from callsd_daemon.models.measured import (
    LANGUAGE,
    MEASURED,
    Hearing,
    cpu_seconds_here,
    engine_for,
    measured_engines,
    slowness_here,
)
from callsd_daemon.models.store import ModelState, ModelStatus


ALIKE = 0.005
"""Word error rates that differ by less say nothing: another batch size moves them by 0.002."""

HOURS_OF_A_DAY = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a machine is to do."""

    calls: int
    """Captioned at once; of the two who may talk, one talks at a time."""
    hours: float
    """Of speech that is transcribed in a day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One model, with the engine that it would get."""

    model: str
    engine: str
    is_present: bool
    word_errors: Mapping[Hearing, float]
    errors: float
    """Of these the ones that count: as most speakers are heard."""
    cpu_seconds: float
    """Here, for a second of speech in a transcription."""
    cores: float
    """For the load, the whole day."""
    memory_bytes: int
    """For the load: captioner and calls, and one transcription at a time."""


def choices(
    models: Iterable[ModelStatus], language: str, load: Load, hearing: Hearing
) -> tuple[Choice, ...]:
    """The models that know the language and were measured so, those that hear best first."""
    known = tuple(models)
    slowness = slowness_here(known) or 1.0
    found = [
        _choice(model, engine_for(model, language), load, hearing, slowness)
        for model in known
        if hearing in _errors(model.name) and (model.is_multilingual or language == LANGUAGE)
    ]
    return tuple(sorted(found, key=lambda choice: choice.errors))


def best(found: Sequence[Choice], *, cores: float, memory_bytes: int) -> Choice | None:
    """The one with the fewest errors that the machine carries; of those alike the cheapest.

    None: it carries none.
    """
    carried = [
        choice for choice in found if choice.cores <= cores and choice.memory_bytes <= memory_bytes
    ]
    if not carried:
        return None
    fewest = min(choice.errors for choice in carried)
    alike = [choice for choice in carried if choice.errors < fewest + ALIKE]
    return min(alike, key=lambda choice: choice.cores)


def _errors(model: str) -> Mapping[Hearing, float]:
    """With the engine first named: the same weights hear alike with each."""
    engines = measured_engines(model)
    return MEASURED[model, engines[0]].word_errors if engines else {}


def _choice(
    model: ModelStatus, engine: str, load: Load, hearing: Hearing, slowness: float
) -> Choice:
    measured = MEASURED[model.name, engine]
    word_errors = _errors(model.name)
    cpu_seconds = cpu_seconds_here(model, engine, slowness)
    cores = load.hours / HOURS_OF_A_DAY * cpu_seconds
    memory_bytes = measured.memory_bytes if load.hours else 0
    if load.calls:
        call = captions_cost(CaptionsSpec(model=model.name), ())
        cores += load.calls * call.cores
        memory_bytes += captioner_cost(model.name).memory_bytes + load.calls * call.memory_bytes
    return Choice(
        model=model.name,
        engine=engine,
        is_present=model.state is ModelState.PRESENT,
        word_errors=word_errors,
        errors=word_errors[hearing],
        cpu_seconds=cpu_seconds,
        cores=cores,
        memory_bytes=memory_bytes,
    )
