# SPDX-License-Identifier: Apache-2.0
"""Who said what, when, as it goes into files. All times in seconds of the call."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A word with the punctuation that follows it."""

    text: str
    start_seconds: float
    end_seconds: float
    probability: float | None = None
    """How sure the recogniser was; None if it did not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A sentence or a part of one, by one speaker."""

    speaker: str
    start_seconds: float
    end_seconds: float
    text: str
    words: tuple[Word, ...]
    """With times; empty from live captions, which have none."""
    language: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unheard:
    """A stretch in which somebody spoke and no words could be made out."""

    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackResult:
    """What became of one track."""

    speaker: str
    duration_seconds: float
    speech_seconds: float
    language: str
    """Empty if the track has no speech."""
    unheard: tuple[Unheard, ...] = ()
    """In order."""
    failure_reason: str = ""
    """Empty: the track was transcribed."""
    failure_message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """Who said what, when."""

    segments: tuple[Segment, ...]
    """Sorted by start."""
    tracks: tuple[TrackResult, ...]
    """In the order given."""
    language: str
    """The one most is spoken in; empty if nobody speaks."""
    engine: str
    """The one used."""
    notices: tuple[tuple[str, str], ...]
    """(code, message): what was amended or left out."""

    @property
    def duration_seconds(self) -> float:
        return max((segment.end_seconds for segment in self.segments), default=0.0)
