# SPDX-License-Identifier: Apache-2.0
"""How a recording is, told from its pictures and its sound."""

from array import array

import pytest

from callsd_worker.recorder.encoder import LEVEL_BYTES, PROBE_BYTES, Written
from callsd_worker.recorder.health import SILENCE_DB, Monitor, Picture


LIGHT_AND_DARK = bytes([0, 255]) * (PROBE_BYTES // 2)
DARK_AND_LIGHT = bytes([255, 0]) * (PROBE_BYTES // 2)
BLOCK = LEVEL_BYTES // 2


class Clock:
    """A clock that is told the time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The monitor's clock."""
    clock = Clock()
    monkeypatch.setattr("callsd_worker.recorder.health.time.monotonic", clock)
    return clock


class TestPicture:
    """What the picture looks like."""

    def test_unknown_at_first(self, clock: Clock) -> None:
        """Before the first picture nothing is claimed."""
        assert Monitor(20).look().picture is Picture.UNKNOWN

    def test_moving(self, clock: Clock) -> None:
        """Pictures that differ are counted by the second."""
        monitor = Monitor(20)
        for number in range(41):
            monitor.take_picture((LIGHT_AND_DARK, DARK_AND_LIGHT)[number % 2])
            clock.now += 0.1
        seen = monitor.look()

        assert seen.picture is Picture.MOVING
        assert seen.changed_frame_rate == pytest.approx(8.0)

    def test_still(self, clock: Clock) -> None:
        """After 10 s without a change the picture stands still."""
        monitor = Monitor(20)
        monitor.take_picture(LIGHT_AND_DARK)
        clock.now += 11
        monitor.take_picture(LIGHT_AND_DARK)
        seen = monitor.look()

        assert (seen.picture, seen.still_seconds) == (Picture.STILL, 11)
        assert seen.changed_frame_rate == 0

    def test_blank(self, clock: Clock) -> None:
        """One colour is nothing to see, however often it is recorded."""
        monitor = Monitor(20)
        monitor.take_picture(bytes([30]) * PROBE_BYTES)
        monitor.take_picture(bytes([34]) * PROBE_BYTES)

        assert monitor.look().picture is Picture.BLANK


class TestSound:
    """How loud it is."""

    def test_silence(self, clock: Clock) -> None:
        """No sound is -120 dB, before the first and with zeros alone."""
        monitor = Monitor(20)
        assert monitor.look().audio_level_db == SILENCE_DB

        monitor.take_sound(bytes(LEVEL_BYTES))
        assert monitor.look().audio_level_db == SILENCE_DB

    @pytest.mark.parametrize(("level", "decibel"), [(32767, 0.0), (3277, -20.0), (328, -40.0)])
    def test_level(self, clock: Clock, level: int, decibel: float) -> None:
        """Full scale is 0 dB, a tenth of it -20 dB."""
        monitor = Monitor(20)
        monitor.take_sound(array("h", [level, -level] * (BLOCK // 2)).tobytes())

        assert monitor.look().audio_level_db == pytest.approx(decibel, abs=0.1)

    def test_drift(self, clock: Clock) -> None:
        """Sound that runs ahead of the pictures is told in milliseconds."""
        monitor = Monitor(20)
        for number in range(3000):
            monitor.take_picture(LIGHT_AND_DARK)
            monitor.take_sound(bytes(LEVEL_BYTES))
            if number % 500 == 499:
                monitor.take_sound(bytes(LEVEL_BYTES))
        drift = monitor.look().drift_ms

        assert drift > 100


def test_pieces_add_up(clock: Clock) -> None:
    """Length, frames and size are those of all pieces; the picture is that of the newest."""
    monitor = Monitor(20)
    monitor.take_written(Written(frames=100, seconds=5.0, size_bytes=1000))
    monitor.take_picture(LIGHT_AND_DARK)
    monitor.begin_piece()
    monitor.take_written(Written(frames=10, seconds=0.5, size_bytes=100))
    seen = monitor.look()

    assert (seen.frame_count, seen.recorded_seconds, seen.size_bytes) == (110, 5.5, 1100)
    assert seen.picture is Picture.UNKNOWN
