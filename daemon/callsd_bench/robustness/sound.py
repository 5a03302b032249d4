# SPDX-License-Identifier: Apache-2.0
"""What noise, rooms, microphones and lines do to speech.

Sound is mono at 16 kHz, full scale is 1; nothing here has a state or a clock.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callsd_bench.shared.noise import pink_noise
from callsd_bench.shared.opus import PACKET_SAMPLES, opus_packets
from callsd_worker.media.decode import SAMPLE_RATE_HZ
from callsd_worker.media.live import Piece
from callsd_worker.media.opus import OpusDecoder


Samples = NDArray[np.float32]
Random = np.random.Generator

FULL_SCALE = 32767

RT60_SECONDS = 0.6
"""In which sound fades by 60 dB: a meeting room with hard walls."""

LOSS_BIT_RATE = 12_000
LOSS_SHARE = 0.05

_FRAME_SAMPLES = SAMPLE_RATE_HZ // 50
# Stands for no sound at all, by which nothing can be divided.
_SILENCE = 1e-12
_EARLIEST_ECHO_SECONDS = 0.003
_TELEPHONE_HZ = (300, 3400)
_MU = 255


def to_pcm(samples: Samples) -> NDArray[np.int16]:
    """16-bit samples; what is beyond full scale is clipped."""
    return np.rint(np.clip(samples, -1, 1) * FULL_SCALE).astype(np.int16)


def speech_power(samples: Samples) -> float:
    """Mean square while somebody speaks; pauses do not count.

    It is the median of the frames of speech, raised by what their mean lies above it in ordinary
    speech, 3.5 dB: one cough would move the mean itself.
    """
    count = max(samples.size // _FRAME_SAMPLES, 1)
    frames = np.resize(samples, (count, _FRAME_SAMPLES))
    powers = np.mean(frames.astype(np.float64) ** 2, axis=1)
    spoken = powers[powers >= 0.01 * np.percentile(powers, 95)]
    return max(float(np.median(spoken)) * 10**0.35, _SILENCE)


def louder(samples: Samples, decibels: float) -> Samples:
    """Raised by so much; negative = lowered."""
    return (samples * np.float32(10 ** (decibels / 20))).astype(np.float32)


def with_noise(speech: Samples, noise: Samples, *, snr_db: float) -> Samples:
    """Speech with so much less noise, as loud as before; quieter where it would clip."""
    ratio = speech_power(speech) / _power(noise)
    mixed = speech + louder(noise, 10 * math.log10(ratio) - snr_db)
    return (mixed / np.float32(max(1.0, float(np.abs(mixed).max())))).astype(np.float32)


def babble(voices: Sequence[Samples], length: int, random: Random) -> Samples:
    """Voices at once, all equally loud, each from a random place on, over and over."""
    mixed = np.zeros(length, np.float32)
    for voice in voices:
        begun = np.roll(voice, int(random.integers(voice.size)))
        mixed += np.resize(begun, length) / np.float32(np.sqrt(speech_power(voice)))
    return mixed


def low_passed(samples: Samples, hz: float) -> Samples:
    """Without what is far above a frequency (12 dB per octave): a covered microphone."""
    return _filtered(samples, lambda at: 1 / np.sqrt(1 + (at / hz) ** 4))


def clipped(samples: Samples, *, by_decibels: float) -> Samples:
    """With the loudest sample so far beyond full scale, cut off there, and turned down."""
    peak = max(float(np.abs(samples).max()), _SILENCE)
    return louder(np.clip(louder(samples / np.float32(peak), by_decibels), -1, 1), -3)


def reverberant(samples: Samples, random: Random, *, direct_db: float) -> Samples:
    """As loud as before, in a room; `direct_db`: how far the echoes lie below what is direct."""
    times = np.arange(round(RT60_SECONDS * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    room = random.standard_normal(times.size) * 10 ** (-3 * times / RT60_SECONDS)
    room[times < _EARLIEST_ECHO_SECONDS] = 0
    room *= np.sqrt(10 ** (-direct_db / 10) / np.sum(room**2))
    room[0] = 1
    size = samples.size + room.size
    sound = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(room, size), size)
    return _as_loud(sound[: samples.size].astype(np.float32), _power(samples))


def far(samples: Samples, random: Random) -> Samples:
    """Across the room: more echo than voice, quiet, and the room's own noise."""
    distant = louder(reverberant(samples, random, direct_db=-3), -20)
    return with_noise(distant, pink_noise(samples.size, random), snr_db=15)


def telephone(samples: Samples) -> Samples:
    """Over a line of 8 kHz and 8 bits (µ-law)."""
    low_hz, high_hz = _TELEPHONE_HZ
    band = _filtered(samples, lambda hz: ((low_hz <= hz) & (hz <= high_hz)).astype(np.float64))
    half = np.fft.irfft(np.fft.rfft(band), samples.size // 2) / 2
    companded = np.sign(half) * np.log1p(_MU * np.minimum(np.abs(half), 1)) / np.log1p(_MU)
    coded = np.rint(companded * 127) / 127
    heard = np.sign(coded) * np.expm1(np.abs(coded) * np.log1p(_MU)) / _MU
    return (np.fft.irfft(np.fft.rfft(heard), samples.size) * 2).astype(np.float32)


def lossy(samples: Samples, random: Random) -> Samples:
    """As Opus packets at 12 kbit/s of which 5 % never come; decoded as callsd does live."""
    packets = opus_packets(
        to_pcm(samples),
        bit_rate=LOSS_BIT_RATE,
        options={"packet_loss": f"{LOSS_SHARE:.0%}".rstrip("%"), "fec": "1"},
    )
    comes = random.random(len(packets)) >= LOSS_SHARE
    decoder = OpusDecoder(start_sample=0)
    blocks = decoder.feed(
        [
            Piece(sequence=number, start_sample=number * PACKET_SAMPLES, data=packet)
            for number, packet in enumerate(packets)
            if comes[number]
        ]
    )
    heard = np.zeros(len(packets) * PACKET_SAMPLES, np.float32)
    for block in (*blocks, *decoder.finish()):
        heard[block.start_sample : block.start_sample + block.samples.size] = block.samples
    return heard[: samples.size]


def _power(samples: Samples) -> float:
    return max(float(np.mean(samples.astype(np.float64) ** 2)), _SILENCE)


def _as_loud(samples: Samples, power: float) -> Samples:
    return louder(samples, 10 * math.log10(power / _power(samples)))


def _filtered(samples: Samples, response: Callable[[NDArray[Any]], NDArray[np.float64]]) -> Samples:
    hz = np.fft.rfftfreq(samples.size, 1 / SAMPLE_RATE_HZ)
    return np.fft.irfft(np.fft.rfft(samples) * response(hz), samples.size).astype(np.float32)
