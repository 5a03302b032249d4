# SPDX-License-Identifier: Apache-2.0

from callsd_daemon.domain.capture import CapturedTrack, CaptureResult
from tests.helpers.jobs import NOW


def test_media() -> None:
    """The length of what was captured is that of all tracks, spoken at once or not."""
    tracks = tuple(
        CapturedTrack(
            file_name=f"{seconds}.ogg",
            speaker="Ada",
            speaker_id="ada",
            start_time=NOW,
            duration_seconds=seconds,
        )
        for seconds in (1.5, 2.0)
    )
    assert CaptureResult(tracks=tracks).media_seconds == 3.5
    assert CaptureResult().media_seconds == 0.0
