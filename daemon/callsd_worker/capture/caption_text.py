# SPDX-License-Identifier: Apache-2.0
"""The words of one speaker that a caption shows: those of the utterance that goes on."""

import unicodedata
from collections import deque
from dataclasses import dataclass


MAX_CHARACTERS = 250
"""Of a caption: three lines on a screen. Of a longer monologue the end is shown."""

MAX_SEGMENTS = 32
"""Of an utterance; far more than fit into a caption."""

MAX_SETTLED = 64
"""Segments that are remembered when they are gone, as news of them may still come."""

CUT = "…"
"""Stands for words that are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What was recognised of a segment of an utterance; a later revision replaces it."""

    session_id: str
    segment: str
    revision: int
    text: str
    """Empty: there were no words after all."""
    is_final: bool
    is_end_of_utterance: bool
    start_seconds: float
    """When the first word begins, on the speaker's time line."""
    heard_seconds: float
    """Sound before this is in the text."""


class Utterance:
    """Of one speaker: the current one; the one before it stays while nobody has seen its end."""

    def __init__(self) -> None:
        self.number = 0
        """Which one it is, counted from 0."""
        self._segments: dict[str, Words] = {}
        self._settled: deque[str] = deque(maxlen=MAX_SETTLED)
        self._unseen = ""
        """End of the utterance before."""
        self._is_seen = True

    def take(self, words: Words) -> bool:
        """Take words; returns whether they are news."""
        known = self._segments.get(words.segment)
        if words.segment in self._settled:
            return False
        if known is not None and (
            known.is_final or (words.revision <= known.revision and not words.is_final)
        ):
            return False
        before = self.text
        is_seen = self._is_seen
        self._segments[words.segment] = words
        self._leave_finished(was_seen=is_seen and (known is None or known.text == words.text))
        while len(self._segments) > MAX_SEGMENTS:
            self._settle(next(iter(self._segments)))
        self._is_seen = is_seen and self.text == before
        return True

    @property
    def is_over(self) -> bool:
        """Whether the speaker has come to an end."""
        return not self._segments or next(reversed(self._segments.values())).is_end_of_utterance

    @property
    def start_seconds(self) -> float:
        """When its first words began."""
        return min((words.start_seconds for words in self._segments.values()), default=0.0)

    @property
    def text(self) -> str:
        """What to show, perhaps nothing."""
        text = self._unseen
        for words in self._segments.values():
            text = _joined(text, words.text)
        return _end(text)

    def seen(self) -> None:
        """Everybody has been shown the text as it is."""
        self._is_seen = True
        self._unseen = ""

    def _leave_finished(self, *, was_seen: bool) -> None:
        """Of an utterance that is over nothing stays, once there are words of the next one."""
        parts = list(self._segments.items())
        after = len(parts)
        while after and not (
            parts[after - 1][1].is_final and parts[after - 1][1].is_end_of_utterance
        ):
            after -= 1
        if not after or not any(words.text.strip() for _, words in parts[after:]):
            return
        for segment, words in parts[:after]:
            if not was_seen:
                self._unseen = _end(_joined(self._unseen, words.text))
            self._settle(segment)
        self.number += 1

    def _settle(self, segment: str) -> None:
        del self._segments[segment]
        self._settled.append(segment)


def _joined(left: str, right: str) -> str:
    right = " ".join(right.split())
    if not left or not right:
        return left or right
    # Chinese and Japanese are written without spaces.
    is_wide = all(unicodedata.east_asian_width(one) in "WF" for one in (left[-1], right[0]))
    return left + ("" if is_wide else " ") + right


def _end(text: str) -> str:
    """The last words, as many as a caption can show."""
    if len(text) <= MAX_CHARACTERS:
        return text
    end = text[-(MAX_CHARACTERS - len(CUT)) :]
    _, space, rest = end.partition(" ")
    return CUT + (rest if space else end)
