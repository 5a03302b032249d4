# SPDX-License-Identifier: Apache-2.0
"""Word error rate: jiwer on text normalised as Whisper's authors do it for English."""

import functools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import jiwer
from whisper_normalizer.english import EnglishTextNormalizer

from callsd_bench.shared.call import Call


_ROUND_BRACKETS = str.maketrans("()", "  ")

# Made when it is needed: it reads a table of spellings.
_normaliser = functools.cache(EnglishTextNormalizer)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardSegment:
    """A piece of a transcript."""

    speaker: str
    start_seconds: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """How what was heard differs from what was said."""

    words: int
    """Words that were said."""
    substitutions: int
    deletions: int
    insertions: int

    @property
    def rate(self) -> float:
        """Errors over words that were said: 0 is perfect. There must be such words."""
        return (self.substitutions + self.deletions + self.insertions) / self.words


def word_error_rate(calls: Sequence[Call], heard: Sequence[Sequence[HeardSegment]]) -> float:
    """Errors in all calls over words in all references."""
    return count_errors(calls, heard).rate


def count_errors(calls: Sequence[Call], heard: Sequence[Sequence[HeardSegment]]) -> Errors:
    """The errors in all calls.

    Within a call each speaker's words are compared with those of the same speaker, in order of
    time, so that words given to the wrong speaker are errors and overlap is not.
    """
    words = substitutions = deletions = insertions = 0
    for call, segments in zip(calls, heard, strict=True):
        said = _by_speaker((turn.speaker, turn.start_seconds, turn.text) for turn in call.turns)
        got = _by_speaker((part.speaker, part.start_seconds, part.text) for part in segments)
        for speaker in said.keys() | got.keys():
            reference = _normalised(said.get(speaker, ""))
            hypothesis = _normalised(got.get(speaker, ""))
            words += len(reference.split())
            if reference:
                outcome = jiwer.process_words(reference, hypothesis)
                substitutions += outcome.substitutions
                deletions += outcome.deletions
                insertions += outcome.insertions
            else:
                insertions += len(hypothesis.split())
    return Errors(
        words=words, substitutions=substitutions, deletions=deletions, insertions=insertions
    )


def _normalised(text: str) -> str:
    # The normaliser deletes what stands in round brackets: an aside that somebody wrote into a
    # reference is said aloud all the same, and whoever hears it must not be blamed.
    return str(_normaliser()(text.translate(_ROUND_BRACKETS)))


def _by_speaker(parts: Iterable[tuple[str, float, str]]) -> dict[str, str]:
    texts: dict[str, list[str]] = defaultdict(list)
    for speaker, _, text in sorted(parts, key=lambda part: part[1]):
        texts[speaker].append(text)
    return {speaker: " ".join(several) for speaker, several in texts.items()}
