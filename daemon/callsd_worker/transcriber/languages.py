# SPDX-License-Identifier: Apache-2.0
"""Which language each speaker speaks, by speech of all of the speaker's tracks.

It is decided once for the speaker; where it changes is found in `stretches.py`.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from callsd_worker.speech.engine import Engine
from callsd_worker.speech.errors import SpeechError, SpeechReason
from callsd_worker.speech.voice.windows import Window


PROBE_SECONDS = 45.0
"""Speech pooled for one decision: three windows of ordinary length, so that one that is odd, such
as a greeting in another language, is outvoted."""

MAX_WAITING_SECONDS = 450.0
"""Speech, of all speakers, that waits in memory for more of the same speaker's."""

CERTAIN_PROBABILITY = 0.5
CERTAIN_SECONDS = 4.0
"""Less speech, or a lower probability, decides nothing: "yes" is a word of many languages."""

Speaker = TypeVar("Speaker", bound=Hashable)

Odds = Mapping[str, float]
"""Probabilities of the languages in a window."""

Vote = tuple[Odds, float]
"""Of a window, and its seconds."""


def check_language(language: str, engine: Engine, *, model: str, task: str) -> None:
    """Raises SpeechError LANGUAGE_UNSUPPORTED if the model does not support language or task."""
    if not engine.is_multilingual:
        if language not in ("", "en"):
            raise SpeechError(
                SpeechReason.LANGUAGE_UNSUPPORTED,
                f"model {model} knows English only, not {language!r}; "
                "use a multilingual model or leave the language empty",
            )
        if task == "translate":
            raise SpeechError(
                SpeechReason.LANGUAGE_UNSUPPORTED,
                f"model {model} knows English only and cannot translate; use a multilingual one",
            )
    elif language and language not in engine.languages:
        raise SpeechError(
            SpeechReason.LANGUAGE_UNSUPPORTED,
            f"language {language!r} is not known to model {model}; give a code such as en, de, ja",
        )


def choose_probes(windows: Sequence[Window]) -> list[int]:
    """Indices of the windows to detect the language in: the longest, until they suffice."""
    chosen = []
    seconds = 0.0
    for index in sorted(range(len(windows)), key=lambda index: -windows[index].seconds):
        chosen.append(index)
        seconds += windows[index].seconds
        if seconds >= PROBE_SECONDS:
            break
    return chosen


def decide(
    votes: Mapping[Speaker, Iterable[Vote]], spoken: Mapping[str, float]
) -> dict[Speaker, str]:
    """A language for each speaker with votes.

    `spoken` has the seconds of speech of those whose languages are known. Who is not certain alone
    speaks one of the languages of the rest of the call: what it sounds like counts, and how much
    each of them is spoken.
    """
    heard = {speaker: _pooled(own) for speaker, own in votes.items()}
    result = {}
    shares = defaultdict[str, float](float, {one: part for one, part in spoken.items() if part > 0})
    for speaker, (scores, seconds) in heard.items():
        language = max(scores, key=scores.__getitem__)
        if seconds >= CERTAIN_SECONDS and scores[language] >= CERTAIN_PROBABILITY:
            result[speaker] = language
            shares[language] += seconds
    if not shares:
        # Nobody is certain, but all together may be.
        for scores, seconds in heard.values():
            for language, probability in scores.items():
                shares[language] += probability * seconds
    for speaker, (scores, _) in heard.items():
        if speaker not in result:
            fit = {
                language: scores.get(language, 0.0) * share for language, share in shares.items()
            }
            likely = fit if any(fit.values()) else shares
            result[speaker] = max(likely, key=likely.__getitem__)
    return result


def _pooled(votes: Iterable[Vote]) -> tuple[dict[str, float], float]:
    """The probabilities in all windows of a speaker, which count by their length."""
    scores: dict[str, float] = defaultdict(float)
    total = 0.0
    for probabilities, seconds in votes:
        total += seconds
        for language, probability in probabilities.items():
            scores[language] += probability * seconds
    return {language: score / total for language, score in scores.items()}, total
