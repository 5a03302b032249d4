# SPDX-License-Identifier: Apache-2.0
"""One sentence in every form that Debian's FFmpeg can write it in, and what becomes of it."""

import subprocess
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import numpy as np

from callsd_worker.media.decode import SAMPLE_RATE_HZ, AudioStream, MediaError, Samples
from tests.helpers.daemon import SAMPLE_CALL
from tests.helpers.ffmpeg import ffmpeg


COARSE = {"g723_1": 0.7, "libcodec2": 0.0, "libspeex": 0.8, "nellymoser": 0.8}
"""Codecs that keep the sense of what is said rather than its wave; others are 0.9 like it."""

_USUAL = {
    **dict.fromkeys(("libgsm", "libgsm_ms", "g723_1", "g726", "libcodec2"), (8_000, 1)),
    **dict.fromkeys(("dca", "mlp", "truehd", "s302m", "aptx", "pcm_dvd"), (48_000, 2)),
    **dict.fromkeys(("vorbis", "wmav1", "wmav2", "opus"), (48_000, 2)),
    **dict.fromkeys(("g722", "libspeex", "nellymoser"), (16_000, 1)),
    "adpcm_swf": (22_050, 1),
}
"""Rate and channels of codecs that have few; others have those of the source."""

_RATES_OF_CONTAINERS_HZ = {"flv": 44_100, "voc": 8_000, "mmf": 22_050}

_ARGUMENTS = {"sbc": "-b:a 128k", "g726": "-b:a 32k", "g723_1": "-b:a 6.3k"}


SECONDS = 4.0
"""Of the sentence."""

_RATES_HZ = (8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000)
_CHANNELS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 16)
LENGTHS_SECONDS = (0.5, 1.0, SECONDS)

_UNREADABLE = {("wavpack", 16)}
"""Codec and channels that FFmpeg writes and cannot read itself."""


class Outcome(Enum):
    """What became of a file."""

    RIGHT = "decoded right"
    REFUSED = "refused, with a reason"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A form of the sentence."""

    container: str
    codec: str
    rate_hz: int
    channels: int
    seconds: float = SECONDS

    def __str__(self) -> str:
        return f"{self.container}-{self.codec}-{self.rate_hz}-{self.channels}-{self.seconds:g}"


def usual(container: str, codec: str) -> Case:
    """The form of a codec in a container that is found most."""
    rate_hz, channels = _USUAL.get(codec, (48_000, 1))
    if rate_hz == 48_000:
        rate_hz = _RATES_OF_CONTAINERS_HZ.get(container, rate_hz)
    return Case(container=container, codec=codec, rate_hz=rate_hz, channels=channels)


def varied(container: str, codec: str) -> list[Case]:
    """Rates, numbers of channels and lengths, some of which the codec may not have."""
    case = usual(container, codec)
    return [
        *(
            replace(case, rate_hz=rate_hz, channels=count)
            for rate_hz in _RATES_HZ
            for count in (1, 2)
        ),
        *(
            replace(case, channels=channels)
            for channels in _CHANNELS
            if (codec, channels) not in _UNREADABLE
        ),
        *(replace(case, seconds=seconds) for seconds in LENGTHS_SECONDS),
    ]


def source(path: Path) -> Path:
    """Write what is said."""
    ffmpeg("-ss", "18.2", "-t", str(SECONDS), "-i", SAMPLE_CALL / "maya.ogg", path)
    return path


def decoded(path: Path) -> Samples:
    """The samples of a file."""
    with AudioStream(path) as stream:
        return np.concatenate([block.samples for block in stream.blocks()])


def make(case: Case, source: Path, path: Path) -> bool:
    """Write the sentence; False if FFmpeg cannot: most codecs are not for most containers."""
    arguments: list[str | Path] = ["-i", source, "-t", str(case.seconds), "-c:a", case.codec]
    arguments += ["-strict", "-2", *_ARGUMENTS.get(case.codec, "").split()]
    arguments += ["-ar", str(case.rate_hz), "-ac", str(case.channels)]
    try:
        ffmpeg(*arguments, "-f", case.container, path)
    except subprocess.CalledProcessError:
        return False
    return True


def judge(case: Case, path: Path, reference: Samples) -> tuple[Outcome, str]:
    """Decode it, and compare; the second is why."""
    try:
        with AudioStream(path) as stream:
            blocks = [block.samples for block in stream.blocks()]
            seconds = stream.position_seconds
    except MediaError as error:
        return Outcome.REFUSED, str(error)
    samples = np.concatenate(blocks)
    expected = min(case.seconds, reference.size / SAMPLE_RATE_HZ)
    if not -0.1 < seconds - expected < 0.3:
        return Outcome.WRONG, f"{seconds:.2f} s instead of {expected:.2f}"
    like = likeness(samples, reference[: int(expected * SAMPLE_RATE_HZ)])
    if like < COARSE.get(case.codec, 0.9):
        return Outcome.WRONG, f"{like:.2f} like what was said"
    if stream.notices:
        return Outcome.WRONG, f"told {stream.notices}"
    return Outcome.RIGHT, f"{like:.3f}"


def likeness(samples: Samples, reference: Samples) -> float:
    """1 = the same sound between 200 and 3000 Hz, whatever its loudness and its delay."""
    size = 1 << (samples.size + reference.size).bit_length()
    spectra = [np.fft.rfft(sound, size) for sound in (samples, reference)]
    hertz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ)
    for spectrum in spectra:
        spectrum[(hertz < 200) | (hertz > 3000)] = 0
    one, other = spectra
    energy = np.sqrt(np.sum(np.abs(one) ** 2) * np.sum(np.abs(other) ** 2))
    return float(np.abs(np.fft.irfft(one * np.conj(other), size)).max() * size / 2 / energy)
