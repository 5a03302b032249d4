# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

from callsd_worker.media.clock import DOUBT_SECONDS, MAX_LEAPS_IN_DOUBT, Places, Run
from callsd_worker.media.decode import SAMPLE_RATE_HZ


class Recording:
    """A file whose sound is the number of its second, and whose clock can be turned."""

    def __init__(self, *, max_hole_seconds: float = 3600.0) -> None:
        self.places = Places(max_hole_seconds=max_hole_seconds)
        self.starts: list[float] = []
        """Where each second of sound was put, in seconds."""
        self._clock_seconds = 0.0

    def play(self, seconds: int, *, leap_seconds: float = 0.0, rate: float = 1.0) -> None:
        """Go on with sound, after a leap of the clock, which then runs at a rate."""
        self._clock_seconds += leap_seconds
        for second in range(seconds):
            self._clock_seconds += rate
            run = Run(
                samples=np.zeros(SAMPLE_RATE_HZ, np.float32),
                leap_seconds=0.0 if second else leap_seconds,
                end_seconds=self._clock_seconds,
            )
            self._note(self.places.place(run))

    def end(self) -> list[float]:
        """End, and tell where each second begins."""
        self._note(self.places.settle())
        return self.starts

    def _note(self, placed: object) -> None:
        assert hasattr(placed, "__iter__")
        self.starts += [start / SAMPLE_RATE_HZ for start, _ in placed]


@pytest.mark.parametrize("seconds", [3, 2 * int(DOUBT_SECONDS)], ids=["short", "long"])
def test_a_hole_stays_one(seconds: int) -> None:
    """What follows a pause has its place behind it, however little it is."""
    recording = Recording()
    recording.play(2)
    recording.play(seconds, leap_seconds=100.0)

    assert recording.end()[:4] == [0, 1, 102, 103]
    assert not recording.places.breaks_seconds


@pytest.mark.parametrize("leap_seconds", [40.0, -4.0, 1e9])
def test_a_wrong_time_moves_nothing(leap_seconds: float) -> None:
    """When the clock goes on as if nothing had been, nothing has been, and holes stay holes."""
    recording = Recording()
    recording.play(5)
    recording.play(5, leap_seconds=leap_seconds)
    recording.play(2, leap_seconds=0.01 - leap_seconds)
    recording.play(1, leap_seconds=7.0)

    assert recording.end() == [*range(12), 19]
    assert not recording.places.breaks_seconds
    assert recording.places.clock_seconds(11.0) == pytest.approx(11.0, abs=0.02)


@pytest.mark.parametrize("leap_seconds", [40.0, 1.0, -4.0])
def test_a_wrong_time_with_holes_behind_it(leap_seconds: float) -> None:
    """Pauses within what has wrong timestamps are kept, and what follows is not late."""
    recording = Recording()
    recording.play(5)
    for leap in (leap_seconds, 0.5, 0.5, -leap_seconds):
        recording.play(2, leap_seconds=leap)

    assert recording.end() == [0, 1, 2, 3, 4, 5, 6, 7.5, 8.5, 10, 11, 12, 13]
    assert not recording.places.breaks_seconds
    assert recording.places.clock_seconds(12.5) == pytest.approx(12.5)


def test_wrong_times_one_after_the_other() -> None:
    """They are undone when the clock is back where it would be without all of them."""
    recording = Recording()
    for leap_seconds in (0.0, 40.0, 30.0, -70.0):
        recording.play(2, leap_seconds=leap_seconds)

    assert recording.end() == list(range(8))
    assert not recording.places.breaks_seconds


def test_leaps_in_doubt_are_bounded() -> None:
    """However often a clock leaps, so many leaps are held at once, and each pause is kept."""
    recording = Recording()
    samples = np.zeros(160, np.float32)
    placed = 0
    for number in range(1, 3 * MAX_LEAPS_IN_DOUBT):
        run = Run(samples=samples, leap_seconds=1.0, end_seconds=1.01 * number)
        placed += len(list(recording.places.place(run)))
        assert number - placed <= MAX_LEAPS_IN_DOUBT

    recording.end()
    assert recording.places.position_samples == number * (SAMPLE_RATE_HZ + 160)


@pytest.mark.parametrize(("leap_seconds", "max_hole_seconds"), [(-5.0, 3600.0), (26_000.0, 10.0)])
@pytest.mark.parametrize("seconds", [4, 2 * int(DOUBT_SECONDS)], ids=["short", "long"])
def test_another_recording_comes_right_behind(
    leap_seconds: float, max_hole_seconds: float, seconds: int
) -> None:
    """It is told where, and its own pauses are kept."""
    recording = Recording(max_hole_seconds=max_hole_seconds)
    recording.play(5)
    recording.play(seconds, leap_seconds=leap_seconds)
    recording.play(1, leap_seconds=3.0)

    assert recording.end() == [*range(5 + seconds), 5 + seconds + 3]
    assert recording.places.breaks_seconds == [5.0]
    assert recording.places.clock_seconds(6.0) == pytest.approx(6.0)


@pytest.mark.parametrize("rate", [0.97, 1.03])
def test_a_clock_that_drifts_is_followed(rate: float) -> None:
    """Sound is not cut or stretched, pauses keep their length, and times are those of the clock."""
    recording = Recording()
    recording.play(100, rate=rate)
    recording.play(10, leap_seconds=20.0)

    starts = recording.end()

    assert starts[:100] == list(range(100))
    assert starts[100] == 120
    assert recording.places.clock_seconds(50.0) == pytest.approx(50 * rate, abs=0.1)
    assert recording.places.clock_seconds(125.0) == pytest.approx(100 * rate + 25, abs=0.1)


def test_a_step_of_the_clock_moves_nothing_before_it() -> None:
    """What was right for long stays so when the clock is fast for a few seconds behind it."""
    recording = Recording()
    recording.play(1000)
    recording.play(4, rate=1.05)
    recording.end()

    assert recording.places.clock_seconds(999.0) == pytest.approx(999.0)
    assert recording.places.clock_seconds(1004.0) == pytest.approx(1004.2, abs=0.07)
