# SPDX-License-Identifier: Apache-2.0
"""Word error rate: jiwer on text normalised as Whisper's authors do it for English."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import jiwer
from whisper_normalizer.english import EnglishTextNormalizer

from callsd_bench.shared.call import Call


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardSegment:
    """A piece of a transcript."""

    speaker: str
    start_seconds: float
    text: str


def word_error_rate(calls: Sequence[Call], heard: Sequence[Sequence[HeardSegment]]) -> float:
    """Errors in all calls over words in all references.

    Within a call each speaker's words are compared with those of the same speaker, in order of
    time, so that words given to the wrong speaker are errors and overlap is not.
    """
    normalise = EnglishTextNormalizer()
    errors = words = 0
    for call, segments in zip(calls, heard, strict=True):
        said = _by_speaker((turn.speaker, turn.start_seconds, turn.text) for turn in call.turns)
        got = _by_speaker((part.speaker, part.start_seconds, part.text) for part in segments)
        for speaker in said.keys() | got.keys():
            reference = normalise(said.get(speaker, ""))
            hypothesis = normalise(got.get(speaker, ""))
            words += len(reference.split())
            if reference:
                outcome = jiwer.process_words(reference, hypothesis)
                errors += outcome.substitutions + outcome.deletions + outcome.insertions
            else:
                errors += len(hypothesis.split())
    return errors / words


def _by_speaker(parts: Iterable[tuple[str, float, str]]) -> dict[str, str]:
    texts: dict[str, list[str]] = defaultdict(list)
    for speaker, _, text in sorted(parts, key=lambda part: part[1]):
        texts[speaker].append(text)
    return {speaker: " ".join(several) for speaker, several in texts.items()}
