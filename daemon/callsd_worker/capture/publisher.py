# SPDX-License-Identifier: Apache-2.0
"""Which captions a call is shown, and when.

Viewers see the newest text of each speaker, until 5 s after it came. The server drops messages
without a word when there are more than 10 a second, so they are rationed here, and nowhere else:
each speaker has one place in a queue, and gets the newest words when it is its turn.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from callsd_worker.capture.caption_text import Utterance, Words


RATE = 9.0
"""Messages a second; the server takes 10, with those by which the connection is kept."""
BURST = 20.0
"""Messages at once; the server takes 100. With more, nobody could read along."""
KEPT_FOR_CAPTIONS = 10.0
"""Messages of the burst that figures for the administrator never use."""

HIDDEN_SECONDS = 5.0
"""After which viewers hide a text."""
REPEAT_SECONDS = 4.0
"""A text that has to stay is sent again after this."""
READING_SECONDS = 1.0
READING_CHARACTERS = 15.0
"""A reader needs this long to find a text, and for a second reads so many characters."""

METRIC_SECONDS = 1.0
"""The same figure of the same speaker is sent at most once in this time."""
MAX_METRIC_WAIT_SECONDS = 10.0
"""After this it says nothing about now."""

MAX_SPEAKERS = 256
"""Of whom words are remembered; whoever has been silent for longest is forgotten."""


_HAIR_SECONDS = 1e-6


class Metric(StrEnum):
    """Names of the Calls plugin for captions that fell short."""

    AUDIO_SKIPPED = "live_captions_window_dropped"
    FELL_BEHIND = "live_captions_transcriber_buf_full"
    PACKETS_DROPPED = "live_captions_pktPayloadCh_buf_full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """Show this text as the speaker's words."""

    session_id: str
    text: str
    """Never empty."""
    new_audio_seconds: float
    """Sound that was recognised since the speaker's last message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Count this for the administrator."""

    session_id: str
    metric: Metric


Message = Show | Count


@dataclass(slots=True)
class _Speaker:
    utterance: Utterance = field(default_factory=Utterance)
    heard_seconds: float = 0.0
    told_seconds: float = 0.0
    """Sound before this was in a message."""
    shown: str = ""
    """Of this utterance."""
    shown_at_seconds: float = 0.0
    is_repeat_due: bool = False
    """The text that is shown may have to stay for longer."""

    @property
    def news(self) -> str:
        """What to show, if it is not shown already; else nothing."""
        text = self.utterance.text
        return text if text != self.shown else ""


