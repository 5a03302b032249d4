# SPDX-License-Identifier: Apache-2.0
"""What a track has to tell. Positions are samples at 16 kHz from the start of the call."""

from dataclasses import dataclass
from enum import Enum, auto


class SpeechChange(Enum):
    """A change between silence and speech."""

    BEGIN = auto()
    END = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What is said in one segment, as far as it is known."""

    segment: int
    """Where the segment begins: tells the segments of a track apart."""
    revision: int
    """Counts what was told of the segment, from 1."""
    is_end_of_utterance: bool
    """The speaker paused behind it."""
    text: str
    start_sample: int
    """Where the first word begins."""
    end_sample: int
    """Where the last word ends."""
    heard_sample: int
    """Sound before this is in the text."""
    language: str
    stability: float
    """How much of the text will stay. Range 0 to 1; 1 in final words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackUpdate:
    """What has changed on a track since it was last asked."""

    finals: tuple[Words, ...]
    """In order; they never change."""
    interim: Words | None
    """Replaces the one before. None = no change; without text = withdrawn."""
    processed_sample: int
    """Sound before this is in final words, or was silence: it is not needed again."""
    heard_sample: int
    """Sound before this was in a pass, or was silence."""
    speech: SpeechChange | None
    is_drained: bool
    """All sound before the last `end_speech` is worked off; told once."""
