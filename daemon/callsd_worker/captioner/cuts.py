# SPDX-License-Identifier: Apache-2.0
"""Where continuous speech can be cut with the least harm."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np
from numpy.typing import NDArray

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.engine import TimedWord
from callsd_worker.speech.evidence.phrases import bare
from callsd_worker.speech.voice.level import frame_power
from callsd_worker.speech.voice.vad import FRAME_SAMPLES


_HOP_SAMPLES = 160
"""Pauses are looked for in steps of 10 ms: those between words are short."""

_PAUSE_POWER = 0.002
"""A pause is 27 dB below the louder parts of the speech around it."""

_WORD_EDGE_SECONDS = 0.04
"""The recogniser places the beginning of a word after a pause at the end of the pause, before it,
or at most so much later."""

_MIN_LEFT_SECONDS = 1.5
_MIN_RIGHT_SECONDS = 0.8
"""Shorter pieces are not recognised well."""

_DIP_FRAMES = 3
"""About 0.1 s: the length of a small pause between words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A place between two words."""

    sample: int
    """From the beginning of the window."""
    word_count: int
    """How many words are before it."""
    pause_seconds: float


def cuts_between_words(samples: Samples, words: Sequence[TimedWord]) -> list[Cut]:
    """All good cuts, in order, with at least one of `words` on either side.

    `samples` begin where the word times begin.
    """
    seconds = samples.size / SAMPLE_RATE_HZ
    cuts = []
    for begin, end in _pauses(samples):
        # The recogniser counts a pause with the word before or the word after it. The last word
        # that begins before the pause is over is the one after it.
        after = sum(word.start_seconds <= end + _WORD_EDGE_SECONDS for word in words) - 1
        middle = (begin + end) / 2
        if (
            0 < after < len(words) - 1
            and middle >= _MIN_LEFT_SECONDS
            and seconds - middle >= _MIN_RIGHT_SECONDS
        ):
            cuts.append(
                Cut(
                    sample=int(middle * SAMPLE_RATE_HZ),
                    word_count=after,
                    pause_seconds=end - begin,
                )
            )
    return cuts


def times_of(shown: Sequence[str], heard: Sequence[TimedWord]) -> list[TimedWord]:
    """What was heard at the place of each word that is shown, as far as was heard.

    Words that stay are not always those of the last pass, whose times are known. Without times of
    their own a segment is cut in the dark, and everything it shows is taken off the screen.
    """
    matcher = SequenceMatcher(
        None, [bare(word) for word in shown], [bare(word.text) for word in heard], autojunk=False
    )
    at: list[int] = []
    for _, shown_from, shown_to, heard_from, heard_to in matcher.get_opcodes():
        count = shown_to - shown_from
        at += [heard_from + index * (heard_to - heard_from) // count for index in range(count)]
    return [heard[index] for index in at if index < len(heard)]


def softest_frame(samples: Samples, *, first: int, after: int) -> int:
    """The frame at the softest moment, from `first` to before `after`."""
    power = frame_power(samples[: samples.size // FRAME_SAMPLES * FRAME_SAMPLES])
    smooth = np.convolve(power, np.full(_DIP_FRAMES, 1 / _DIP_FRAMES), mode="same")
    return first + int(np.argmin(smooth[first:after]))


def ends_softly(samples: Samples, *, last_seconds: float) -> int:
    """How many of `samples` to take so that they end at the softest moment of the last seconds.

    A word that is cut in the middle is recognised as another one.
    """
    frames = samples.size // FRAME_SAMPLES
    first = frames - int(last_seconds * SAMPLE_RATE_HZ / FRAME_SAMPLES)
    if first < 1:
        return samples.size
    power = frame_power(samples[first * FRAME_SAMPLES : frames * FRAME_SAMPLES])
    return (first + int(np.argmin(power)) + 1) * FRAME_SAMPLES if power.size else samples.size


def _pauses(samples: Samples) -> NDArray[np.float64]:
    """Start and end of all soft stretches, in seconds; shape (pauses, 2)."""
    hops = samples[: samples.size // _HOP_SAMPLES * _HOP_SAMPLES].reshape(-1, _HOP_SAMPLES)
    if not hops.size:
        return np.zeros((0, 2))
    power = np.einsum("ij,ij->i", hops, hops)
    is_soft = power < _PAUSE_POWER * np.percentile(power, 75)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_soft, [False]]).astype(np.int8)))
    pauses: NDArray[np.float64] = edges.reshape(-1, 2) * _HOP_SAMPLES / SAMPLE_RATE_HZ
    return pauses
