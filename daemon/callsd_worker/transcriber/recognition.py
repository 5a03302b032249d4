# SPDX-License-Identifier: Apache-2.0
"""Recognises windows, and listens again with more care where the result looks wrong."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from callsd_worker.media.sound import SAMPLE_RATE_HZ
from callsd_worker.speech.engine import (
    TRAINED_SECONDS,
    DecodeOptions,
    Encoded,
    Engine,
    Recognised,
    TimedWord,
)
from callsd_worker.speech.evidence.choice import choose, confirms, fits
from callsd_worker.speech.evidence.crowd import is_of_crowd
from callsd_worker.speech.evidence.flaws import REPEATS, Flaw, find_flaw
from callsd_worker.speech.evidence.gaps import Gap, filled, find_gap
from callsd_worker.speech.evidence.pieces import PIECE_SECONDS, completed
from callsd_worker.speech.evidence.syllables import Peaks, syllables_in, syllables_of
from callsd_worker.speech.voice.windows import Window


WindowResult = tuple[Window, Recognised]

RETRY_BEAM_SIZE = 5
RETRY_TEMPERATURE = 0.4
"""For the last retry: a little randomness escapes loops that the most probable words lead into."""


def recognise(
    engine: Engine,
    windows: Sequence[Window],
    encoded: Sequence[Encoded],
    options: DecodeOptions,
    on_window: Callable[[], None],
) -> list[list[WindowResult]]:
    """Recognise encoded windows; listen again to those that look wrong, one by one.

    Returns a list for each window: usually with one entry, after a retry with one for each of its
    utterances.
    """
    results: list[list[WindowResult]] = []
    for window, result in zip(windows, engine.recognise(encoded, options), strict=True):
        on_window()
        flaw = _flaw(window, result, _peaks(window, options))
        if flaw is None:
            results.append([(window, result)])
            continue
        attempts = [result] if len(window.pieces) == 1 else []
        results.append(
            [
                (part, _listen_again(engine, part, attempts, options, flaw=flaw, tell=on_window))
                for part in window.unpacked()
            ]
        )
    return results


def _listen_again(
    engine: Engine,
    part: Window,
    before: Sequence[Recognised],
    options: DecodeOptions,
    *,
    flaw: Flaw,
    tell: Callable[[], None],
) -> Recognised:
    """What is to be believed of one utterance; without words if nothing is."""
    peaks = _peaks(part, options)
    attempts = list(before)
    encoded = engine.encode(part.samples, padded_seconds=TRAINED_SECONDS)
    for careful in _ways(flaw, options):
        attempts += engine.recognise([encoded], careful)
        tell()
        found = _flaw(part, attempts[-1], peaks)
        if _is_settled(attempts, peaks, flaw, found):
            break
        # What is sampled afterwards is less sure in any case.
        if not careful.temperature and is_of_crowd(attempts[-1], found, part.samples):
            return attempts[-1].without_words()
    chosen = choose(attempts, peaks)
    if chosen is None:
        return attempts[-1].without_words()
    if peaks is None:
        return chosen
    gap = find_gap(chosen.words, peaks)
    return completed(
        engine,
        part.samples,
        chosen if gap is None else _fill(engine, part, chosen, gap, options),
        attempts,
        options,
        peaks=peaks,
        padded_seconds=engine.padded_seconds(PIECE_SECONDS),
    )


def _fill(
    engine: Engine, part: Window, result: Recognised, gap: Gap, options: DecodeOptions
) -> Recognised:
    """Listen to the sound of a gap alone; what is heard there is put in if it is to be believed."""
    end_seconds = min(gap.end_seconds, part.seconds)
    samples = part.samples[
        int(gap.start_seconds * SAMPLE_RATE_HZ) : int(end_seconds * SAMPLE_RATE_HZ)
    ]
    encoded = engine.encode(samples, padded_seconds=TRAINED_SECONDS)
    careful = replace(options, beam_size=RETRY_BEAM_SIZE)
    heard = choose(engine.recognise([encoded], careful), syllables_in(samples))
    if heard is None or syllables_of(_text_of(heard.words)) <= syllables_of(
        _text_of(result.words[gap.first : gap.after])
    ):
        return result
    return filled(result, gap, heard)


def _text_of(words: Sequence[TimedWord]) -> str:
    return "".join(word.text for word in words)


def _ways(flaw: Flaw, options: DecodeOptions) -> tuple[DecodeOptions, DecodeOptions]:
    # A wide search prefers short results: of a word said seven times it keeps five.
    beam_size = 1 if flaw in REPEATS else RETRY_BEAM_SIZE
    return (
        replace(options, beam_size=beam_size),
        replace(options, temperature=RETRY_TEMPERATURE),
    )


def _is_settled(
    attempts: Sequence[Recognised], peaks: Peaks | None, first_flaw: Flaw, last_flaw: Flaw | None
) -> bool:
    """Whether the last attempt needs no other one."""
    last = attempts[-1]
    match last_flaw:
        case None:
            return peaks is None or first_flaw not in REPEATS or fits(last, peaks)
        case Flaw.LOOP | Flaw.ECHO if peaks is not None:
            return fits(last, peaks) and any(confirms(last, other) for other in attempts[:-1])
        case _:
            return False


def _peaks(window: Window, options: DecodeOptions) -> Peaks | None:
    # A translation has other syllables than the sound, in other places.
    return None if options.task == "translate" else syllables_in(window.samples)


def _flaw(window: Window, result: Recognised, peaks: Peaks | None) -> Flaw | None:
    return find_flaw(
        result, seconds=window.seconds, voiced_seconds=window.voiced_seconds, peaks=peaks
    )
