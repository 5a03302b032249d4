# SPDX-License-Identifier: Apache-2.0
"""Capturing a call: each speaker's sound in a file of its own, and live captions in the call."""

from dataclasses import dataclass
from datetime import datetime

from callsd_daemon.domain.captions import CaptionsSpec
from callsd_daemon.domain.mattermost import MattermostCall
from callsd_daemon.domain.work import Result, Spec


CAPTURE = "capture"
"""Name of the kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureSpec(Spec):
    """Which call to capture. Without `captions` none are shown in it."""

    call: MattermostCall
    captions: CaptionsSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedTrack:
    """One artifact: the sound of one speaker, from where it began."""

    file_name: str
    speaker: str
    """Name to show; empty: it could not be learned."""
    speaker_id: str
    """The same for all tracks of one person."""
    start_time: datetime
    duration_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureResult(Result):
    """What was captured."""

    tracks: tuple[CapturedTrack, ...] = ()
    recording_start_time: datetime | None = None
    """When the call's recording began, as its server told; None: that was not learned."""
    caption_count: int = 0
    """Captions shown in the call."""
    problem: str = ""
    """Why the capture ended before the call did, for a person; empty if it did not."""

    @property
    def media_seconds(self) -> float:
        """Length of all tracks."""
        return sum(track.duration_seconds for track in self.tracks)
