# SPDX-License-Identifier: Apache-2.0
"""Hears speech again in pieces, cut where it is softest, if it has too few words for its voice.

Of a sentence said several times in a row a decoder may write one or two. Alone each is heard.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.engine import DecodeOptions, Engine, Recognised
from callsd_worker.speech.evidence.choice import choose, confirms, fits, misfit
from callsd_worker.speech.evidence.crowd import is_crowd
from callsd_worker.speech.evidence.flaws import MIN_PEAKS_FOR_OMISSION, is_unsaid
from callsd_worker.speech.evidence.gaps import find_gap
from callsd_worker.speech.evidence.repeats import lacks_sayings
from callsd_worker.speech.evidence.syllables import (
    LEVELS_PER_SECOND,
    Peaks,
    is_countable,
    levels,
    syllables_of,
)


PIECE_SECONDS = 2.0
"""Cut into pieces of up to 2 s, 116 sentences and words said again in 30 utterances were all heard
(`base`), of 2.5 s all but one."""

MAX_SECONDS = 12.0
"""Of more the pieces would take far longer than all attempts before."""

_SHORTEST_SECONDS = 0.6

_FEWEST = 2
"""One alone is what was heard before, without the care of its attempts."""

_SMOOTH_SECONDS = 0.08
"""Shorter than that is the closure of a consonant, not a pause."""

_FEW_SYLLABLES_PER_PEAK = 0.85
"""What was heard again for a reason, and has fewer, may lack something."""

_MORE_SYLLABLES = 1.15
"""With fewer times as many syllables pieces tell nothing new; seven sayings instead of six are
more."""

_SURE_LOG_PROBABILITY = -1.0
"""Below it pieces are guesses."""


def completed(
    engine: Engine,
    samples: Samples,
    chosen: Recognised,
    attempts: Sequence[Recognised],
    options: DecodeOptions,
    *,
    peaks: Peaks,
    padded_seconds: float,
) -> Recognised:
    """What was chosen of the attempts, or what the pieces of the sound tell better.

    `peaks` are the syllables of the sound, `padded_seconds` is for each piece.
    """
    if samples.size > MAX_SECONDS * SAMPLE_RATE_HZ or not _lacks_words(chosen, peaks):
        return chosen
    # Of one voice among others the syllables of all are counted.
    if is_crowd(samples):
        return chosen
    heard = _heard_in_pieces(engine, samples, peaks, options, padded_seconds=padded_seconds)
    if heard is None or heard.average_log_probability < _SURE_LOG_PROBABILITY:
        return chosen
    is_more = syllables_of(heard.text) >= _MORE_SYLLABLES * syllables_of(chosen.text)
    is_better = misfit(heard, peaks) < misfit(chosen, peaks) or (
        lacks_sayings(chosen) and fits(heard, peaks)
    )
    if (is_more and is_better) or any(confirms(heard, attempt) for attempt in attempts):
        return choose([heard], peaks) or chosen
    return chosen


def _lacks_words(result: Recognised, peaks: Peaks) -> bool:
    """Whether something may be missing, in a result that looked wrong before."""
    is_few = (
        peaks.size >= MIN_PEAKS_FOR_OMISSION
        and is_countable(result.text)
        and syllables_of(result.text) < _FEW_SYLLABLES_PER_PEAK * peaks.size
    )
    return is_few or lacks_sayings(result) or find_gap(result.words, peaks) is not None


def _heard_in_pieces(
    engine: Engine,
    samples: Samples,
    peaks: Peaks,
    options: DecodeOptions,
    *,
    padded_seconds: float,
) -> Recognised | None:
    """The words of all pieces that have a voice, with times; None if none are to be believed."""
    # A piece is short: what is said beside it, and limits for all of it, do not fit.
    options = replace(options, hints="", is_word_timed=True, max_tokens=0)
    pieces = _voiced_pieces(samples, peaks)
    if len(pieces) < _FEWEST:
        return None
    heard: list[tuple[float, Recognised]] = []
    for at in range(0, len(pieces), engine.batch_windows):
        batch = pieces[at : at + engine.batch_windows]
        encoded = [
            engine.encode(samples[first:after], padded_seconds=padded_seconds)
            for first, after, _ in batch
        ]
        results = engine.recognise(encoded, options)
        for (first, _, sounding), result in zip(batch, results, strict=True):
            chosen = choose([result], sounding)
            if chosen is not None and not is_unsaid(chosen, sounding):
                heard.append((first / SAMPLE_RATE_HZ, chosen))
    return _joined(heard) if heard else None


def _voiced_pieces(samples: Samples, peaks: Peaks) -> list[tuple[int, int, Peaks]]:
    """First sample, and after the last; with the syllables, in the piece's time."""
    pieces = []
    for first, after in pairwise(_cuts(samples)):
        start, end = first / SAMPLE_RATE_HZ, after / SAMPLE_RATE_HZ
        sounding = peaks[(peaks >= start) & (peaks < end)] - start
        if sounding.size:
            pieces.append((first, after, sounding))
    return pieces


def _cuts(samples: Samples) -> list[int]:
    """Where the pieces begin and end: the longest are cut where they are softest."""
    width = round(_SMOOTH_SECONDS * LEVELS_PER_SECOND)
    loudness = np.convolve(10.0 ** (levels(samples) / 20.0), np.ones(width) / width, mode="same")

    def cut(first: int, after: int) -> list[int]:
        if after - first <= PIECE_SECONDS * LEVELS_PER_SECOND:
            return [after]
        edge = round(_SHORTEST_SECONDS * LEVELS_PER_SECOND)
        at = first + edge + int(np.argmin(loudness[first + edge : after - edge]))
        return [*cut(first, at), *cut(at, after)]

    hops = [0, *cut(0, loudness.size)][:-1]
    return [*(round(hop / LEVELS_PER_SECOND * SAMPLE_RATE_HZ) for hop in hops), samples.size]


def _joined(heard: Sequence[tuple[float, Recognised]]) -> Recognised:
    """One result of those that begin at so many seconds."""
    results = [result for _, result in heard]
    weights = [result.token_count for result in results]
    words = tuple(
        replace(
            word, start_seconds=word.start_seconds + start, end_seconds=word.end_seconds + start
        )
        for start, result in heard
        for word in result.words
    )
    return Recognised(
        text="".join(word.text for word in words).strip()
        if all(result.words for result in results)
        else " ".join(result.text for result in results),
        words=words,
        token_count=sum(weights),
        average_log_probability=float(
            np.average([result.average_log_probability for result in results], weights=weights)
        ),
        no_speech_probability=max(result.no_speech_probability for result in results),
        guess_log_probability=results[0].guess_log_probability,
        is_aligned=all(result.is_aligned for result in results),
    )
