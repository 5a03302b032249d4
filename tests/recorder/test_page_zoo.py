# SPDX-License-Identifier: Apache-2.0
"""Pages that go wrong while they are recorded: what becomes of the recording."""

from collections.abc import Iterator
from pathlib import Path

import av
import psutil
import pytest

from callsd_worker.recorder import recording as module
from callsd_worker.recorder.recording import End
from callsd_worker.recorder.web_source import Page
from tests.helpers.recordings import Recording, recording_of
from tests.helpers.waiting import eventually
from tests.recorder.zoo import Zoo


GREEN, BLUE = (0, 102, 0), (0, 0, 255)
"""The colours of a page, and of what one of them draws."""


@pytest.fixture
def zoo() -> Iterator[Zoo]:
    """Serves them."""
    with Zoo() as zoo:
        yield zoo


def page(zoo: Zoo, name: str, *, ready_timeout_seconds: float = 20.0) -> Page:
    """One of them. It says of itself that it is over when it is not there."""
    return Page(
        url=zoo.url(name),
        ready_expression="window.isReady",
        over_expression="!window.isReady",
        ready_timeout_seconds=ready_timeout_seconds,
    )


def last_colour(path: Path) -> tuple[int, ...]:
    """The colour near the bottom of the last picture."""
    with av.open(str(path)) as file:
        *_, frame = file.decode(video=0)
    return tuple(int(value) for value in frame.to_ndarray(format="rgb24")[-20, -20])


def assert_shows(recording: Recording, colour: tuple[int, int, int], *, pieces: int) -> None:
    """Whatever was recorded is joined, and its last picture has this colour."""
    joined, path = recording.join()
    assert joined.piece_count == pieces
    assert last_colour(path) == pytest.approx(colour, abs=12)


@pytest.mark.parametrize("name", ["dead", "broken"])
def test_an_error_in_its_place_is_not_recorded(zoo: Zoo, tmp_path: Path, name: str) -> None:
    """A page that goes where nobody answers, or where a server fails, is shown again."""
    with recording_of(page(zoo, name), tmp_path) as recording:
        recording.await_seconds(1)
        zoo.go.set()
        recording.await_seconds(4, segment=2)
        assert recording.end().end is End.STOPPED
        assert zoo.visits[name] == 2
        assert_shows(recording, GREEN, pieces=2)


def test_a_page_that_is_gone_is_told_of(zoo: Zoo, tmp_path: Path) -> None:
    """Its recording ends as one whose page was lost, with what there was, and is not over."""
    with recording_of(page(zoo, "gone", ready_timeout_seconds=4.0), tmp_path) as recording:
        recording.await_seconds(1)
        zoo.go.set()
        ending = recording.await_end()
        assert ending.end is End.PAGE_LOST
        assert ending.is_cut_short
        assert "HTTP status 404" in ending.message
        joined, _ = recording.join()
        assert joined.piece_count == 1
        assert joined.duration_seconds > 0.5


def test_a_page_that_goes_wrong_each_time_is_given_up(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page is shown again so many times and no more, after longer and longer pauses."""
    monkeypatch.setattr(module, "MAX_SHORT_PIECES", 2)
    with recording_of(page(zoo, "hopeless"), tmp_path) as recording:
        for segment in (1, 2):
            recording.await_seconds(1, segment=segment)
            zoo.go.set()
        ending = recording.await_end()
        assert ending.end is End.CAPTURE_LOST
        assert ending.is_cut_short
        assert ending.message == "the page answers with HTTP status 503"
        assert zoo.visits["hopeless"] == 2
        joined, _ = recording.join()
        assert joined.duration_seconds > 0.5


def test_a_page_that_crashes_is_shown_again(zoo: Zoo, tmp_path: Path) -> None:
    """When the page's process dies, what it showed before and shows afterwards is recorded."""
    with recording_of(page(zoo, "moved"), tmp_path) as recording:
        recording.await_seconds(1)
        for process in psutil.Process().children(recursive=True):
            if "--type=renderer" in process.cmdline():
                process.kill()
        recording.await_seconds(4, segment=2)
        assert recording.end().end is End.STOPPED
        assert_shows(recording, GREEN, pieces=2)


@pytest.mark.parametrize("name", ["moves", "frame"])
def test_what_a_page_does_itself_is_its_own_affair(zoo: Zoo, tmp_path: Path, name: str) -> None:
    """A page may go on to another one, or have frames that fail: nothing is interrupted."""
    with recording_of(page(zoo, name), tmp_path) as recording:
        gone_on = "moved" if name == "moves" else "error/404"
        before = zoo.visits[gone_on]
        eventually(lambda: zoo.visits[gone_on] > before, "the page goes on")
        recording.await_seconds(2)
        assert recording.end().end is End.STOPPED
        assert zoo.visits[name] == 1
        joined, _ = recording.join()
        assert joined.piece_count == 1


def test_webgl_is_drawn_without_a_graphics_card(zoo: Zoo, tmp_path: Path) -> None:
    """What a page draws with WebGL is in the recording."""
    with recording_of(page(zoo, "webgl"), tmp_path) as recording:
        recording.await_seconds(2)
        recording.end()
        assert_shows(recording, BLUE, pieces=1)
