# SPDX-License-Identifier: Apache-2.0
"""Passes in, believable words out. Safe from several threads if the engine is."""

from collections import defaultdict
from collections.abc import Sequence

from callsd_worker.captioner.passes import Pass, Result
from callsd_worker.speech.engine import DecodeOptions, Engine, Recognised
from callsd_worker.speech.loops import find_flaw


PADDED_SECONDS = (10.24, 30.0)
"""Lengths that windows are filled up to with silence. The encoder's cost grows with them, but
below the first the decoder tends to loop."""

TAIL_SECONDS = 0.5
"""Silence after the last word: without it the decoder is unsure that speech has ended."""

TOKENS_PER_SECOND = 8
SPARE_TOKENS = 8
"""Bound of a decode: fast speech has 5 tokens a second in English. A loop ends there."""

FINAL_BEAM_SIZE = 3

RETRY_TEMPERATURE = 0.4
"""A little randomness leaves a loop that every greedy path runs into."""

UNKNOWN_LANGUAGE = "en"


def recognise(engine: Engine, passes: Sequence[Pass]) -> list[Result]:
    """Recognise windows, in one call as far as they are of one kind.

    A result that looks wrong is tried once more, more carefully; what still looks wrong then is
    believed only if it must be: in a final pass.
    """
    padded_seconds = _padded_seconds(max(window.seconds for window in passes))
    encoded = [engine.encode(window.samples, padded_seconds=padded_seconds) for window in passes]
    probabilities = [
        engine.detect_language([item])[0]
        if engine.is_multilingual and (window.is_language_asked or not window.language)
        else {}
        for item, window in zip(encoded, passes, strict=True)
    ]
    languages = [
        window.language or (max(odds, key=odds.__getitem__) if odds else UNKNOWN_LANGUAGE)
        for window, odds in zip(passes, probabilities, strict=True)
    ]
    alike: dict[tuple[str, bool], list[int]] = defaultdict(list)
    for index, window in enumerate(passes):
        alike[languages[index], window.is_final].append(index)
    heard: dict[int, Recognised | None] = {}
    for (language, _), indices in alike.items():
        group = [passes[index] for index in indices]
        for index, result in zip(
            indices,
            engine.recognise([encoded[index] for index in indices], _options(group, language)),
            strict=True,
        ):
            heard[index] = _believed(engine, passes[index], language, result)
    return [
        Result(heard=heard[index], language=languages[index], languages=probabilities[index])
        for index in range(len(passes))
    ]


def _options(group: Sequence[Pass], language: str, temperature: float = 0.0) -> DecodeOptions:
    return DecodeOptions(
        language=language,
        beam_size=FINAL_BEAM_SIZE if group[0].is_final else 1,
        temperature=temperature,
        is_word_timed=any(window.needs_word_times for window in group),
        max_tokens=int(max(window.seconds for window in group) * TOKENS_PER_SECOND) + SPARE_TOKENS,
    )


def _believed(engine: Engine, window: Pass, language: str, first: Recognised) -> Recognised | None:
    if _is_sound(window, first):
        return first
    encoded = engine.encode(window.samples, padded_seconds=PADDED_SECONDS[-1])
    again = engine.recognise([encoded], _options([window], language))[0]
    return again if _is_sound(window, again) else None


def _is_sound(window: Pass, heard: Recognised) -> bool:
    flaw = find_flaw(heard, seconds=window.seconds, voiced_seconds=window.voiced_seconds)
    return flaw is None


def _padded_seconds(seconds: float) -> float:
    wanted = seconds + TAIL_SECONDS
    return next((padded for padded in PADDED_SECONDS if padded >= wanted), PADDED_SECONDS[-1])
