# SPDX-License-Identifier: Apache-2.0

import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from callsd_bench.recording.measure import Measured, measure
from callsd_bench.recording.pages import PageServer
from callsd_worker.recorder.health import Picture
from callsd_worker.recorder.joining import Joined, join
from callsd_worker.recorder.pieces import find_pieces
from callsd_worker.recorder.quality import Quality
from callsd_worker.recorder.recording import End, Ending, Recorder, Status
from callsd_worker.recorder.web_source import Page
from tests.helpers.waiting import eventually


MEDIUM = Quality(width=1280, height=720, fps=20, video_kbps=1500, audio_kbps=64)
SMALL = Quality(width=640, height=360, fps=10, video_kbps=500, audio_kbps=64)
CONNECTED = "window.callsClient && window.callsClient.connected"
CLOSED = "!window.callsClient || window.callsClient.closed"


class Recording:
    """A recording that runs on a thread of its own."""

    def __init__(self, directory: Path, url: str, quality: Quality, **options: Any) -> None:
        # As the daemon names jobs: a longer path of a socket Chromium refuses.
        self.directory = directory / secrets.token_hex(10)
        self.directory.mkdir()
        self.statuses: list[Status] = []
        self.stop = threading.Event()
        self.ending: Ending | None = None
        self.error: BaseException | None = None
        page = Page(url=url, ready_expression=CONNECTED, over_expression=CLOSED)
        self._recorder = Recorder(
            page,
            quality,
            self.directory,
            report=self.statuses.append,
            should_stop=self.stop.is_set,
            **{"min_free_bytes": 0, "max_seconds": 60.0, **options},
        )
        self._thread = threading.Thread(target=self._run, name="recorder")
        self._thread.start()

    def _run(self) -> None:
        try:
            self.ending = self._recorder.run()
        except BaseException as error:  # noqa: BLE001 - the test's thread is told
            self.error = error

    def seconds_of(self, segment: int) -> float:
        """How much is recorded by now, if it is this piece that is recorded."""
        last = self.statuses[-1] if self.statuses else Status(phase="")
        return last.health.recorded_seconds if last.health and last.segment == segment else 0.0

    def await_seconds(self, seconds: float, *, segment: int = 1) -> None:
        """Wait until so much is recorded in all, in this piece."""
        eventually(
            lambda: self.error or self.seconds_of(segment) >= seconds,
            f"{seconds} s are recorded, in piece {segment}",
            seconds=30,
        )
        assert self.error is None

    def end(self) -> Ending:
        """Stop it, and tell why it has ended."""
        self.stop.set()
        return self.await_end()

    def await_end(self) -> Ending:
        """Wait until it has ended, by itself or because it was told to."""
        self._thread.join(30)
        assert self.error is None
        assert self.ending is not None
        return self.ending

    def join(self) -> tuple[Joined, Path]:
        """Join its pieces."""
        target = self.directory / "recording.mp4"
        return join(find_pieces(self.directory), target), target

    def close(self) -> None:
        """Leave nothing behind."""
        self.stop.set()
        self._thread.join(30)


@pytest.fixture(scope="module")
def pages() -> Iterator[PageServer]:
    """Serves the test pages."""
    with PageServer() as server:
        yield server


def record(tmp_path: Path, url: str, quality: Quality, **options: Any) -> Iterator[Recording]:
    """Record, and end it whatever happens."""
    recording = Recording(tmp_path, url, quality, **options)
    try:
        yield recording
    finally:
        recording.close()


@pytest.fixture(scope="module")
def recording(pages: PageServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recording]:
    """Some seven seconds of a call."""
    directory = tmp_path_factory.mktemp("whole")
    for recording in record(directory, pages.url("typical"), MEDIUM):
        recording.await_seconds(8)
        recording.end()
        yield recording


@pytest.fixture(scope="module")
def joined(recording: Recording) -> Joined:
    """What its pieces become."""
    return recording.join()[0]


@pytest.fixture(scope="module")
def measured(recording: Recording, joined: Joined) -> Measured:
    """What is seen and heard in it."""
    return measure(recording.directory / "recording.mp4", fps=MEDIUM.fps)


@pytest.mark.alone
class TestWhole:
    """A recording in which nothing dies."""

    def test_it_ends_because_it_was_told_to(self, recording: Recording) -> None:
        """Who is told to stop says so, and nothing was cut short."""
        assert recording.ending == Ending(end=End.STOPPED)
        assert not recording.await_end().is_cut_short

    def test_it_is_one_piece_of_the_size_that_was_asked_for(self, joined: Joined) -> None:
        """Picture size, rate and length are as ordered."""
        assert (joined.width, joined.height) == (1280, 720)
        assert joined.frame_rate == pytest.approx(20)
        assert (joined.piece_count, joined.gap_seconds) == (1, 0.0)
        assert 6 <= joined.duration_seconds < 12

    def test_each_picture_is_another_one(self, measured: Measured) -> None:
        """Nearly all pictures that the page paints are in the recording, each readable."""
        assert measured.unique_fps >= 18
        assert measured.unique_ratio <= 1.02
        assert measured.unreadable_ratio < 0.02

    def test_sound_is_where_its_picture_is(self, measured: Measured) -> None:
        """A beep is heard when its flash is seen."""
        assert measured.sync_ms_start is not None
        assert abs(measured.sync_ms_start) < 150

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
        assert last.health.changed_frame_rate > 10
        assert last.health.frame_count >= 100
        assert last.health.size_bytes > 50_000
        assert last.health.recorded_seconds == pytest.approx(last.health.frame_count / 20, abs=1)
        assert 0 < abs(last.health.drift_ms) < 100
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
    for recording in record(tmp_path, pages.url("typical", end=2), SMALL):
        assert recording.await_end() == Ending(end=End.OVER)
        joined, _ = recording.join()
        assert 1 <= joined.duration_seconds < 8


def test_a_disk_that_is_nearly_full_ends_it(pages: PageServer, tmp_path: Path) -> None:
    """Before the disk is full the recording ends, with what there is, and says so."""
    for recording in record(tmp_path, pages.url("typical"), SMALL, min_free_bytes=2**60):
        ending = recording.await_end()
        assert ending.end is End.DISK_LOW
        assert ending.is_cut_short
        assert "MiB of disk are left" in ending.message
