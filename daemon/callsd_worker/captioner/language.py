# SPDX-License-Identifier: Apache-2.0
"""Which language a speaker speaks, when the client has not set it."""

from collections import defaultdict
from collections.abc import Mapping


MIN_VOICED_SECONDS = 2.0
"""Less says nothing: "yes" is a word of many languages."""

DECIDED_SECONDS = 4.0
DECIDED_PROBABILITY = 0.5
"""So much speech with so high a probability settles the language."""

SWITCH_PROBABILITY = 0.8
SWITCH_WINDOWS = 2
"""A settled language is changed when so many successive windows are clearly in one other."""


class SpeakerLanguage:
    """Collects what the recogniser detects in the windows of one speaker."""

    def __init__(self, given: str) -> None:
        self._is_given = bool(given)
        self.code = given
        """Empty while not settled."""
        self._scores: dict[str, float] = defaultdict(float)
        self._voted_seconds = 0.0
        self._rival = ""
        self._rival_windows = 0

    def wants_vote(self, *, voiced_seconds: float, is_final: bool) -> bool:
        """Whether to detect the language of a window."""
        if self._is_given:
            return False
        if not self.code:
            return True
        return is_final and voiced_seconds >= MIN_VOICED_SECONDS

    def vote(self, languages: Mapping[str, float], *, voiced_seconds: float) -> None:
        """Take the language probabilities of one window."""
        if self._is_given or not languages or voiced_seconds < MIN_VOICED_SECONDS:
            return
        leader = max(languages, key=languages.__getitem__)
        if self.code:
            self._consider_switch(leader, languages[leader])
            return
        self._voted_seconds += voiced_seconds
        for language, probability in languages.items():
            self._scores[language] += probability * voiced_seconds
        leader = max(self._scores, key=self._scores.__getitem__)
        is_clear = self._scores[leader] >= DECIDED_PROBABILITY * self._voted_seconds
        if is_clear and self._voted_seconds >= DECIDED_SECONDS:
            self.code = leader

    def _consider_switch(self, leader: str, probability: float) -> None:
        if leader == self.code or probability < SWITCH_PROBABILITY:
            self._rival, self._rival_windows = "", 0
            return
        self._rival_windows = self._rival_windows + 1 if leader == self._rival else 1
        self._rival = leader
        if self._rival_windows >= SWITCH_WINDOWS:
            self.code = leader
            self._rival, self._rival_windows = "", 0
