# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import av
import numpy as np
import pytest

from callsd_worker.media.mixing import Mixer

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


@pytest.mark.parametrize("kind", ["u8", "s16", "s32", "s64", "flt", "dbl"])
@pytest.mark.parametrize("count", [1, 2, 8, 9, 16])
@pytest.mark.parametrize("suffix", ["", "p"], ids=["packed", "planar"])
def test_every_format_of_samples(kind: str, count: int, suffix: str) -> None:
    """Samples of any format, one channel behind the other or mixed, are the same sound."""
    frame = av.AudioFrame(format=kind + suffix, layout=f"{count} channels", samples=RATE_HZ)
    frame.sample_rate = RATE_HZ
    voice = tone(1)
    integers = {"u8": (2**7, np.uint8), "s16": (2**15, np.int16), "s32": (2**31, np.int32)}
    integers["s64"] = (2**63, np.int64)
    if kind in integers:
        scale, dtype = integers[kind]
        data = (voice.astype(np.float64) * (scale - 1) + (scale if kind == "u8" else 0)).astype(
            dtype
        )
    else:
        data = voice.astype(np.float32 if kind == "flt" else np.float64)
    planes = frame.planes[:count] if suffix else frame.planes[:1]
    for plane in planes:
        content = data.tobytes() if suffix else np.repeat(data, count).tobytes()
        plane.update(content + bytes(plane.buffer_size - len(content)))
    mixer = Mixer()

    samples = np.concatenate([*mixer.feed(frame), *mixer.finish()])

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
