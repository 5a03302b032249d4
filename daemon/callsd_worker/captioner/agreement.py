# SPDX-License-Identifier: Apache-2.0
"""Local agreement: words on which two successive passes agree stay; the rest may be replaced.

Words at the end of a pass that the model is not sure of are not shown at once: the sound of the
last one is often cut in the middle.
"""

from collections.abc import Sequence

from callsd_worker.speech.evidence.phrases import bare
from callsd_worker.speech.evidence.sentences import goes_on, without_stop


SETTLED_BEHIND_WORDS = 3
"""A word with so many words after it counts as stable at once: it seldom changes, and would take
those off the screen. One more or one less changes the words taken back, and the errors in final
words, by a tenth or two in opposite directions."""

MOST_HELD_WORDS = 2
"""So many doubtful words wait for the next pass."""


class Agreement:
    """The words shown of one segment: first stable ones, then the newest guess at the rest."""

    def __init__(self, words: Sequence[str] = (), *, stable_count: int = 0) -> None:
        self.words: tuple[str, ...] = tuple(words)
        """As shown."""
        self.held: tuple[str, ...] = ()
        """Doubtful words behind them, which are not shown."""
        self.stable_count = stable_count
        """How many of the first `words` no interim pass will change."""
        self._agreed_count = stable_count
        """How many of them no pass will change."""
        self._last_recognised: Sequence[str] = self.words

    @property
    def stability(self) -> float:
        return self.stable_count / len(self.words) if self.words else 0.0

    def update(
        self,
        words: Sequence[str],
        *,
        is_careful: bool,
        probabilities: Sequence[float] = (),
        doubtful_probability: float = 0.0,
    ) -> None:
        """Take the words of the newest pass, over the whole segment.

        A careful pass may correct words that are stable only by their position
        (SETTLED_BEHIND_WORDS), but not those on which two passes agreed. Of another pass, words at
        the end that are less probable than `doubtful_probability` are held back; `probabilities`
        has one for each word, or none if they are not known.
        """
        kept = self.words[: self._agreed_count if is_careful else self.stable_count]
        after = matching_prefix(kept, words)
        rest = words[after:]
        is_stopped = after > 0 and words[after - 1].endswith(".")
        if kept and rest and goes_on(rest[0]) and not is_stopped:
            # A pass that ended in a pause took it for the end of the sentence. Where this one has
            # a stop, too, it is that of an abbreviation.
            kept = (*kept[:-1], without_stop(kept[-1]))
        shown = (*kept, *rest)
        # Compared with the last pass, not with what is shown: kept words agree with themselves.
        agreed = words[: common_prefix(self._last_recognised, words)]
        self._agreed_count = max(self._agreed_count, common_prefix(agreed, shown))
        held = 0
        if not is_careful and len(probabilities) == len(words):
            certain = max(self._agreed_count, common_prefix(self.words, shown))
            doubtful = [one < doubtful_probability for one in probabilities]
            held = min(_doubtful_end(doubtful), len(shown) - certain)
        shown, self.held = shown[: len(shown) - held], shown[len(shown) - held :]
        settled = len(shown) - SETTLED_BEHIND_WORDS
        self.stable_count = max(len(kept), self._agreed_count, settled)
        self.words, self._last_recognised = shown, words

    def show_held(self) -> None:
        """Show the words that were held back: no other pass will come."""
        self.words, self.held = (*self.words, *self.held), ()

    def split(self, count: int) -> tuple["Agreement", "Agreement"]:
        """The first words, and the rest."""
        stable = min(self.stable_count, count)
        return (
            Agreement(self.words[:count], stable_count=stable),
            Agreement(self.words[count:], stable_count=self.stable_count - stable),
        )


def _doubtful_end(doubtful: Sequence[bool]) -> int:
    """How many of the last words are doubtful, of those that may be."""
    last = list(reversed(doubtful))[:MOST_HELD_WORDS]
    return last.index(False) if False in last else len(last)


def common_prefix(left: Sequence[str], right: Sequence[str]) -> int:
    """How many first words are the same, ignoring punctuation and case."""
    count = 0
    for one, other in zip(left, right, strict=False):
        if bare(one) != bare(other):
            break
        count += 1
    return count


def matching_prefix(prefix: Sequence[str], words: Sequence[str]) -> int:
    """How many of the first `words` correspond to `prefix`: fewest edits, word by word."""
    if not prefix:
        return 0
    wanted = [bare(word) for word in prefix]
    costs = list(range(len(wanted) + 1))
    best = (costs[-1], True, len(wanted), 0)
    for count, word in enumerate(words, start=1):
        diagonal, costs[0] = costs[0], count
        plain = bare(word)
        for at, other in enumerate(wanted, start=1):
            substituted = diagonal + (plain != other)
            diagonal = costs[at]
            costs[at] = min(substituted, costs[at] + 1, costs[at - 1] + 1)
        # Of equally good ends prefer the one with the same last word, then the one of like length.
        best = min(best, (costs[-1], plain != wanted[-1], abs(count - len(wanted)), count))
    return best[-1]
