# SPDX-License-Identifier: Apache-2.0

import math
from array import array
from types import SimpleNamespace

import pytest

from callsd_worker.recorder import health
from callsd_worker.recorder.encoder import LEVEL_BYTES, LEVEL_RATE_HZ, PROBE_BYTES, Written
from callsd_worker.recorder.health import RATE_SECONDS, Monitor, Picture


FPS = 20
BLOCK_SAMPLES = LEVEL_BYTES // 2
SILENCE = bytes(LEVEL_BYTES)


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
    """The clock that a monitor goes by."""
    clock = Clock()
    monkeypatch.setattr(health, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


@pytest.fixture
def monitor(clock: Clock) -> Monitor:
    """A monitor of a recording that has just begun."""
    return Monitor(FPS)


def picture(number: int) -> bytes:
    """A picture that shows something; each number is another one."""
    return bytes([16, 235, number % 256]) + bytes([128]) * (PROBE_BYTES - 3)


def square_wave(level: int) -> bytes:
    """A block of sound of which each sample has this level, by turns up and down."""
    return array("h", [level, level, level, level, *[-level] * 4] * (BLOCK_SAMPLES // 8)).tobytes()


class TestPicture:
    """What is said of the picture."""

    def test_nothing_is_known_before_the_first_picture(
        self, monitor: Monitor, clock: Clock
    ) -> None:
        """Without a picture its state is unknown and it is not called still, however long."""
        clock.go(60)
        found = monitor.look()
        assert found.picture is Picture.UNKNOWN
        assert found.still_seconds == 0.0
        assert found.changed_frame_rate == 0.0

    def test_one_that_changes_is_moving(self, monitor: Monitor, clock: Clock) -> None:
        """A picture that is another one each time moves, at the rate at which it changes."""
        for number in range(5 * FPS + 1):
            monitor.take_picture(picture(number))
            clock.go(1 / FPS)
        found = monitor.look()
        assert found.picture is Picture.MOVING
        assert found.changed_frame_rate == pytest.approx(FPS, abs=0.3)
        assert found.still_seconds == pytest.approx(1 / FPS)

    def test_only_changes_are_counted(self, monitor: Monitor, clock: Clock) -> None:
        """A page that paints each picture twice has half the rate."""
        for number in range(5 * FPS):
            monitor.take_picture(picture(number // 2))
            clock.go(1 / FPS)
        assert monitor.look().changed_frame_rate == pytest.approx(FPS / 2, abs=0.3)

    def test_the_rate_forgets_what_is_long_ago(self, monitor: Monitor, clock: Clock) -> None:
        """The rate is that of the last seconds, also when no picture comes any more."""
        for number in range(FPS):
            monitor.take_picture(picture(number))
        clock.go(RATE_SECONDS + 0.1)
        assert monitor.look().changed_frame_rate == 0.0

    @pytest.mark.parametrize(
        ("seconds", "expected"),
        [(0.0, Picture.MOVING), (10.0, Picture.MOVING), (10.1, Picture.STILL)],
        ids=["at once", "for 10 s", "longer"],
    )
    def test_still_is_what_has_not_changed_for_ten_seconds(
        self, monitor: Monitor, clock: Clock, seconds: float, expected: Picture
    ) -> None:
        """A picture is still after more than ten seconds without a change."""
        monitor.take_picture(picture(1))
        clock.go(seconds)
        monitor.take_picture(picture(1))
        found = monitor.look()
        assert found.picture is expected
        assert found.still_seconds == pytest.approx(seconds)

    def test_a_change_ends_stillness(self, monitor: Monitor, clock: Clock) -> None:
        """The first other picture makes a still one a moving one."""
        monitor.take_picture(picture(1))
        clock.go(30)
        monitor.take_picture(picture(2))
        found = monitor.look()
        assert found.picture is Picture.MOVING
        assert found.still_seconds == 0.0

    @pytest.mark.parametrize(
        ("contrast", "expected"),
        [(0, Picture.BLANK), (8, Picture.BLANK), (9, Picture.MOVING)],
    )
    def test_blank_is_what_shows_nothing(
        self, monitor: Monitor, contrast: int, expected: Picture
    ) -> None:
        """A picture of one colour, or of nearly one, is blank."""
        monitor.take_picture(bytes([255] * (PROBE_BYTES - 1) + [255 - contrast]))
        assert monitor.look().picture is expected

    def test_blank_is_said_rather_than_still(self, monitor: Monitor, clock: Clock) -> None:
        """What is white for long is blank: that says more."""
        monitor.take_picture(bytes(PROBE_BYTES))
        clock.go(60)
        found = monitor.look()
        assert found.picture is Picture.BLANK
        assert found.still_seconds == pytest.approx(60)

    def test_blankness_ends(self, monitor: Monitor) -> None:
        """A page that shows something at last is not blank any more."""
        monitor.take_picture(bytes(PROBE_BYTES))
        monitor.take_picture(picture(1))
        assert monitor.look().picture is Picture.MOVING


class TestLevel:
    """How loud it is."""

    def test_no_sound_yet_is_silence(self, monitor: Monitor) -> None:
        """Before any sound the level is that of silence."""
        assert monitor.look().audio_level_db == -120.0

    def test_silence(self, monitor: Monitor) -> None:
        """Samples of zero have the lowest level there is, not minus infinity."""
        for _ in range(20):
            monitor.take_sound(SILENCE)
        assert monitor.look().audio_level_db == -120.0

    @pytest.mark.parametrize(
        ("level", "expected_db"),
        [(32767, 0.0), (16384, -6.02), (3277, -20.0), (1, -90.31)],
        ids=["full", "half", "a tenth", "the faintest"],
    )
    def test_level_is_in_db_below_full_scale(
        self, monitor: Monitor, level: int, expected_db: float
    ) -> None:
        """A square wave has the level of its height: full scale is 0 dB, half is 6 dB below."""
        monitor.take_sound(square_wave(level))
        assert monitor.look().audio_level_db == pytest.approx(expected_db, abs=0.01)

    def test_a_sine_is_three_db_below_its_peak(self, monitor: Monitor) -> None:
        """What is told is power: 1 kHz at half of full scale is 9 dB below it, in any phase."""
        wave = [
            round(16384 * math.sin(2 * math.pi * 1000 * i / LEVEL_RATE_HZ))
            for i in range(BLOCK_SAMPLES)
        ]
        monitor.take_sound(array("h", wave).tobytes())
        assert monitor.look().audio_level_db == pytest.approx(-9.03, abs=0.5)

    def test_the_level_is_that_of_the_last_second(self, monitor: Monitor) -> None:
        """After a second of silence what was loud before is forgotten."""
        monitor.take_sound(square_wave(32767))
        for _ in range(19):
            monitor.take_sound(SILENCE)
        assert monitor.look().audio_level_db == pytest.approx(-13.01, abs=0.01)
        monitor.take_sound(SILENCE)
        assert monitor.look().audio_level_db == -120.0


class TestSums:
    """What is counted over all pieces."""

    def test_the_newest_word_of_the_encoder_counts(self, monitor: Monitor) -> None:
        """An encoder tells totals: two of its words are not added."""
        monitor.take_written(Written(frames=10, seconds=0.5, size_bytes=1000))
        monitor.take_written(Written(frames=20, seconds=1.0, size_bytes=2000))
        found = monitor.look()
        assert found.frame_count == 20
        assert found.recorded_seconds == 1.0
        assert found.size_bytes == 2000

    def test_pieces_are_added_up(self, monitor: Monitor) -> None:
        """A new piece goes on counting where the one before has ended."""
        for _ in range(3):
            monitor.begin_piece()
            monitor.take_written(Written(frames=20, seconds=1.0, size_bytes=2000))
        found = monitor.look()
        assert found.frame_count == 60
        assert found.recorded_seconds == 3.0
        assert found.size_bytes == 6000

    def test_a_new_piece_begins_with_nothing_seen_or_heard(
        self, monitor: Monitor, clock: Clock
    ) -> None:
        """Picture, loudness and changes are those of the piece that is recorded now."""
        monitor.take_picture(picture(1))
        monitor.take_picture(picture(2))
        monitor.take_sound(square_wave(32767))
        clock.go(30)
        monitor.begin_piece()
        found = monitor.look()
        assert found.picture is Picture.UNKNOWN
        assert found.changed_frame_rate == 0.0
        assert found.audio_level_db == -120.0
        monitor.take_picture(picture(2))
        assert monitor.look().still_seconds == 0.0


class TestDrift:
    """How far sound moves ahead of the picture."""

    @staticmethod
    def run(monitor: Monitor, *, seconds: float, sound_per_picture: float) -> None:
        """Let a piece run: a picture and a block of sound have the same length, 50 ms."""
        sound = 0.0
        for _ in range(round(seconds * FPS)):
            monitor.take_picture(picture(1))
            sound += sound_per_picture
            while sound >= 1:
                sound -= 1
                monitor.take_sound(SILENCE)

    def test_none_while_both_keep_step(self, monitor: Monitor) -> None:
        """As much sound as picture is no drift."""
        self.run(monitor, seconds=120, sound_per_picture=1)
        assert monitor.look().drift_ms == pytest.approx(0.0, abs=1.0)

    def test_a_beginning_apart_is_no_drift(self, monitor: Monitor) -> None:
        """Where both begin does not matter: what counts is what comes after."""
        for _ in range(10):
            monitor.take_sound(SILENCE)
        self.run(monitor, seconds=120, sound_per_picture=1)
        assert monitor.look().drift_ms == pytest.approx(0.0, abs=10.0)

    @pytest.mark.parametrize(
        ("sound_per_picture", "expected_ms"), [(1.01, 1000), (0.99, -1000)], ids=["fast", "slow"]
    )
    def test_sound_that_runs_away(
        self, monitor: Monitor, sound_per_picture: float, expected_ms: float
    ) -> None:
        """Sound that is 1 % too fast (slow) is a second ahead (behind) after 100 s more."""
        self.run(monitor, seconds=60, sound_per_picture=sound_per_picture)
        before_ms = monitor.look().drift_ms
        self.run(monitor, seconds=100, sound_per_picture=sound_per_picture)
        assert monitor.look().drift_ms - before_ms == pytest.approx(expected_ms, abs=60)

    def test_none_without_a_picture(self, monitor: Monitor) -> None:
        """Of sound alone there is nothing to drift from."""
        for _ in range(20 * 60):
            monitor.take_sound(SILENCE)
        assert monitor.look().drift_ms == 0.0

    def test_each_piece_begins_anew(self, monitor: Monitor) -> None:
        """What had drifted is together again in a new piece."""
        self.run(monitor, seconds=60, sound_per_picture=1.02)
        assert monitor.look().drift_ms > 100
        monitor.begin_piece()
        assert monitor.look().drift_ms == 0.0
