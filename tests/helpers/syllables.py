# SPDX-License-Identifier: Apache-2.0
"""Sound with as many syllables as are wanted."""

import numpy as np

from callsd_worker.speech.mel import SAMPLE_RATE_HZ, Samples


def syllables(count: int, *, seconds: float, of_seconds: float | None = None) -> Samples:
    """A voice that says `count` syllables in `seconds`, then is silent until `of_seconds`."""
    time = np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    loudness = np.sin(np.pi * count * time / seconds) ** 2
    sound = 0.3 * loudness * np.sign(np.sin(2 * np.pi * 150.0 * time))
    silent = int((of_seconds or seconds) * SAMPLE_RATE_HZ) - sound.size
    padded: Samples = np.pad(sound, (0, silent)).astype(np.float32)
    return padded
