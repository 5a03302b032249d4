# SPDX-License-Identifier: Apache-2.0
"""Where sentences begin and end in recognised text.

A recogniser that hears a part of a sentence alone ends it with a full stop, or begins it without a
capital.
"""

UNSPACED_LANGUAGES = frozenset({"zh", "ja", "th", "lo", "my", "yue", "km", "bo"})
"""Written without spaces: every character counts as a word."""

SENTENCE_ENDS = (".", "?", "!", "。", "？", "！", "…", "।", "؟")


_DOTTED_LANGUAGES = frozenset({"tr", "az"})
"""The capital of their "i" has a dot, too."""


def ends_sentence(text: str) -> bool:
    """Whether a sentence is complete here."""
    return text.endswith(SENTENCE_ENDS)


def goes_on(text: str) -> bool:
    """Whether the text begins as in the middle of a sentence: with a word in small letters."""
    word = text.split(maxsplit=1)[0] if text.strip() else ""
    first = next((letter for letter in word if letter.isalnum()), "")
    # Georgian has small letters, and no sentence that begins with another one.
    return first.islower() and first != first.title() and word == word.lower()


def with_capital(text: str, language: str) -> str:
    """The text as the beginning of a sentence, if the language has capitals."""
    if language in UNSPACED_LANGUAGES or not goes_on(text):
        return text
    at = next(index for index, letter in enumerate(text) if letter.isalnum())
    is_dotted = text[at] == "i" and language in _DOTTED_LANGUAGES
    return text[:at] + ("İ" if is_dotted else text[at].title()) + text[at + 1 :]


def without_stop(text: str) -> str:
    """The text without a full stop at its end; "...", "p.m." and a stop by itself stay."""
    last = text.rsplit(maxsplit=1)[-1] if text.strip() else ""
    is_stop = last.endswith(".") and "." not in last[:-1] and len(last) > 1
    return text.rstrip()[:-1] if is_stop else text
