# SPDX-License-Identifier: Apache-2.0
"""Chooses among several attempts at one window. What was said again stays.

Only sound that is not there condemns words: too few syllables for them, or the model's own doubt.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from callsd_worker.speech.engine import Recognised
from callsd_worker.speech.loops import (
    bare,
    echo_length,
    find_repeats,
    is_invented,
    is_unsaid,
    repetitions,
)
from callsd_worker.speech.syllables import Peaks, is_countable, syllables_of


_FITTING = (0.7, 1.4)
"""Syllables of the words over those of the sound, if the words are the ones that were said."""

_MISSED = 1.2
"""A phrase may have been said so many times as often as its syllables were found in the sound."""

_SLACK_SECONDS = 0.2
"""By so much may word times be wrong."""


def choose(attempts: Sequence[Recognised], peaks: Peaks | None) -> Recognised | None:
    """The attempt to be believed, without repetitions that have no sound; None if none is.

    Without `peaks`, of a translation: the most probable one, rather one without repetitions.
    """
    credible = [attempt for attempt in attempts if attempt.text and not is_invented(attempt, peaks)]
    if not credible:
        return None
    if peaks is None:
        plain = [attempt for attempt in credible if find_repeats(attempt.text) is None]
        return max(plain or credible, key=lambda attempt: attempt.average_log_probability)
    sounding = [attempt for attempt in credible if not is_unsaid(attempt, peaks)]
    chosen = _best(sounding or credible, peaks)
    others = [attempt for attempt in attempts if attempt is not chosen]
    if fits(chosen, peaks) and any(confirms(chosen, other) for other in others):
        return chosen
    return _without_unsaid(chosen, peaks)


def fits(result: Recognised, peaks: Peaks) -> bool:
    """Whether there are about as many syllables in the words as in the sound."""
    least, most = _FITTING
    return is_countable(result.text) and least <= _fit(result, peaks) <= most


def confirms(one: Recognised, other: Recognised) -> bool:
    """Whether two attempts agree word by word.

    Equal to the last digit they are one computation made twice, by an engine that knows no other
    way, and confirm nothing.
    """
    return one.average_log_probability != other.average_log_probability and _bare_words(
        one
    ) == _bare_words(other)


def _best(attempts: Sequence[Recognised], peaks: Peaks) -> Recognised:
    is_compared = all(is_countable(attempt.text) for attempt in attempts)

    def merit(attempt: Recognised) -> float:
        misfit = abs(math.log(_fit(attempt, peaks))) if is_compared else 0.0
        return attempt.average_log_probability - misfit

    return max(attempts, key=merit)


def _fit(result: Recognised, peaks: Peaks) -> float:
    return (syllables_of(result.text) + 1) / (peaks.size + 1)


def _bare_words(result: Recognised) -> list[str]:
    return [bare(word) for word in result.text.split()]


def _without_unsaid(result: Recognised, peaks: Peaks) -> Recognised:
    """Each repeated phrase only as often as there is sound for it, at least once."""
    # Where words are written without spaces, those with times are the words.
    is_timed = bool(result.words)
    texts = [word.text for word in result.words] if is_timed else result.text.split()
    dropped = set[int]()
    for first, length, times in _repeated([bare(text) for text in texts]):
        after = first + length * times
        near = peaks
        if is_timed:
            begin = result.words[first].start_seconds - _SLACK_SECONDS if first else 0.0
            end = result.words[after].start_seconds if after < len(texts) else math.inf
            near = peaks[(peaks >= begin) & (peaks < end + _SLACK_SECONDS)]
        syllables = syllables_of(" ".join(texts[first : first + length]))
        kept = max(round(_MISSED * near.size / syllables), 1)
        dropped |= set(range(first + length * kept, after))
    if not dropped:
        return result
    kept_texts = [text for at, text in enumerate(texts) if at not in dropped]
    return replace(
        result,
        text=("" if is_timed else " ").join(kept_texts).strip(),
        words=tuple(word for at, word in enumerate(result.words) if at not in dropped),
    )


def _repeated(words: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    found = list(repetitions(words))
    yield from found
    length = echo_length(words)
    if length and not any(first + size * times == len(words) for first, size, times in found):
        yield len(words) - 2 * length, length, 2