class Publisher:
    """Decides; the time is given to it, in seconds of any clock that never goes back."""

    def __init__(self) -> None:
        self._speakers: dict[str, _Speaker] = {}
        """The one who spoke last is last."""
        self._turns: deque[str] = deque()
        """Speakers with something new to show, each once."""
        self._metrics: dict[tuple[str, Metric], float] = {}
        """Since when each waits."""
        self._counted: dict[tuple[str, Metric], float] = {}
        """When each was sent last."""
        self._tokens = BURST
        self._now_seconds: float | None = None

    def words(self, words: Words) -> None:
        """Words have been recognised."""
        session_id = words.session_id
        speaker = self._speakers.pop(session_id, None) or _Speaker()
        self._speakers[session_id] = speaker
        if len(self._speakers) > MAX_SPEAKERS:
            self.gone(next(iter(self._speakers)))
        before = speaker.utterance.number
        if not speaker.utterance.take(words):
            return
        if speaker.utterance.number != before:
            # Also the same words are news when they are said again.
            speaker.shown, speaker.is_repeat_due = "", False
        speaker.heard_seconds = max(speaker.heard_seconds, words.heard_seconds)
        if speaker.news and session_id not in self._turns:
            self._turns.append(session_id)

    def count(self, session_id: str, metric: Metric, now_seconds: float) -> None:
        """Something fell short. The same again within a second counts once."""
        if len(self._metrics) < MAX_SPEAKERS * len(Metric):
            self._metrics.setdefault((session_id, metric), now_seconds)

    def fell_behind(self, now_seconds: float) -> None:
        """All captions are late: counts for each who is speaking, or has spoken last."""
        speaking = [name for name, one in self._speakers.items() if not one.utterance.is_over]
        for session_id in speaking or list(self._speakers)[-1:]:
            self.count(session_id, Metric.FELL_BEHIND, now_seconds)

    def gone(self, session_id: str) -> None:
        """The speaker has left the call: the server would take nothing more."""
        self._speakers.pop(session_id, None)
        if session_id in self._turns:
            self._turns.remove(session_id)
        for waiting in (self._metrics, self._counted):
            for key in [key for key in waiting if key[0] == session_id]:
                del waiting[key]

    def take(self, now_seconds: float) -> list[Message]:
        """What to send now."""
        now = self._refill(now_seconds)
        messages: list[Message] = []
        while self._turns and self._tokens >= 1:
            session_id = self._turns.popleft()
            speaker = self._speakers[session_id]
            if text := speaker.news:
                messages.append(self._show(session_id, speaker, text, now))
                speaker.is_repeat_due = True
        for session_id, speaker in self._speakers.items():
            if speaker.is_repeat_due and now >= speaker.shown_at_seconds + REPEAT_SECONDS:
                # Once it is hidden it would only flicker up.
                is_hidden = now >= speaker.shown_at_seconds + HIDDEN_SECONDS
                if is_hidden or not _has_to_stay(speaker):
                    speaker.is_repeat_due = False
                elif self._tokens >= 1:
                    messages.append(self._show(session_id, speaker, speaker.shown, now))
                    speaker.is_repeat_due = False
        messages += self._counts(now)
        return messages

    def next_seconds(self) -> float | None:
        """When to ask again, if nothing is told before; None: not at all."""
        if self._now_seconds is None:
            return None
        times = []
        if self._turns:
            times.append(self._when(1))
        for speaker in self._speakers.values():
            if speaker.is_repeat_due:
                due = speaker.shown_at_seconds + REPEAT_SECONDS
                times.append(max(due, self._when(1)))
        for key in self._metrics:
            again = self._counted.get(key, -math.inf) + METRIC_SECONDS
            times.append(max(again, self._when(KEPT_FOR_CAPTIONS + 1)))
        return min(times, default=None)

    def _refill(self, now_seconds: float) -> float:
        last = self._now_seconds
        now = now_seconds if last is None else max(now_seconds, last)
        passed = now - last if last is not None else 0.0
        self._tokens = min(BURST, self._tokens + passed * RATE)
        self._now_seconds = now
        return now

    def _when(self, tokens: float) -> float:
        """When there are so many tokens."""
        assert self._now_seconds is not None
        missing = max(0.0, tokens - self._tokens)
        # A hair later, as a sum of small steps may fall short by one.
        return self._now_seconds + (missing / RATE + _HAIR_SECONDS if missing else 0.0)

    def _show(self, session_id: str, speaker: _Speaker, text: str, now: float) -> Show:
        self._tokens -= 1
        told = max(speaker.told_seconds, speaker.utterance.start_seconds)
        message = Show(
            session_id=session_id,
            text=text,
            new_audio_seconds=max(0.0, speaker.heard_seconds - told),
        )
        speaker.told_seconds = speaker.heard_seconds
        speaker.shown, speaker.shown_at_seconds = text, now
        if text == speaker.utterance.text:
            speaker.utterance.seen()
            # Words of the utterance before are gone from now on, and that is no news.
            speaker.shown = speaker.utterance.text
        return message

    def _counts(self, now: float) -> list[Message]:
        self._counted = {
            key: sent for key, sent in self._counted.items() if now < sent + METRIC_SECONDS
        }
        messages: list[Message] = []
        for key, since in list(self._metrics.items()):
            if now - since > MAX_METRIC_WAIT_SECONDS:
                del self._metrics[key]
            elif key not in self._counted and self._tokens >= KEPT_FOR_CAPTIONS + 1:
                self._tokens -= 1
                del self._metrics[key]
                self._counted[key] = now
                messages.append(Count(session_id=key[0], metric=key[1]))
        return messages


def _has_to_stay(speaker: _Speaker) -> bool:
    """Whether the text that is shown would be hidden too early."""
    if speaker.news:
        return False  # it is replaced as soon as it can be
    if not speaker.utterance.is_over:
        return bool(speaker.utterance.text)
    return READING_SECONDS + len(speaker.shown) / READING_CHARACTERS > HIDDEN_SECONDS
