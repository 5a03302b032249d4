# SPDX-License-Identifier: Apache-2.0
"""Counts syllables, in sound and in text, to tell words that were said from words that were not.

A syllable is a bump of loudness. Counting bumps misses one in five, mostly where speech is fast or
the room echoes, and noise has some of its own; what a decoder says again and again without a voice
for it has several times as many syllables as there are bumps.
"""

import re
import unicodedata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples


_HOP_SAMPLES = 160
LEVELS_PER_SECOND = SAMPLE_RATE_HZ / _HOP_SAMPLES
_FFT_SAMPLES = 512
_FIRST_BIN, _LAST_BIN = 10, 96
"""300 to 3000 Hz: where vowels are, and hum and hiss are not."""

_SMOOTH_HOPS = 7
"""70 ms: shorter bumps are consonants and the pitch of the voice."""

_MIN_DIP_DB = 2.0
_RANGE_DB = 25.0
"""A bump stands out by so much, and is at most so much softer than the loudest ones."""

_VOWELS = re.compile("[aeiouyàáâãäåæèéêëìíîïòóôõöøùúûüýœ]+")


Peaks = NDArray[np.floating[Any]]
"""When each syllable in a window is loudest, in seconds."""


def syllables_in(samples: Samples) -> Peaks:
    """The syllables of a sound."""
    level = levels(samples)
    if level.size < _SMOOTH_HOPS:
        return np.zeros(0)
    floor = max(float(np.percentile(level, 98)) - _RANGE_DB, -60.0)
    peaks: list[int] = []
    top, low = 0, 0
    for hop in range(1, level.size):
        if level[hop] > level[top]:
            top = hop
        elif level[top] - level[hop] >= _MIN_DIP_DB and level[top] - level[low] >= _MIN_DIP_DB:
            if level[top] > floor:
                peaks.append(top)
            top = low = hop
        if level[hop] < level[low]:
            top = low = hop
    return np.array(peaks) * _HOP_SAMPLES / SAMPLE_RATE_HZ


def levels(samples: Samples) -> NDArray[np.float64]:
    """Loudness of vowels in steps of 10 ms, smoothed, in dB."""
    if samples.size < _FFT_SAMPLES:
        return np.zeros(0)
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FFT_SAMPLES)[::_HOP_SAMPLES]
    spectrum = np.fft.rfft(frames * np.hanning(_FFT_SAMPLES).astype(np.float32), axis=1)
    power = (np.abs(spectrum[:, _FIRST_BIN:_LAST_BIN]) ** 2).sum(axis=1)
    kernel = np.hanning(_SMOOTH_HOPS + 2)[1:-1]
    return 10.0 * np.log10(np.convolve(power, kernel / kernel.sum(), mode="same") + 1e-10)


def is_countable(text: str) -> bool:
    """Whether its syllables can be counted, not only too few of them.

    They can in Latin and Cyrillic letters; a Chinese or Korean character, counted half, is a whole
    syllable.
    """
    letters = [letter for letter in text if letter.isalpha()]
    known = sum(
        unicodedata.name(letter, "").startswith(("LATIN ", "CYRILLIC ")) for letter in letters
    )
    return 2 * known >= len(letters)


def syllables_of(text: str) -> int:
    """About how many syllables a text has, at least 1 for each word.

    Vowels next to each other are one; in scripts without Latin vowels each letter counts half,
    which is too few for some, see `is_countable`.
    """
    return sum(_syllables_of_word(word) for word in text.split())


def _syllables_of_word(word: str) -> int:
    letters = "".join(letter for letter in word.casefold() if letter.isalnum())
    if not letters:
        return 0
    digits = sum(letter.isdigit() for letter in letters)
    if not (letters.isascii() or _VOWELS.search(letters)):
        return max(digits + (len(letters) - digits) // 2, 1)
    groups = len(_VOWELS.findall(letters))
    is_silent = groups > 1 and letters.endswith("e") and not letters.endswith("le")
    return max(groups - is_silent + digits, 1)
