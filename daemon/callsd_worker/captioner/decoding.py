# SPDX-License-Identifier: Apache-2.0
"""What goes from a track to the recogniser, and what comes back."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.engine import Recognised


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """The next pass of a track."""

    ready_seconds: float
    """When to make it at the earliest, by the caller's clock."""
    deadline_seconds: float
    """Sorts passes of several tracks; never before `ready_seconds`."""
    is_final: bool
    """Its words will be final: such passes go first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeWindow:
    """One window to recognise."""

    samples: Samples
    """Amplified to the level of ordinary speech."""
    start_sample: int
    end_sample: int
    """Where the window lies in the track."""
    voiced_seconds: float
    is_final: bool
    """Its text will be final, or probably will: worth more care."""
    was_rejected: bool = False
    """The result of the last pass over it was rejected: worth more care, too."""
    language: str
    """Empty: detect it in this window."""
    needs_language: bool
    """Whether to report the probabilities of languages."""

    @property
    def seconds(self) -> float:
        return self.samples.size / SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of a pass."""

    recognised: Recognised | None
    """None: the words were rejected as implausible."""
    language: str
    """The language that was used."""
    languages: Mapping[str, float] = field(default_factory=dict)
    """Probability of each language, if `needs_language`."""
