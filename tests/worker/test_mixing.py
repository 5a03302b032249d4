# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import numpy as np
import pytest

from .conftest import Samples, decode
from .test_decode import tone, wav_header


RATE_HZ = 16_000


def write(path: Path, *channels: Samples) -> Path:
    """A file of floats with these channels."""
    data = np.stack(channels, axis=1).astype("<f4").tobytes()
    header = wav_header(
        rate_hz=RATE_HZ, channels=len(channels), data_bytes=len(data), code=3, bits=32
    )
    path.write_bytes(header + data)
    return path


def level(samples: Samples) -> float:
    """RMS of what is heard."""
    return float(np.sqrt(np.mean(samples**2)))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 8, 9, 11, 13, 16, 24, 32])
def test_a_voice_on_any_channel_is_heard(count: int, tmp_path: Path) -> None:
    """However many channels there are, and whichever is spoken on, it is as loud as if alone."""
    voice, silence = tone(3), np.zeros(3 * RATE_HZ, np.float32)
    for spoken in {0, count - 1}:
        channels = [voice if number == spoken else silence for number in range(count)]

        samples = decode(write(tmp_path / "a.wav", *channels))

        assert np.allclose(samples, voice, atol=0.01)


def test_channels_of_opposite_signs_do_not_cancel(tmp_path: Path) -> None:
    """A voice out of phase is as loud as on one channel, also where the louder one changes."""
    voice = tone(4)
    louder = np.repeat(np.array([1, 0.5, 1, 0.5], np.float32), RATE_HZ)

    samples = decode(write(tmp_path / "a.wav", voice * louder, -voice * louder[::-1]))

    assert level(samples) == pytest.approx(level(voice) * 0.75, rel=0.05)
    assert abs(np.corrcoef(samples, voice)[0, 1]) > 0.9


def test_channels_with_voices_of_their_own_are_all_heard(tmp_path: Path) -> None:
    """Two speakers on one channel each are mixed."""
    low, high = tone(3, hz=300), tone(3, hz=1100)

    spectrum = np.abs(np.fft.rfft(decode(write(tmp_path / "a.wav", low, high))))

    assert set(np.argsort(spectrum)[-2:]) == {900, 3300}


@pytest.mark.parametrize("offset", [0.4, -2.0])
def test_an_offset_is_taken_away(offset: float, tmp_path: Path) -> None:
    """Sound that does not swing around zero is made to, before it is cut at full scale."""
    voice = tone(3)

    samples = decode(write(tmp_path / "a.wav", voice + np.float32(offset)))

    assert abs(float(samples.mean())) < 0.001
    assert np.allclose(samples, voice, atol=0.01)


def test_good_sound_stays_as_it_is(tmp_path: Path) -> None:
    """One channel at the right rate is not touched, to the last bit."""
    voice = tone(3)
    voice[:100] += np.float32(0.1)

    assert np.array_equal(decode(write(tmp_path / "a.wav", voice)), voice)
