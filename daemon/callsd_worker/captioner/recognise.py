# SPDX-License-Identifier: Apache-2.0
"""Recognises windows and rejects implausible words. As thread-safe as the engine is."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from callsd_worker.captioner.decoding import DecodeWindow, Result
from callsd_worker.speech.engine import TRAINED_SECONDS, DecodeOptions, Encoded, Engine, Recognised
from callsd_worker.speech.evidence.choice import choose, confirms, fits
from callsd_worker.speech.evidence.crowd import is_of_crowd
from callsd_worker.speech.evidence.flaws import REPEATS, Flaw, find_flaw
from callsd_worker.speech.evidence.pieces import completed
from callsd_worker.speech.evidence.syllables import Peaks, syllables_in


PADDED_SECONDS = (7.68, 10.24, TRAINED_SECONDS)
"""Lengths that windows are filled up to with silence. The encoder's cost grows with them, but
below the first the decoder tends to loop …"""
FINAL_PADDED_SECONDS = (10.24, TRAINED_SECONDS)
"""… and below this one it makes a few more errors, which the next interim pass corrects."""

TAIL_SECONDS = 0.5
"""Silence after the last word: without it the decoder is unsure that speech has ended."""

TOKENS_PER_SECOND = 8
SPARE_TOKENS = 8
"""Limit of tokens for a window: fast English speech has 5 a second. A loop ends here."""

FINAL_BEAM_SIZE = 3

RETRY_REPETITION_PENALTY = 1.15
"""Avoids most loops at the cost of one decode: the window is encoded already. Not for final words:
it avoids what was really said again, too."""
DOUBTFUL_TOKENS = 4
"""Results of so few tokens are not checked: first words are always uncertain, and the next pass
corrects them."""

CLIPPED_SECONDS = 0.6
"""Added to a window's length for the check of speech rates, whose limits allow for more silence
around words than these windows have."""

UNKNOWN_LANGUAGE = "en"


def recognise(engine: Engine, passes: Sequence[DecodeWindow]) -> list[Result]:
    """Recognise windows, those of one language and kind together.

    A result that looks wrong is retried once, more carefully. If it still looks wrong, an interim
    result is rejected, and of a final one the better attempt is used, without repetitions for which
    there is no sound; with too few words for its voice it is heard once more, in pieces. Words
    where nobody speaks become an empty text.
    """
    padded_seconds = _padded_seconds(passes)
    encoded = [engine.encode(window.samples, padded_seconds=padded_seconds) for window in passes]
    probabilities = [
        engine.detect_language([item])[0]
        if engine.is_multilingual and (window.needs_language or not window.language)
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
    accepted: dict[int, Recognised | None] = {}
    for (language, _), indices in alike.items():
        group = [passes[index] for index in indices]
        for index, result in zip(
            indices,
            engine.recognise([encoded[index] for index in indices], _options(group, language)),
            strict=True,
        ):
            accepted[index] = _accepted(engine, passes[index], language, result, encoded[index])
    return [
        Result(
            recognised=accepted[index], language=languages[index], languages=probabilities[index]
        )
        for index in range(len(passes))
    ]


def _options(group: Sequence[DecodeWindow], language: str) -> DecodeOptions:
    return DecodeOptions(
        language=language,
        beam_size=FINAL_BEAM_SIZE if group[0].is_final else 1,
        # Whether to show the last words, and where to cut; final ones are told whole.
        is_word_timed=not group[0].is_final,
        max_tokens=int(max(window.seconds for window in group) * TOKENS_PER_SECOND) + SPARE_TOKENS,
    )


def _accepted(
    engine: Engine, window: DecodeWindow, language: str, first: Recognised, encoded: Encoded
) -> Recognised | None:
    peaks = syllables_in(window.samples)
    flaw = _flaw(window, first, peaks)
    if flaw is None:
        return first
    if window.is_final and flaw in REPEATS:
        # What was not said again is told by the times of words; final ones are recognised without.
        timed = replace(_options([window], language), is_word_timed=True)
        first = engine.recognise([encoded], timed)[0]
    # Interim words get the slow padding only after a pass was rejected: the next pass comes soon.
    if window.is_final or window.was_rejected:
        encoded = engine.encode(window.samples, padded_seconds=TRAINED_SECONDS)
    options = _options([window], language)
    if not window.is_final:
        options = replace(options, repetition_penalty=RETRY_REPETITION_PENALTY)
    elif flaw in REPEATS:
        # A wide search prefers short results: of a word said seven times it keeps five.
        options = replace(options, beam_size=1)
    again = engine.recognise([encoded], replace(options, is_word_timed=True))[0]
    match _flaw(window, again, peaks):
        case None:
            attempts = [first, again] if flaw in REPEATS else [again]
        case Flaw.NO_SPEECH:
            return again.without_words()
        case found if (
            window.is_final
            and is_of_crowd(again, found, window.samples)
            and not confirms(first, again)
        ):
            return again.without_words()
        case _ if window.is_final:
            attempts = [first, again]
        case _:
            # Instead of a bad interim the last one stays. A final has no next pass.
            return None
    return _believed(engine, window, attempts, peaks, options)


def _believed(
    engine: Engine,
    window: DecodeWindow,
    attempts: Sequence[Recognised],
    peaks: Peaks,
    options: DecodeOptions,
) -> Recognised | None:
    """What is to be believed of attempts at a window, the last with these options."""
    chosen = choose(attempts, peaks)
    if not window.is_final:
        return chosen
    if chosen is None:
        # Final words of which nothing is to be believed are none: those shown before are none, too.
        return attempts[-1].without_words()
    return completed(
        engine,
        window.samples,
        chosen,
        attempts,
        replace(options, beam_size=FINAL_BEAM_SIZE),
        peaks=peaks,
        padded_seconds=FINAL_PADDED_SECONDS[0],
    )


def _flaw(window: DecodeWindow, result: Recognised, peaks: Peaks) -> Flaw | None:
    if not window.is_final and result.token_count <= DOUBTFUL_TOKENS:
        return None
    flaw = find_flaw(
        result,
        seconds=window.seconds + CLIPPED_SECONDS,
        voiced_seconds=window.voiced_seconds,
        peaks=peaks,
    )
    if not window.is_final and (flaw is Flaw.SKIPPED or (flaw in REPEATS and fits(result, peaks))):
        return None  # The next pass hears it again; what fits the sound was said again.
    return flaw


def _padded_seconds(passes: Sequence[DecodeWindow]) -> float:
    wanted = max(window.seconds for window in passes) + TAIL_SECONDS
    is_final = any(window.is_final for window in passes)
    lengths = FINAL_PADDED_SECONDS if is_final else PADDED_SECONDS
    return next((length for length in lengths if length >= wanted), lengths[-1])
