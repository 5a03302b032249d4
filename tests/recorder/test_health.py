# SPDX-License-Identifier: Apache-2.0

import math
from array import array
from types import SimpleNamespace

import pytest

from callsd_worker.recorder import health
from callsd_worker.recorder.health import LEVEL_BLOCKS, RATE_SECONDS, Gauges, Health, Picture, Tally
from callsd_worker.recorder.sound import RATE_HZ
from callsd_worker.recorder.sound_reader import BLOCK_BYTES


FPS = 20
BLOCK_SAMPLES = BLOCK_BYTES // 2
"""Of both channels."""
SILENCE = bytes(BLOCK_BYTES)
PROBE_BYTES = 128 * 72


class Clock:
    """The monotonic clock, which goes only when told to."""

    def __init__(self) -> None:
        self.now_seconds = 1000.0

    def monotonic(self) -> float:
        """What time.monotonic() says."""
        return self.now_seconds

    def go(self, seconds: float) -> None:
        """Let time pass."""
        self.now_seconds += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that gauges go by."""
    clock = Clock()
    monkeypatch.setattr(health, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


@pytest.fixture
def gauges(clock: Clock) -> Gauges:
    """The gauges of a piece that has just begun."""
    return Gauges()


def picture(number: int) -> bytes:
    """A picture that shows something; each number is another one."""
    return bytes([16, 235, number % 256]) + bytes([128]) * (PROBE_BYTES - 3)


def square_wave(level: int) -> bytes:
    """A block of sound of which each sample has this level, by turns up and down."""
    return array("h", [level, level, level, level, *[-level] * 4] * (BLOCK_SAMPLES // 8)).tobytes()


class TestPicture:
    """What is said of the picture."""

    def test_nothing_is_known_before_the_first_picture(self, gauges: Gauges, clock: Clock) -> None:
        """Without a picture its state is unknown and it is not called still, however long."""
        clock.go(60)
        found = gauges.sample()
        assert found.picture is Picture.UNKNOWN
        assert found.still_seconds == 0.0
        assert found.changed_frame_rate == 0.0

    def test_one_that_changes_is_moving(self, gauges: Gauges, clock: Clock) -> None:
        """A picture that is another one each time moves, at the rate at which it changes."""
        for number in range(5 * FPS + 1):
            gauges.add_picture(picture(number))
            clock.go(1 / FPS)
        found = gauges.sample()
        assert found.picture is Picture.MOVING
        assert found.changed_frame_rate == pytest.approx(FPS, abs=0.3)
        assert found.still_seconds == pytest.approx(1 / FPS)

    def test_only_changes_are_counted(self, gauges: Gauges, clock: Clock) -> None:
        """A page that paints each picture twice has half the rate."""
        for number in range(5 * FPS):
            gauges.add_picture(picture(number // 2))
            clock.go(1 / FPS)
        assert gauges.sample().changed_frame_rate == pytest.approx(FPS / 2, abs=0.3)

    def test_the_rate_forgets_what_is_long_ago(self, gauges: Gauges, clock: Clock) -> None:
        """The rate is that of the last seconds, also when no picture comes any more."""
        for number in range(FPS):
            gauges.add_picture(picture(number))
        clock.go(RATE_SECONDS + 0.1)
        assert gauges.sample().changed_frame_rate == 0.0

    @pytest.mark.parametrize(
        ("seconds", "expected"),
        [(0.0, Picture.MOVING), (10.0, Picture.MOVING), (10.1, Picture.STILL)],
        ids=["at once", "for 10 s", "longer"],
    )
    def test_still_is_what_has_not_changed_for_ten_seconds(
        self, gauges: Gauges, clock: Clock, seconds: float, expected: Picture
    ) -> None:
        """A picture is still after more than ten seconds without a change."""
        gauges.add_picture(picture(1))
        clock.go(seconds)
        gauges.add_picture(picture(1))
        found = gauges.sample()
        assert found.picture is expected
        assert found.still_seconds == pytest.approx(seconds)

    def test_a_change_ends_stillness(self, gauges: Gauges, clock: Clock) -> None:
        """The first other picture makes a still one a moving one."""
        gauges.add_picture(picture(1))
        clock.go(30)
        gauges.add_picture(picture(2))
        found = gauges.sample()
        assert found.picture is Picture.MOVING
        assert found.still_seconds == 0.0

    @pytest.mark.parametrize(
        ("contrast", "expected"),
        [(0, Picture.BLANK), (8, Picture.BLANK), (9, Picture.MOVING)],
    )
    def test_blank_is_what_shows_nothing(
        self, gauges: Gauges, contrast: int, expected: Picture
    ) -> None:
        """A picture of one colour, or of nearly one, is blank."""
        gauges.add_picture(bytes([255] * (PROBE_BYTES - 1) + [255 - contrast]))
        assert gauges.sample().picture is expected

    def test_blank_is_said_rather_than_still(self, gauges: Gauges, clock: Clock) -> None:
        """What is white for long is blank: that says more."""
        gauges.add_picture(bytes(PROBE_BYTES))
        clock.go(60)
        found = gauges.sample()
        assert found.picture is Picture.BLANK
        assert found.still_seconds == pytest.approx(60)

    def test_blankness_ends(self, gauges: Gauges) -> None:
        """A page that shows something at last is not blank any more."""
        gauges.add_picture(bytes(PROBE_BYTES))
        gauges.add_picture(picture(1))
        assert gauges.sample().picture is Picture.MOVING


class TestLevel:
    """How loud it is."""

    def test_no_sound_yet_is_silence(self, gauges: Gauges) -> None:
        """Before any sound the level is that of silence."""
        assert gauges.sample().audio_level_db == -120.0

    def test_silence(self, gauges: Gauges) -> None:
        """Samples of zero have the lowest level there is, not minus infinity."""
        for _ in range(LEVEL_BLOCKS):
            gauges.add_sound(SILENCE)
        assert gauges.sample().audio_level_db == -120.0

    @pytest.mark.parametrize(
        ("level", "expected_db"),
        [(32767, 0.0), (16384, -6.02), (3277, -20.0), (1, -90.31)],
        ids=["full", "half", "a tenth", "the faintest"],
    )
    def test_level_is_in_db_below_full_scale(
        self, gauges: Gauges, level: int, expected_db: float
    ) -> None:
        """A square wave has the level of its height: full scale is 0 dB, half is 6 dB below."""
        gauges.add_sound(square_wave(level))
        assert gauges.sample().audio_level_db == pytest.approx(expected_db, abs=0.01)

    def test_a_sine_is_three_db_below_its_peak(self, gauges: Gauges) -> None:
        """What is told is power: 1 kHz at half of full scale is 9 dB below it, in any phase."""
        wave = [
            round(16384 * math.sin(2 * math.pi * 1000 * (i // 2) / RATE_HZ))
            for i in range(BLOCK_SAMPLES)
        ]
        gauges.add_sound(array("h", wave).tobytes())
        assert gauges.sample().audio_level_db == pytest.approx(-9.03, abs=0.5)

    def test_the_level_is_that_of_the_last_second(self, gauges: Gauges) -> None:
        """After a second of silence what was loud before is forgotten."""
        gauges.add_sound(square_wave(32767))
        for _ in range(LEVEL_BLOCKS - 1):
            gauges.add_sound(SILENCE)
        assert gauges.sample().audio_level_db == pytest.approx(-10.0, abs=0.01)
        gauges.add_sound(SILENCE)
        assert gauges.sample().audio_level_db == -120.0


class TestTally:
    """What is counted over all pieces."""

    def test_the_newest_look_counts(self) -> None:
        """A piece is told by its totals: two looks at it are not added."""
        tally = Tally()
        tally.begin_piece()
        tally.take(Health(frame_count=10, recorded_seconds=0.5, size_bytes=1000))
        tally.take(Health(frame_count=20, recorded_seconds=1.0, size_bytes=2000))
        assert tally.health() == Health(frame_count=20, recorded_seconds=1.0, size_bytes=2000)

    def test_pieces_are_added_up(self) -> None:
        """Frames, seconds and bytes go on from where the last piece ended; the rest begins anew."""
        tally = Tally()
        tally.begin_piece()
        tally.take(
            Health(frame_count=20, recorded_seconds=1.0, size_bytes=2000, picture=Picture.STILL)
        )
        tally.begin_piece()
        assert tally.health() == Health(frame_count=20, recorded_seconds=1.0, size_bytes=2000)
        tally.take(Health(frame_count=5, recorded_seconds=0.25, size_bytes=400))
        assert tally.health() == Health(frame_count=25, recorded_seconds=1.25, size_bytes=2400)
        tally.begin_piece()
        tally.begin_piece()
        assert tally.health().frame_count == 25
