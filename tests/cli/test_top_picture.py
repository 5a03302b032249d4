# SPDX-License-Identifier: Apache-2.0
"""The whole picture of `callsd top`: without a daemon."""

import time

import grpc
import pytest
from rich.cells import cell_len

from callsd import Bookmark, Interrupted, UnavailableError, WatchPosition
from callsd.v1.capacity_pb2 import Capacity
from callsd.v1.recording_pb2 import PICTURE_STATE_BLANK, RecordingHealth
from callsd_daemon.cli.top.state import QUIET_SECONDS
from callsd_daemon.cli.top.view import MAX_BAR_CELLS, frame
from tests.cli.test_top_text import (
    CAPACITY,
    account,
    call,
    known,
    recording,
    text,
    transcription,
    waiting,
)


CROWD = (
    recording(RecordingHealth(picture=PICTURE_STATE_BLANK, segment=4, drift_ms=300)),
    call(),
    *(transcription(f"jobs/{number:020}", age_seconds=1000 + number) for number in range(20)),
    *(waiting(f"jobs/w{number:019}", age_seconds=number) for number in range(40)),
)


class TestPicture:
    """The whole picture."""

    def test_header(self) -> None:
        """Health, counts, pressure, and who has how much of what."""
        lines = text(known()).splitlines()

        assert lines[0] == (
            "callsd SERVING  2 running, 1 waiting  pressure 71%"
            "  0.1.0 at unix:/run/callsd/callsd.sock"
        )
        assert lines[1].split() == [
            *("cores", "█" * 8 + "▒" * 16 + "·" * 8),
            *("2.00", "reserved", "4.00", "others", "2.00", "free", "of", "8.00"),
        ]
        assert "no job runs or waits" in lines

    def test_bar_is_never_too_long(self) -> None:
        """More can be used than there is: others take what was promised."""
        over = Capacity(cores=account(2.0, 2.0, 3.0, 1.0))
        bar = text(known(capacity=over)).splitlines()[1].split()[1]

        assert len(bar) == MAX_BAR_CELLS
        assert set(bar) == {"█"}

    def test_draining(self) -> None:
        """A daemon that shuts down says so."""
        capacity = Capacity()
        capacity.CopyFrom(CAPACITY)
        capacity.draining = True
        found = text(known(capacity=capacity))

        assert "callsd DRAINING" in found
        assert "takes no new jobs" in found

    def test_lost_and_found(self) -> None:
        """A connection that broke is told until something is heard again."""
        state = known(transcription())
        error = UnavailableError(
            "failed to connect: error: Connection refused", code=grpc.StatusCode.UNAVAILABLE
        )
        state.observe(Interrupted(error=error, retry_seconds=0.1))
        lost = text(state)
        state.observe(Bookmark(position=WatchPosition(database_id="d", revision=2)))

        assert "callsd LOST" in lost
        assert "connection lost, trying again: Connection refused" in lost
        assert "LOST" not in text(state)

    def test_a_daemon_that_hangs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A connection on which nothing comes is told, too."""
        state = known()
        before = text(state)
        later = time.monotonic() + QUIET_SECONDS + 1
        monkeypatch.setattr("callsd_daemon.cli.top.state.time.monotonic", lambda: later)

        assert "no answer" not in before
        assert "no answer for 16 s" in text(state)

    @pytest.mark.parametrize("height", [6, 12, 24, 100])
    @pytest.mark.parametrize("width", [20, 40, 60, 68, 80, 100, 132, 200])
    def test_fits(self, width: int, height: int) -> None:
        """No picture is larger than the terminal; what is left out is counted."""
        state = known(*CROWD)
        lines = frame(state, width=width, height=height)

        assert len(lines) <= height
        assert max(cell_len(line.plain) for line in lines) <= width
        if height >= 100:
            assert len(lines) == 4 + 1 + 1 + len(CROWD)
        elif height >= 12 and width >= 40:
            shown = len(lines) - 4 - 1 - 1 - 1
            assert lines[-1].plain == f"… and {len(CROWD) - shown} more: callsd jobs list"

    @pytest.mark.parametrize(
        ("width", "columns"),
        [
            (200, "JOB KIND STATE FOR USED/RESERVED NOW PROBLEM"),
            (120, "JOB KIND STATE FOR NOW PROBLEM"),
            (90, "JOB STATE FOR NOW PROBLEM"),
            (70, "JOB NOW PROBLEM"),
        ],
    )
    def test_what_a_narrow_terminal_keeps(self, width: int, columns: str) -> None:
        """What a job does, and what is wrong with it, is what stays to the last."""
        lines = frame(known(*CROWD), width=width, height=100)

        assert lines[5].plain.split() == columns.split()
