# SPDX-License-Identifier: Apache-2.0

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from callsd_bench.recording.measure import measure, read_counter, ssim
from callsd_bench.shared.errors import BenchError


WIDTH, HEIGHT = 480, 112
FPS = 20
RATE_HZ = 48_000
BLOCK = 16
PERIOD_SECONDS = 2.0
FIRST_FLASH_SECONDS = 1.0


def blocks_of(number: int) -> list[bool]:
    """A strip as the pages paint it: white, black, Gray code, parity, black, white."""
    gray = number ^ (number >> 1)
    bits = [bool(gray >> (23 - bit) & 1) for bit in range(24)]
    return [True, False, *bits, sum(bits) % 2 == 1, False, True]


def picture(number: int, *, is_white: bool, noise: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A frame in RGB: strip, flash, and something that makes the codec work."""
    frame = np.full((HEIGHT, WIDTH, 3), 0x1E, np.uint8)
    frame[BLOCK:, 200:] = noise
    for place, block in enumerate(blocks_of(number)):
        frame[:BLOCK, place * BLOCK : (place + 1) * BLOCK] = 255 if block else 0
    if is_white:
        frame[BLOCK : BLOCK + 96, :96] = 255
    return frame


def sound(
    seconds: float, *, late_seconds: float, drift: float, amplitude: float
) -> NDArray[np.float32]:
    """Beeps of 80 ms, each `late_seconds` after its flash and later by `drift` a second."""
    samples = np.zeros(round(seconds * RATE_HZ), np.float32)
    wave = amplitude * np.sin(2 * np.pi * 1000 / RATE_HZ * np.arange(round(0.08 * RATE_HZ)))
    for flash in np.arange(FIRST_FLASH_SECONDS, seconds - 1, PERIOD_SECONDS):
        at = round((flash + late_seconds + drift * flash) * RATE_HZ)
        samples[at : at + len(wave)] = wave[: max(0, len(samples) - at)]
    return samples


def write(
    path: Path,
    *,
    seconds: float = 12.0,
    late_seconds: float = 0.0,
    drift: float = 0.0,
    amplitude: float = 0.5,
    repeat: int = 1,
    frozen_seconds: tuple[float, float] = (math.inf, math.inf),
) -> None:
    """Write a recording of a page that is known to the last sample.

    Each painting is seen in `repeat` frames, and one all through `frozen_seconds`.
    """
    random = np.random.default_rng(1)
    noise = random.integers(0, 255, (HEIGHT - BLOCK, WIDTH - 200, 3), np.uint8)
    with av.open(str(path), "w") as target:
        video = target.add_stream("libx264", FPS, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.bit_rate = 300_000
        audio = target.add_stream("aac", RATE_HZ, layout="stereo")
        audio.bit_rate = 64_000
        for number in range(round(seconds * FPS)):
            now = number / FPS
            shown = number // repeat
            if frozen_seconds[0] <= now < frozen_seconds[1]:
                shown = round(frozen_seconds[0] * FPS) // repeat
            since_flash = (now - FIRST_FLASH_SECONDS) % PERIOD_SECONDS
            frame = av.VideoFrame.from_ndarray(
                picture(
                    # As a page that has been open for an hour.
                    200_000 + shown,
                    is_white=now >= FIRST_FLASH_SECONDS and since_flash < 0.1,
                    noise=np.roll(noise, number, axis=1),
                )
            )
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            target.mux(video.encode(frame))
        target.mux(video.encode(None))
        samples = sound(seconds, late_seconds=late_seconds, drift=drift, amplitude=amplitude)
        block = av.AudioFrame.from_ndarray(np.stack([samples] * 2), "fltp", "stereo")
        block.sample_rate, block.pts, block.time_base = RATE_HZ, 0, Fraction(1, RATE_HZ)
        target.mux(audio.encode(block))
        target.mux(audio.encode(None))


class TestPicture:
    """What is said of the pictures."""

    def test_every_frame_new(self, tmp_path: Path) -> None:
        """A recording that shows a new painting in each frame is perfect, and every frame reads."""
        write(tmp_path / "call.mp4")

        measured = measure(tmp_path / "call.mp4", fps=FPS)

        assert (measured.width, measured.height) == (WIDTH, HEIGHT)
        assert measured.duration_seconds == pytest.approx(12.0, abs=0.1)
        assert measured.unique_fps == pytest.approx(20.0)
        assert measured.unique_ratio == pytest.approx(1.0)
        assert measured.missing_seconds == pytest.approx(0.05)
        assert measured.unreadable_ratio == 0

    def test_frames_shown_twice(self, tmp_path: Path) -> None:
        """Frames that repeat the one before do not count."""
        write(tmp_path / "call.mp4", repeat=2)

        measured = measure(tmp_path / "call.mp4", fps=FPS)

        assert measured.unique_fps == pytest.approx(10.0, abs=0.1)
        assert measured.unique_ratio == pytest.approx(0.5, abs=0.01)
        assert measured.missing_seconds == pytest.approx(0.1)

    def test_frozen(self, tmp_path: Path) -> None:
        """The longest time that one picture stood still is told."""
        write(tmp_path / "call.mp4", frozen_seconds=(4.0, 5.5))

        assert measure(tmp_path / "call.mp4", fps=FPS).missing_seconds == pytest.approx(1.5)

    def test_frozen_at_the_end(self, tmp_path: Path) -> None:
        """A picture that never moves again is missing until the end."""
        write(tmp_path / "call.mp4", frozen_seconds=(8.0, math.inf))

        missing_seconds = measure(tmp_path / "call.mp4", fps=FPS).missing_seconds

        assert missing_seconds == pytest.approx(12.0 - 8.0, abs=0.06)

    def test_rates(self, tmp_path: Path) -> None:
        """Rates follow from the size of the file."""
        write(tmp_path / "call.mp4")

        measured = measure(tmp_path / "call.mp4", fps=FPS)

        size_bytes = (tmp_path / "call.mp4").stat().st_size
        assert measured.kbps == pytest.approx(size_bytes * 8 / 1000 / measured.duration_seconds)
        assert measured.mb_per_hour == pytest.approx(measured.kbps / 8 * 3.6)
        assert 0.5 < measured.video_kbps / measured.kbps < 1


class TestSync:
    """Beep minus flash."""

    @pytest.mark.parametrize("late_seconds", [-0.431, -0.02, 0.0, 0.0137, 0.606])
    def test_offset(self, tmp_path: Path, late_seconds: float) -> None:
        """An offset between sound and picture is found to a millisecond."""
        write(tmp_path / "call.mp4", late_seconds=late_seconds)

        measured = measure(tmp_path / "call.mp4", fps=FPS)

        assert measured.sync_ms_start == pytest.approx(1000 * late_seconds, abs=1)
        assert measured.sync_ms_end == pytest.approx(1000 * late_seconds, abs=1)

    def test_drift(self, tmp_path: Path) -> None:
        """Sound that falls behind is further behind at the end."""
        write(tmp_path / "call.mp4", seconds=24.0, drift=0.005)

        measured = measure(tmp_path / "call.mp4", fps=FPS)

        # Medians are those of the third flash, and of the third to last.
        assert measured.sync_ms_start == pytest.approx(25.0, abs=1)
        assert measured.sync_ms_end == pytest.approx(85.0, abs=1)

    def test_quiet(self, tmp_path: Path) -> None:
        """How loud the beeps are makes no difference."""
        write(tmp_path / "call.mp4", late_seconds=0.1, amplitude=0.05)

        assert measure(tmp_path / "call.mp4", fps=FPS).sync_ms_start == pytest.approx(100, abs=2)

    def test_silence(self, tmp_path: Path) -> None:
        """Without a beep there is no figure, rather than a false one."""
        write(tmp_path / "call.mp4", amplitude=0.0)

        measured = measure(tmp_path / "call.mp4", fps=FPS)

        assert measured.sync_ms_start is None
        assert measured.sync_ms_end is None


class TestCounter:
    """The strip of blocks."""

    @pytest.mark.parametrize("number", [0, 1, 2, 255, 256, 200_003, 2**24 - 1])
    def test_reads(self, number: int) -> None:
        """What the page paints is read."""
        luma = np.where(blocks_of(number), 200.0, 40.0)

        assert read_counter(luma) == number

    @pytest.mark.parametrize("place", range(29))
    def test_damaged(self, place: int) -> None:
        """A strip of which one block is wrong is unreadable, not another number."""
        luma = np.where(blocks_of(200_003), 235.0, 16.0)
        luma[place] = 251 - luma[place]

        assert read_counter(luma) == -1

    def test_no_strip(self) -> None:
        """A picture without a strip has no number."""
        assert read_counter(np.full(29, 42.0)) == -1


class TestFiles:
    """What can be measured."""

    def test_not_a_recording(self, tmp_path: Path) -> None:
        """A file that is no recording is refused."""
        (tmp_path / "call.mp4").write_bytes(b"no film at all" * 100)

        with pytest.raises(BenchError, match="cannot be decoded"):
            measure(tmp_path / "call.mp4", fps=FPS)

    def test_ssim(self, tmp_path: Path) -> None:
        """Alike is 1; other pictures are less."""
        write(tmp_path / "one.mp4", seconds=4.0)
        write(tmp_path / "other.mp4", seconds=4.0, repeat=3)

        assert ssim(tmp_path / "one.mp4", tmp_path / "one.mp4") == pytest.approx(1.0)
        assert 0.5 < ssim(tmp_path / "one.mp4", tmp_path / "other.mp4") < 0.9999

    def test_ssim_of_nothing(self, tmp_path: Path) -> None:
        """What cannot be compared is an error that says so."""
        with pytest.raises(BenchError, match="cannot be compared"):
            ssim(tmp_path / "none.mp4", tmp_path / "none.mp4")
