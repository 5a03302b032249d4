# SPDX-License-Identifier: Apache-2.0
"""Sound with as many syllables as are wanted."""

import numpy as np

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples


def syllables(count: int, *, seconds: float, of_seconds: float | None = None) -> Samples:
    """A voice that says `count` syllables in `seconds`, then is silent until `of_seconds`."""
    time = np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    loudness = np.sin(np.pi * count * time / seconds) ** 2
    sound = 0.3 * loudness * np.sign(np.sin(2 * np.pi * 150.0 * time))
    silent = int((of_seconds or seconds) * SAMPLE_RATE_HZ) - sound.size
    padded: Samples = np.pad(sound, (0, silent)).astype(np.float32)
    return padded


def murmur(count: int, *, seconds: float) -> Samples:
    """Several voices at once: none of the `count` syllables stands out."""
    time = np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    loudness = 1.0 + 0.2 * np.sin(2 * np.pi * count * time / seconds)
    sound: Samples = (0.1 * loudness * np.sign(np.sin(2 * np.pi * 150.0 * time))).astype(np.float32)
    return sound
