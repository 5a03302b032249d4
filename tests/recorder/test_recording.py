# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from callsd_bench.recording.pages import PageServer
from callsd_worker.recorder.health import Picture
from callsd_worker.recorder.joining import Joined
from callsd_worker.recorder.recording import End, Ending
from callsd_worker.recorder.web_source import Page
from tests.helpers.recordings import SMALL, Recording, recording_of


CONNECTED = "window.callsClient && window.callsClient.connected"
CLOSED = "!window.callsClient || window.callsClient.closed"


def page(url: str) -> Page:
    """A page that says how its call is."""
    return Page(url=url, ready_expression=CONNECTED, over_expression=CLOSED)


@pytest.fixture(scope="module")
def pages() -> Iterator[PageServer]:
    """Serves the test pages."""
    with PageServer() as server:
        yield server


@pytest.fixture(scope="module")
def recording(pages: PageServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recording]:
    """Some seconds of a call."""
    directory = tmp_path_factory.mktemp("whole")
    with recording_of(page(pages.url("typical")), directory) as recording:
        recording.await_seconds(4)
        recording.end()
        yield recording


@pytest.fixture(scope="module")
def joined(recording: Recording) -> Joined:
    """What its pieces become."""
    return recording.join()[0]


class TestWhole:
    """A recording in which nothing dies."""

    def test_it_ends_because_it_was_told_to(self, recording: Recording) -> None:
        """Who is told to stop says so, and nothing was cut short."""
        assert recording.ending == Ending(end=End.STOPPED)
        assert not recording.await_end().is_cut_short

    def test_it_is_one_piece_of_the_size_that_was_asked_for(self, joined: Joined) -> None:
        """Picture size, rate and length are as ordered."""
        assert (joined.width, joined.height) == (SMALL.width, SMALL.height)
        assert joined.frame_rate == pytest.approx(SMALL.fps)
        assert (joined.piece_count, joined.gap_seconds) == (1, 0.0)
        assert 3 <= joined.duration_seconds < 12

    def test_it_tells_how_it_is(self, recording: Recording) -> None:
        """Phases come in their order, and the last look has all that there is to see."""
        phases = [status.phase for status in recording.statuses]
        assert phases[:3] == ["starting", "loading", "recording"]
        assert set(phases[2:]) == {"recording"}
        last = recording.statuses[-1]
        assert last.health is not None
        assert last.segment == 1
        assert last.disk_free_bytes > 0
        assert last.health.picture is Picture.MOVING
        assert last.health.changed_frame_rate > 1
        assert last.health.frame_count > 2 * SMALL.fps
        assert last.health.size_bytes > 20_000
        recorded = last.health.frame_count / SMALL.fps
        assert last.health.recorded_seconds == pytest.approx(recorded, abs=2)
        assert last.health.drift_ms
        assert max(
            status.health.audio_level_db for status in recording.statuses if status.health
        ) == pytest.approx(-20, abs=6)

    def test_nothing_of_it_runs_on(self, recording: Recording) -> None:
        """When it has ended none of its programs is there any more."""
        left = [
            one.name()
            for one in psutil.Process().children(recursive=True)
            if one.status() != psutil.STATUS_ZOMBIE
        ]
        assert left == []


def test_the_page_ends_it(pages: PageServer, tmp_path: Path) -> None:
    """A recording ends by itself when over_expression holds; it is not cut short."""
    with recording_of(page(pages.url("typical", end=2)), tmp_path) as recording:
        assert recording.await_end() == Ending(end=End.OVER)
        joined, _ = recording.join()
        assert 1 <= joined.duration_seconds < 8


def test_a_disk_that_is_nearly_full_ends_it(pages: PageServer, tmp_path: Path) -> None:
    """Before the disk is full the recording ends, with what there is, and says so."""
    with recording_of(page(pages.url("typical")), tmp_path, min_free_bytes=2**60) as recording:
        ending = recording.await_end()
        assert ending.end is End.DISK_LOW
        assert ending.is_cut_short
        assert "MiB of disk are left" in ending.message
