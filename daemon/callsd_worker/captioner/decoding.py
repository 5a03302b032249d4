# SPDX-License-Identifier: Apache-2.0
"""What goes from a track to the recogniser, and what comes back."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from callsd_worker.speech.engine import Recognised
from callsd_worker.speech.mel import SAMPLE_RATE_HZ, Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A pass that a track wants."""

    ready_seconds: float
    """When it is worth making, by the caller's clock."""
    deadline_seconds: float
    """The order among several; never before `ready_seconds`."""
    is_final: bool
    """Its words will not change any more: such passes go first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeWindow:
    """One window to recognise."""

    samples: Samples
    """At the level of ordinary speech."""
    start_sample: int
    end_sample: int
    """Where the window lies in the track."""
    voiced_seconds: float
    is_final: bool
    """Its text will be final, or is expected to be: worth more care."""
    is_doubted: bool = False
    """What the last pass over it gave was not believed: another such would be one too many."""
    needs_word_times: bool
    language: str
    """Empty: to be detected in this window."""
    is_language_asked: bool
    """Whether the track wants to know what language this window is in."""

    @property
    def seconds(self) -> float:
        return self.samples.size / SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a pass."""

    heard: Recognised | None
    """None: nothing that could be believed."""
    language: str
    """The one it was recognised in."""
    languages: Mapping[str, float] = field(default_factory=dict)
    """Probability of each language, when asked for."""
