# SPDX-License-Identifier: Apache-2.0
"""What a track reports. Positions are samples at 16 kHz from the start of the call."""

from dataclasses import dataclass
from enum import Enum, auto


class SpeechChange(Enum):
    """A change between silence and speech."""

    BEGIN = auto()
    END = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The words of one segment so far."""

    segment: int
    """Where the segment begins: identifies it within its track."""
    revision: int
    """Counts the reported versions of the segment, from 1."""
    is_end_of_utterance: bool
    """The speaker paused after it."""
    text: str
    start_sample: int
    """Where the first word begins."""
    end_sample: int
    """Where the last word ends."""
    recognised_sample: int
    """Audio before this is in the text."""
    language: str
    stability: float
    """Share of the text that will stay. Range 0 to 1; 1 in final words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackUpdate:
    """What has changed on a track since the last update."""

    finals: tuple[Words, ...]
    """In order; they never change."""
    interim: Words | None
    """Replaces the one before. None = no change; without text = withdrawn."""
    processed_sample: int
    """Audio before this is in final words, or was silence: it is not needed again."""
    recognised_sample: int
    """Audio before this was in a pass, or was silence."""
    speech: SpeechChange | None
    is_drained: bool
    """All audio before the last `end_speech` is processed; reported once."""
