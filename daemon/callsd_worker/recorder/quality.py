# SPDX-License-Identifier: Apache-2.0
"""What a recording is to be like."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What is recorded. Rates in kbit/s, sizes in pixels, both even."""

    width: int
    height: int
    fps: int
    video_kbps: int
    audio_kbps: int
    has_video: bool = True
