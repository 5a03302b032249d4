# SPDX-License-Identifier: Apache-2.0
"""Finds speech that was skipped in the middle of a window: voice for which there are no words."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from callsd_worker.speech.engine import Recognised, TimedWord
from callsd_worker.speech.evidence.phrases import bare, repeated_phrases
from callsd_worker.speech.evidence.syllables import Peaks, is_countable, syllables_of


_PEAKS_PER_SYLLABLE = 1.5
"""Words may have so many syllables in the sound for each written one. Real ones seldom have more,
and word times move some from one word to the next."""

_MIN_EXCESS = 5.0
"""A stretch with so many more was skipped. In 44 utterances of human and synthetic speech there
were at most 2.5 more; with a sentence taken out, at least 4.5, and 5 in 55 of 57 cases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A stretch in which more was said than its words have."""

    first: int
    after: int
    """The words that are said to fill it: from `first` to before `after`."""
    start_seconds: float
    end_seconds: float
    """In the window; infinite if it lasts to the window's end."""


def find_gap(words: Sequence[TimedWord], peaks: Peaks) -> Gap | None:
    """The largest gap, if there is one. An aligner gives what was skipped to the words around."""
    if not is_countable("".join(word.text for word in words)):
        return None
    largest, best = None, _MIN_EXCESS
    excess, first = 0.0, 0
    for at, after in _timed(words, peaks):
        if excess <= 0.0:
            excess, first = 0.0, at
        excess += _excess(words, at, after, peaks)
        if excess >= best:
            best = excess
            largest = Gap(
                first=first,
                after=after,
                start_seconds=_begin(words, first),
                end_seconds=_begin(words, after),
            )
    return largest


def _timed(words: Sequence[TimedWord], peaks: Peaks) -> Iterator[tuple[int, int]]:
    """What has a time of its own, as (first word, after it): each word, what repeats as a whole.

    Among the times that a phrase is said an aligner confuses them: one gets the time of two. Where
    all of them together are too few it is some word among them that has the time of the rest.
    """
    ends = {
        first: first + length * times
        for first, length, times in repeated_phrases([bare(word.text) for word in words])
        if _excess(words, first, first + length * times, peaks) < _MIN_EXCESS
    }
    at = 0
    while at < len(words):
        after = ends.get(at, at + 1)
        yield at, after
        at = after


def _excess(words: Sequence[TimedWord], at: int, after: int, peaks: Peaks) -> float:
    """How many more syllables are in the time of these words than they may have."""
    start, end = _begin(words, at), _begin(words, after)
    said = int(((peaks >= start) & (peaks < end)).sum())
    written = sum(syllables_of(word.text) for word in words[at:after])
    return said - _PEAKS_PER_SYLLABLE * written


def filled(result: Recognised, gap: Gap, heard: Recognised) -> Recognised:
    """A result with what was `heard` in the gap alone, instead of the words that were there."""
    words = (
        *result.words[: gap.first],
        *(
            replace(
                word,
                start_seconds=word.start_seconds + gap.start_seconds,
                end_seconds=word.end_seconds + gap.start_seconds,
            )
            for word in heard.words
        ),
        *result.words[gap.after :],
    )
    return replace(result, words=words, text="".join(word.text for word in words).strip())


def _begin(words: Sequence[TimedWord], at: int) -> float:
    """Where a word begins; the first and the last reach to the window's ends."""
    if at == 0:
        return 0.0
    return words[at].start_seconds if at < len(words) else math.inf
