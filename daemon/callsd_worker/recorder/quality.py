# SPDX-License-Identifier: Apache-2.0
"""The quality of a recording."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Size in pixels, both even; rates in kbit/s."""

    width: int
    height: int
    fps: int
    video_kbps: int
    audio_kbps: int
    has_video: bool = True
