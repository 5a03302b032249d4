# SPDX-License-Identifier: Apache-2.0
"""Local agreement: words on which two successive passes agree stay; the rest may be replaced."""

from collections.abc import Sequence


SETTLED_BEHIND_WORDS = 3
"""A word with so many words behind it stays at first sight: it seldom changes any more, and if it
did, all of them would be taken off the screen with it. One more or less changes the words taken
back, and the errors in final words, by a tenth or two in opposite directions."""


class Agreement:
    """What is shown of one segment: words that stay, then the newest guess at the rest."""

    def __init__(self, words: Sequence[str] = (), *, stable_count: int = 0) -> None:
        self.words: tuple[str, ...] = tuple(words)
        """As shown."""
        self.stable_count = stable_count
        """How many of the first `words` no interim pass will change."""
        self._agreed_count = stable_count
        """How many of them no pass will change."""
        self._last_heard: Sequence[str] = self.words

    @property
    def stability(self) -> float:
        return self.stable_count / len(self.words) if self.words else 0.0

    def hear(self, words: Sequence[str], *, is_careful: bool) -> None:
        """Take what the newest pass heard in the whole segment.

        A careful pass may correct words that have settled by themselves, though not those that two
        passes have agreed on.
        """
        kept = self.words[: self._agreed_count if is_careful else self.stable_count]
        shown = (*kept, *words[matching_prefix(kept, words) :])
        # Words that were kept agree with themselves: what was heard counts.
        agreed = words[: common_prefix(self._last_heard, words)]
        self._agreed_count = max(self._agreed_count, common_prefix(agreed, shown))
        settled = len(shown) - SETTLED_BEHIND_WORDS
        self.stable_count = max(len(kept), self._agreed_count, settled)
        self.words, self._last_heard = shown, words

    def split(self, count: int) -> tuple["Agreement", "Agreement"]:
        """The first words, and the rest."""
        stable = min(self.stable_count, count)
        return (
            Agreement(self.words[:count], stable_count=stable),
            Agreement(self.words[count:], stable_count=self.stable_count - stable),
        )


def common_prefix(left: Sequence[str], right: Sequence[str]) -> int:
    """How many first words are the same, whatever their punctuation and case."""
    count = 0
    for one, other in zip(left, right, strict=False):
        if bare(one) != bare(other):
            break
        count += 1
    return count


def matching_prefix(prefix: Sequence[str], words: Sequence[str]) -> int:
    """How many first `words` say what `prefix` says: the least edits, word by word."""
    if not prefix:
        return 0
    wanted = [bare(word) for word in prefix]
    costs = list(range(len(wanted) + 1))
    best = (costs[-1], True, len(wanted), 0)
    for count, word in enumerate(words, start=1):
        diagonal, costs[0] = costs[0], count
        heard = bare(word)
        for at, other in enumerate(wanted, start=1):
            substituted = diagonal + (heard != other)
            diagonal = costs[at]
            costs[at] = min(substituted, costs[at] + 1, costs[at - 1] + 1)
        # Of equally good ends one with the same last word is right, else one of like length.
        best = min(best, (costs[-1], heard != wanted[-1], abs(count - len(wanted)), count))
    return best[-1]


def bare(word: str) -> str:
    """A word without case and punctuation; a mark alone stays itself."""
    return "".join(letter for letter in word.casefold() if letter.isalnum()) or word.strip()
