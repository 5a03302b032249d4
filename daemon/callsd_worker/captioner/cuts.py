# SPDX-License-Identifier: Apache-2.0
"""Where running speech can be cut with the least harm."""

import math
from collections.abc import Sequence

import numpy as np

from callsd_worker.speech.engine import TimedWord
from callsd_worker.speech.mel import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.vad import FRAME_SAMPLES, frame_power


_DIP_FRAMES = 3
"""About 0.1 s: the length of a small pause between words."""

_WORD_EDGE_SECONDS = 0.12
"""How far the recogniser's word times may be wrong."""

_MIN_LEFT_SECONDS = 1.5
_MIN_RIGHT_SECONDS = 0.8
"""Shorter pieces are not recognised well."""


def softest_frame(samples: Samples, *, first: int, after: int) -> int:
    """The frame, of those from `first` to before `after`, in the middle of the softest moment."""
    return first + int(np.argmin(_softness(samples)[first:after]))


def cut_between_words(
    samples: Samples, words: Sequence[TimedWord], *, softer_than: float
) -> tuple[int, int] | None:
    """A cut between two of `words`: (sample, how many words are left of it), or None.

    The last pause that is `softer_than` a part of the power of the speech; with `math.inf` the
    softest. `samples` begin where the word times begin; the last word stays right of the cut.
    """
    power = _softness(samples)
    level = float(np.percentile(power, 75))
    choices = []
    for count in range(1, len(words)):
        left, right = words[count - 1], words[count]
        first = _frame(min(left.end_seconds, right.start_seconds) - _WORD_EDGE_SECONDS)
        after = _frame(max(left.end_seconds, right.start_seconds) + _WORD_EDGE_SECONDS) + 1
        first, after = max(first, 0), min(after, power.size)
        if first >= after:
            continue
        frame = first + int(np.argmin(power[first:after]))
        seconds = frame * FRAME_SAMPLES / SAMPLE_RATE_HZ
        rest_seconds = samples.size / SAMPLE_RATE_HZ - seconds
        if seconds >= _MIN_LEFT_SECONDS and rest_seconds >= _MIN_RIGHT_SECONDS:
            choices.append((float(power[frame]), frame, count))
    if not math.isinf(softer_than):
        choices = [choice for choice in choices if choice[0] < softer_than * level][-1:]
    if not choices:
        return None
    _, frame, count = min(choices)
    return frame * FRAME_SAMPLES + FRAME_SAMPLES // 2, count


def ends_softly(samples: Samples, *, last_seconds: float) -> int:
    """How many of `samples` to take so that they end in the softest of their last moments.

    A word that is cut in the middle is recognised as another one.
    """
    frames = samples.size // FRAME_SAMPLES
    first = frames - int(last_seconds * SAMPLE_RATE_HZ / FRAME_SAMPLES)
    if first < 1:
        return samples.size
    power = frame_power(samples[first * FRAME_SAMPLES : frames * FRAME_SAMPLES])
    return (first + int(np.argmin(power)) + 1) * FRAME_SAMPLES if power.size else samples.size


def _softness(samples: Samples) -> Samples:
    """Power of each frame, averaged over a small pause around it."""
    whole = samples.size // FRAME_SAMPLES * FRAME_SAMPLES
    power = frame_power(samples[:whole])
    return np.convolve(power, np.full(_DIP_FRAMES, 1 / _DIP_FRAMES), mode="same").astype(np.float32)


def _frame(seconds: float) -> int:
    return int(seconds * SAMPLE_RATE_HZ / FRAME_SAMPLES)
