# SPDX-License-Identifier: Apache-2.0
"""Leaves a repeated phrase in a result as often as there is sound for it, at least once."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from callsd_worker.speech.engine import Recognised
from callsd_worker.speech.evidence.phrases import bare, repeated_phrases
from callsd_worker.speech.evidence.syllables import Peaks, syllables_of


_MISSED = 1.2
"""A phrase may have been said so many times as often as its syllables were found in the sound. Of
one word, which is said by itself each time, none are missed."""

_QUICK_TIMES = 5
"""A word said less often may be one bump of loudness, "no no no": without times it stays."""

_SLACK_SECONDS = 0.2
"""By so much may word times be wrong."""

_BRIEF = 0.5
"""A word that takes less than so much of its usual time was not said again. Where a decoder loops,
the time of one saying is shared out among several, and most of their words get none."""

_DOUBLE = 1.75
"""A saying that takes so many times the usual one is two: an aligner gives the time of one to
another, and none to the one whose it is."""

_TWICE = 2.0
"""So much longer than the other ones that have a time for each word is two, too: of two sayings, of
which one has the time of a third, no time is the usual one."""

_LEAST = 0.4
"""A saying that takes less of the usual time was not said, whichever of its words has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Repeat:
    """A phrase that is there again and again."""

    first: int
    """The word that it begins with."""
    length: int
    times: int
    text: str
    """Once."""

    @property
    def after(self) -> int:
        return self.first + self.length * self.times


def only_lasting(result: Recognised, peaks: Peaks) -> Recognised:
    """Each repeated phrase as often as its words have time, if they have times of their own.

    An aligner that gives the time of one saying to another is corrected by the other words of the
    phrase. One word alone has none: it stays as often as it has syllables, too.
    """

    def times_said(repeat: _Repeat) -> int:
        if repeat.length == 1:
            return _times_of_word(result, repeat, peaks)
        return _times_lasting(_lasting(result, repeat))

    return _only_said(result, times_said) if result.words and result.is_aligned else result


def lacks_sayings(result: Recognised) -> bool:
    """Whether a phrase was said more often than it is there, by the times of its words."""
    return result.is_aligned and any(
        repeat.length > 1 and _times_lasting(_lasting(result, repeat)) > repeat.times
        for repeat in _repeated([word.text for word in result.words])
    )


def _lasting(
    result: Recognised, repeat: _Repeat
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    words = result.words[repeat.first : repeat.after]
    lasting = np.array([word.end_seconds - word.start_seconds for word in words])
    return lasting.reshape(repeat.times, repeat.length)


def _times_lasting(seconds: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> int:
    """How often a phrase was said whose words last so long; a row for each time it is written.

    That word decides which was said most often: an aligner neglects the small ones.
    """
    usual = np.array([np.median(word[word > 0.0]) if word.any() else 0.0 for word in seconds.T])
    sayings = seconds.sum(axis=1)
    is_said = sayings > _LEAST * usual.sum()
    said = min(int((seconds > _BRIEF * usual).sum(axis=0).max()), int(is_said.sum()))
    is_whole = is_said & (seconds > 0.0).all(axis=1)
    for at in range(len(sayings)):
        others = np.delete(sayings, at)[np.delete(is_whole, at)]
        two = min([_DOUBLE * usual.sum(), *([_TWICE * np.median(others)] if others.size else [])])
        said += bool(sayings[at] >= two)
    return said


def only_sounding(result: Recognised, peaks: Peaks) -> Recognised:
    """Each repeated phrase as often as there are syllables for it; a word also as it has time."""

    def times_said(repeat: _Repeat) -> int:
        if repeat.length == 1:
            return _times_of_word(result, repeat, peaks)
        return round(_MISSED * _times_sounding(result, repeat, peaks))

    return _only_said(result, times_said)


def _times_of_word(result: Recognised, repeat: _Repeat, peaks: Peaks) -> int:
    said = round(_times_sounding(result, repeat, peaks))
    if result.words and result.is_aligned:
        return max(said, _times_lasting(_lasting(result, repeat)))
    return repeat.times if repeat.times < _QUICK_TIMES else said


def _times_sounding(result: Recognised, repeat: _Repeat, peaks: Peaks) -> float:
    """Syllables in the sound over those of the phrase."""
    near = peaks
    if words := result.words:
        begin = words[repeat.first].start_seconds - _SLACK_SECONDS if repeat.first else 0.0
        end = words[repeat.after].start_seconds if repeat.after < len(words) else math.inf
        near = peaks[(peaks >= begin) & (peaks < end + _SLACK_SECONDS)]
    return near.size / syllables_of(repeat.text)


def _only_said(result: Recognised, times_said: Callable[[_Repeat], int]) -> Recognised:
    # Where words are written without spaces, those with times are the words.
    is_timed = bool(result.words)
    texts = [word.text for word in result.words] if is_timed else result.text.split()
    dropped = set[int]()
    for repeat in _repeated(texts):
        kept = max(times_said(repeat), 1)
        dropped |= set(range(repeat.first + repeat.length * kept, repeat.after))
    if not dropped:
        return result
    kept_texts = [text for at, text in enumerate(texts) if at not in dropped]
    return replace(
        result,
        text=("" if is_timed else " ").join(kept_texts).strip(),
        words=tuple(word for at, word in enumerate(result.words) if at not in dropped),
    )


def _repeated(texts: Sequence[str]) -> Iterator[_Repeat]:
    for first, length, times in repeated_phrases([bare(text) for text in texts]):
        text = " ".join(texts[first : first + length])
        yield _Repeat(first=first, length=length, times=times, text=text)
