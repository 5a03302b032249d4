# SPDX-License-Identifier: Apache-2.0
"""Recognises windows, and retries with more care where the result looks wrong."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from callsd_worker.speech.engine import DecodeOptions, Encoded, Engine, Recognised
from callsd_worker.speech.loops import Flaw, find_flaw, is_invented, without_repeats
from callsd_worker.speech.windows import Window


WindowResult = tuple[Window, Recognised]

TRAINED_SECONDS = 30.0
"""All windows in training had this length: the safest padding, and the slowest."""

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
    """Recognise encoded windows; retry those that look wrong, one by one and ever more carefully.

    Returns a list for each window: usually with one entry, after a retry with one for each of its
    utterances.
    """
    results: list[list[WindowResult]] = []
    for window, result in zip(windows, engine.recognise(encoded, options), strict=True):
        on_window()
        if _flaw(window, result) is None:
            results.append([(window, result)])
        else:
            results.append(_retry(engine, window, result, options, on_window))
    return results


def _retry(
    engine: Engine,
    window: Window,
    first: Recognised,
    options: DecodeOptions,
    on_window: Callable[[], None],
) -> list[WindowResult]:
    results: list[WindowResult] = []
    for part in window.unpacked():
        attempts = [first] if len(window.pieces) == 1 else []
        for careful in (
            replace(options, beam_size=RETRY_BEAM_SIZE),
            replace(options, temperature=RETRY_TEMPERATURE),
        ):
            encoded = engine.encode(part.samples, padded_seconds=TRAINED_SECONDS)
            attempts += engine.recognise([encoded], careful)
            on_window()
            if _flaw(part, attempts[-1]) is None:
                break
        results.append((part, _best(part, attempts)))
    return results


def _best(window: Window, attempts: Sequence[Recognised]) -> Recognised:
    """The last attempt if it has no flaw; else the most credible one, without repetitions."""
    last = attempts[-1]
    if _flaw(window, last) is None:
        return last
    credible = [attempt for attempt in attempts if not is_invented(attempt)]
    if not credible:
        return replace(last, text="", words=(), token_count=0)
    # Omitted speech is worse than repeated speech, which can be cut out.
    complete = [item for item in credible if _flaw(window, item) != Flaw.OMISSION] or credible
    chosen = max(complete, key=lambda attempt: attempt.average_log_probability)
    words = without_repeats(chosen.words, [word.text for word in chosen.words])
    if len(words) == len(chosen.words):
        return chosen
    return replace(chosen, words=tuple(words), text="".join(word.text for word in words).strip())


def _flaw(window: Window, result: Recognised) -> Flaw | None:
    return find_flaw(result, seconds=window.seconds, voiced_seconds=window.voiced_seconds)
