# SPDX-License-Identifier: Apache-2.0
"""Recordings: what is asked for, how one that goes on is, and what came of it."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from callsd_daemon.domain.mattermost import MattermostCall, SiteSecrets
from callsd_daemon.domain.work import Result, Spec


RECORDING = "recording"
"""Name of the kind."""


class Profile(StrEnum):
    """Qualities that have a name."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Picture(StrEnum):
    """What a recorded picture looks like."""

    MOVING = "moving"
    STILL = "still"
    BLANK = "blank"


INAUDIBLE_DB = -100.0
"""Below the smallest step of 16-bit samples; 0 dB is as loud as can be."""


def is_silent(level_db: float) -> bool:
    """Whether nothing is heard at this loudness; workers tell -120 of no sound at all."""
    return level_db < INAUDIBLE_DB


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Sizes in pixels, rates in kbit/s and pictures a second."""

    width: int
    height: int
    frame_rate: int
    video_kbps: int
    audio_kbps: int


PROFILES = {
    Profile.LOW: Quality(width=1280, height=720, frame_rate=15, video_kbps=1000, audio_kbps=64),
    Profile.MEDIUM: Quality(width=1280, height=720, frame_rate=20, video_kbps=1500, audio_kbps=64),
    Profile.HIGH: Quality(width=1920, height=1080, frame_rate=20, video_kbps=2500, audio_kbps=64),
}
"""The qualities that calls are recorded in elsewhere."""

QUALITY_RANGES = {
    "width": (1280, 3840),
    "height": (720, 2160),
    "frame_rate": (10, 60),
    "video_kbps": (500, 10_000),
    "audio_kbps": (32, 320),
}
"""What may be asked for in place of what the profile has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSecrets(SiteSecrets):
    """What a page is told that nobody else may know. A call's page takes the site's token."""

    url_fragment: str = field(default="", repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingSpec(Spec):
    """What to record, and how. Expressions are JavaScript; empty means none."""

    url: str
    """Empty for a call of Mattermost."""
    profile: Profile
    quality: Quality
    """The profile's, with what was asked for instead."""
    header_names: tuple[str, ...] = ()
    header_origins: tuple[str, ...] = ()
    """Who gets the headers besides the page's own origin."""
    audio_only: bool = False
    ready_expression: str = ""
    over_expression: str = ""
    leave_expression: str = ""
    ready_timeout_seconds: float = 20.0
    call: MattermostCall | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingHealth:
    """How a recording is that goes on; see `callsd.v1.RecordingHealth` for the units."""

    frame_count: int = 0
    changed_frame_rate: float = 0.0
    audio_level_db: float = 0.0
    picture: Picture | None = None
    still_seconds: float = 0.0
    drift_ms: float = 0.0
    size_bytes: int = 0
    disk_free_bytes: int = 0
    segment: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingResult(Result):
    """What was recorded; see `callsd.v1.RecordingResult` for the units."""

    duration_seconds: float = 0.0
    width: int = 0
    height: int = 0
    frame_rate: float = 0.0
    size_bytes: int = 0
    segment_count: int = 0
    gap_seconds: float = 0.0
    is_cut_short: bool = False
    start_time: datetime | None = None
    """When its first picture was taken; None: not known."""

    @property
    def media_seconds(self) -> float:
        """Length of the film."""
        return self.duration_seconds
