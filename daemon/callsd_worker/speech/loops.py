# SPDX-License-Identifier: Apache-2.0
"""Finds signs of wrong results: loops, omitted speech, text where nobody spoke.

A sign is a reason to recognise again in another way, not a proof: people do repeat themselves.
"""

import zlib
from collections.abc import Sequence
from enum import StrEnum
from typing import TypeVar

from callsd_worker.speech.engine import Recognised


MAX_COMPRESSION_RATIO = 2.2
"""Ordinary text compresses to a bit more than half; text that repeats itself to far less."""

MAX_WORDS_PER_SECOND = 4.6
MAX_TOKENS_PER_SECOND = 10.0
"""Nobody talks faster for a whole window, in any script."""

MIN_TOKENS_PER_VOICED_SECOND = 1.0
MIN_VOICED_SECONDS_FOR_OMISSION = 2.0
"""Slow speech has 2 to 3 tokens a second; with less than one, speech was omitted."""

NO_SPEECH_PROBABILITY = 0.6
NO_SPEECH_LOG_PROBABILITY = -1.0
"""Below it the model is unsure of its words; together with its doubt that anybody speaks, there is
no speech."""

GUESS_LOG_PROBABILITY = -1.6
"""Less than one chance in five per token: the words are noise."""

_LONGEST_PHRASE_WORDS = 24
_PHRASE_WORDS = 4
_SHORTEST_TELLING_BYTES = 48


class Flaw(StrEnum):
    """What looks wrong about a result."""

    LOOP = "loop"
    ECHO = "echo"
    TOO_FAST = "too fast"
    OMISSION = "omission"
    NO_SPEECH = "no speech"


def find_flaw(result: Recognised, *, seconds: float, voiced_seconds: float) -> Flaw | None:
    """The first flaw in the result of a window of this length."""
    if is_invented(result):
        return Flaw.NO_SPEECH
    words = [_bare(word) for word in result.text.split()]
    if has_loop(words) or compression_ratio(result.text) > MAX_COMPRESSION_RATIO:
        return Flaw.LOOP
    if ends_in_echo(words):
        return Flaw.ECHO
    # In less than a second even "yes, I do" exceeds any rate.
    lasting = max(seconds, 1.0)
    if (
        len(words) > MAX_WORDS_PER_SECOND * lasting + 1
        or result.token_count > MAX_TOKENS_PER_SECOND * lasting + 8
    ):
        return Flaw.TOO_FAST
    if (
        voiced_seconds >= MIN_VOICED_SECONDS_FOR_OMISSION
        and result.token_count < MIN_TOKENS_PER_VOICED_SECOND * voiced_seconds
    ):
        return Flaw.OMISSION
    return None


def is_invented(result: Recognised) -> bool:
    """Whether the model itself gives the words a low probability."""
    if not result.text:
        return False
    if result.average_log_probability < GUESS_LOG_PROBABILITY:
        return True
    return (
        result.no_speech_probability > NO_SPEECH_PROBABILITY
        and result.average_log_probability < NO_SPEECH_LOG_PROBABILITY
    )


def compression_ratio(text: str) -> float:
    """Ratio of sizes before and after zlib; 1.0 for texts too short for it to mean anything."""
    data = text.encode()
    if len(data) < _SHORTEST_TELLING_BYTES:
        return 1.0
    return len(data) / len(zlib.compress(data))


def has_loop(words: Sequence[str]) -> bool:
    """Whether a phrase is repeated again and again with nothing in between."""
    return len(kept_without_repeats(words)) < len(words)


def ends_in_echo(words: Sequence[str]) -> bool:
    """Whether the last phrase is there twice: decoders do that when unsure of the end."""
    return any(
        words[-length:] == words[-2 * length : -length]
        for length in range(2, min(_LONGEST_PHRASE_WORDS, len(words) // 2) + 1)
    )


def kept_without_repeats(words: Sequence[str]) -> list[int]:
    """Indices of the words that remain when each looping phrase is kept once."""
    kept: list[int] = []
    index = 0
    while index < len(words):
        length, times = _repetition_at(words, index)
        if times > 1:
            kept += range(index, index + length)
            index += length * times
        else:
            kept.append(index)
            index += 1
    return kept


Worded = TypeVar("Worded")


def without_repeats(items: Sequence[Worded], texts: Sequence[str]) -> list[Worded]:
    """Those `items` whose `texts` are not the repetition of a looping phrase."""
    return [items[index] for index in kept_without_repeats([_bare(text) for text in texts])]


def _repetition_at(words: Sequence[str], index: int) -> tuple[int, int]:
    """(length, times) of the phrase that loops from here; times is 1 if none does."""
    longest = min(_LONGEST_PHRASE_WORDS, (len(words) - index) // 2)
    for length in range(1, longest + 1):
        phrase = words[index : index + length]
        times = 1
        while words[index + times * length : index + (times + 1) * length] == phrase:
            times += 1
        if times >= _times_suspicious(length):
            return length, times
    return 1, 1


def _times_suspicious(length: int) -> int:
    # "No, no, no, no" is speech; the same four words twice in a row hardly ever are.
    if length == 1:
        return 5
    return 3 if length < _PHRASE_WORDS else 2


def _bare(word: str) -> str:
    return "".join(letter for letter in word.casefold() if letter.isalnum()) or word.strip()
