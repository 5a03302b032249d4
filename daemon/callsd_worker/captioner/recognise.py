# SPDX-License-Identifier: Apache-2.0
"""Passes in, believable words out. Safe from several threads if the engine is."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from callsd_worker.captioner.decoding import DecodeWindow, Result
from callsd_worker.speech.engine import DecodeOptions, Encoded, Engine, Recognised
from callsd_worker.speech.loops import Flaw, find_flaw, without_repeats


PADDED_SECONDS = (7.68, 10.24, 30.0)
"""Lengths that windows are filled up to with silence. The encoder's cost grows with them, but
below the first the decoder tends to loop …"""
FINAL_PADDED_SECONDS = (10.24, 30.0)
"""… and below this one it makes a few more errors, which the next interim pass corrects."""

TAIL_SECONDS = 0.5
"""Silence after the last word: without it the decoder is unsure that speech has ended."""

TOKENS_PER_SECOND = 8
SPARE_TOKENS = 8
"""Bound of a decode: fast speech has 5 tokens a second in English. A loop ends there."""

FINAL_BEAM_SIZE = 3

RETRY_REPETITION_PENALTY = 1.15
"""Takes most loops away, in the time of a decode: the window is encoded already."""
RETRY_PADDED_SECONDS = 30.0
"""Windows were always this long in training: the safest padding, and the dearest. Final words are
worth it at once; interim ones after a pass has failed, as the next one is there sooner."""

DOUBTFUL_TOKENS = 4
"""The first word or two of an utterance are always uncertain: the next pass will tell."""

CLIPPED_SECONDS = 0.6
"""A short window has little silence around its words: this much less than rates of words are
made for."""

UNKNOWN_LANGUAGE = "en"


def recognise(engine: Engine, passes: Sequence[DecodeWindow]) -> list[Result]:
    """Recognise windows, in one call as far as they are of one kind.

    A result that looks wrong is tried once more, more carefully; what still looks wrong then is
    not believed, or at the end of a segment only once. Words where nobody speaks become no words.
    """
    padded_seconds = _padded_seconds(passes)
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
            heard[index] = _believed(engine, passes[index], language, result, encoded[index])
    return [
        Result(heard=heard[index], language=languages[index], languages=probabilities[index])
        for index in range(len(passes))
    ]


def _options(group: Sequence[DecodeWindow], language: str) -> DecodeOptions:
    return DecodeOptions(
        language=language,
        beam_size=FINAL_BEAM_SIZE if group[0].is_final else 1,
        is_word_timed=any(window.needs_word_times for window in group),
        max_tokens=int(max(window.seconds for window in group) * TOKENS_PER_SECOND) + SPARE_TOKENS,
    )


def _believed(
    engine: Engine, window: DecodeWindow, language: str, first: Recognised, encoded: Encoded
) -> Recognised | None:
    if _flaw(window, first) is None:
        return first
    if window.is_final or window.is_doubted:
        encoded = engine.encode(window.samples, padded_seconds=RETRY_PADDED_SECONDS)
    options = replace(_options([window], language), repetition_penalty=RETRY_REPETITION_PENALTY)
    again = engine.recognise([encoded], options)[0]
    match _flaw(window, again):
        case None:
            return again
        case Flaw.NO_SPEECH:
            return replace(again, text="", words=(), token_count=0)
        case _:
            # Of an interim the last one is better. After a final nothing comes any more.
            return _said_once(again) if window.is_final else None


def _said_once(heard: Recognised) -> Recognised:
    """Without the repetitions of a loop."""
    words = heard.text.split()
    return replace(heard, text=" ".join(without_repeats(words, words)), words=())


def _flaw(window: DecodeWindow, heard: Recognised) -> Flaw | None:
    if not window.is_final and heard.token_count <= DOUBTFUL_TOKENS:
        return None
    return find_flaw(
        heard,
        seconds=window.seconds + CLIPPED_SECONDS,
        voiced_seconds=window.voiced_seconds,
    )


def _padded_seconds(passes: Sequence[DecodeWindow]) -> float:
    wanted = max(window.seconds for window in passes) + TAIL_SECONDS
    is_final = any(window.is_final for window in passes)
    lengths = FINAL_PADDED_SECONDS if is_final else PADDED_SECONDS
    return next((length for length in lengths if length >= wanted), lengths[-1])
