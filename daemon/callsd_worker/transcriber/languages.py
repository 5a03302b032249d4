# SPDX-License-Identifier: Apache-2.0
"""Which language each speaker speaks: decided once, from the speech available then."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from callsd_worker.speech.engine import Engine
from callsd_worker.speech.errors import SpeechError, SpeechReason
from callsd_worker.speech.windows import Window


PROBE_SECONDS = 15.0
"""Speech pooled for one decision; the model itself looks at 30 s at most."""

CERTAIN_PROBABILITY = 0.5
CERTAIN_SECONDS = 4.0
"""Less speech, or a lower probability, decides nothing: "yes" is a word of many languages."""

Vote = tuple[Mapping[str, float], float]
"""Probabilities of the languages in a window, and its seconds."""


def check_language(language: str, engine: Engine, *, model: str, task: str) -> None:
    """Raises SpeechError LANGUAGE_UNSUPPORTED if the model does not support language or task."""
    if not engine.is_multilingual:
        if language not in ("", "en"):
            raise SpeechError(
                SpeechReason.LANGUAGE_UNSUPPORTED,
                f"model {model} knows English only, not {language!r}; "
                "use a model without .en or leave the language empty",
            )
        if task == "translate":
            raise SpeechError(
                SpeechReason.LANGUAGE_UNSUPPORTED,
                f"model {model} knows English only and cannot translate; use a model without .en",
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


def decide(votes: Mapping[int, Iterable[Vote]], decided: Mapping[int, str]) -> dict[int, str]:
    """A language for each track that voted.

    `decided` has the tracks known before. A track that is not certain by itself gets the language
    of the rest of the call.
    """
    scores: dict[int, dict[str, float]] = {}
    seconds_of: dict[int, float] = {}
    for track, track_votes in votes.items():
        pooled: dict[str, float] = defaultdict(float)
        total = 0.0
        for probabilities, seconds in track_votes:
            total += seconds
            for language, probability in probabilities.items():
                pooled[language] += probability * seconds
        scores[track] = {language: score / total for language, score in pooled.items()}
        seconds_of[track] = total

    def is_certain(track: int) -> bool:
        return (
            seconds_of[track] >= CERTAIN_SECONDS
            and max(scores[track].values()) >= CERTAIN_PROBABILITY
        )

    result = {
        track: max(score, key=score.__getitem__)
        for track, score in scores.items()
        if is_certain(track)
    }
    spoken: dict[str, float] = defaultdict(float)
    for track, language in (*decided.items(), *result.items()):
        spoken[language] += seconds_of.get(track, CERTAIN_SECONDS)
    for track, score in scores.items():
        if track not in result:
            candidates = spoken or score
            result[track] = max(candidates, key=candidates.__getitem__)
    return result
