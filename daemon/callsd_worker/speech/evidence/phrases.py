# SPDX-License-Identifier: Apache-2.0
"""Finds phrases that are there again and again, with nothing in between."""

from collections.abc import Iterator, Sequence


_LONGEST_PHRASE_WORDS = 24
_PHRASE_WORDS = 4


def repeated_phrases(words: Sequence[str]) -> list[tuple[int, int, int]]:
    """Where something may have been said again: `repetitions`, and the echo at the end."""
    found = list(repetitions(words))
    length = echo_length(words)
    if length and not any(first + size * times == len(words) for first, size, times in found):
        found.append((len(words) - 2 * length, length, 2))
    return found


def echo_length(words: Sequence[str]) -> int:
    """How many words the last phrase has, if it is there twice; else 0.

    Decoders say it again when unsure of the end.
    """
    longest = min(_LONGEST_PHRASE_WORDS, len(words) // 2)
    return next(
        (
            length
            for length in range(2, longest + 1)
            if words[-length:] == words[-2 * length : -length]
        ),
        0,
    )


def repetitions(words: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    """The phrases that loop: (first word, words of the phrase, how often it is there)."""
    index = 0
    while index < len(words):
        length, times = _repetition_at(words, index)
        if times > 1:
            yield index, length, times
        index += length * times


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
    # "No, no" is common; the same four words twice in a row hardly ever are.
    return 3 if length < _PHRASE_WORDS else 2


def bare(word: str) -> str:
    """A word without case and punctuation; punctuation alone stays as it is."""
    return "".join(letter for letter in word.casefold() if letter.isalnum()) or word.strip()
