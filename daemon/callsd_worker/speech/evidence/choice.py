# SPDX-License-Identifier: Apache-2.0
"""Chooses among several attempts at one window. What was said again stays.

Only sound that is not there condemns words: too few syllables for them, no time, or the model's own
doubt.
"""

import math
from collections.abc import Sequence

from callsd_worker.speech.engine import Recognised
from callsd_worker.speech.evidence.flaws import find_repeats, is_invented, is_unsaid
from callsd_worker.speech.evidence.phrases import bare
from callsd_worker.speech.evidence.repeats import lacks_sayings, only_lasting, only_sounding
from callsd_worker.speech.evidence.syllables import Peaks, is_countable, syllables_of


_FITTING = (0.7, 1.4)
"""Syllables of the words over those of the sound, if the words are the ones that were said."""


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
    sounding = [attempt for attempt in credible if not is_unsaid(attempt, peaks)] or credible
    whole = [attempt for attempt in sounding if not lacks_sayings(attempt)]
    chosen = _best(whole or sounding, peaks)
    others = [attempt for attempt in attempts if attempt is not chosen]
    is_certain = fits(chosen, peaks) and any(confirms(chosen, other) for other in others)
    lasting = only_lasting(chosen, peaks)
    return lasting if is_certain else only_sounding(lasting, peaks)


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
        cost = misfit(attempt, peaks) if is_compared else 0.0
        return attempt.average_log_probability - cost

    return max(attempts, key=merit)


def misfit(result: Recognised, peaks: Peaks) -> float:
    """How far from 0 the ratio of syllables, in words and in the sound, is as a logarithm."""
    return abs(math.log(_fit(result, peaks)))


def _fit(result: Recognised, peaks: Peaks) -> float:
    return (syllables_of(result.text) + 1) / (peaks.size + 1)


def _bare_words(result: Recognised) -> list[str]:
    return [bare(word) for word in result.text.split()]
