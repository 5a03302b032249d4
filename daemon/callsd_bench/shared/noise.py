# SPDX-License-Identifier: Apache-2.0
"""Noise that benchmarks put behind speech."""

import numpy as np
from numpy.typing import NDArray

from callsd_worker.media.sound import SAMPLE_RATE_HZ


_QUIETEST_HZ = 20


def pink_noise(length: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Noise with the same power in each octave, as of fans and roads; its mean square is 1."""
    white = random.standard_normal(length).astype(np.float32)
    hz = np.fft.rfftfreq(length, 1 / SAMPLE_RATE_HZ)
    response = np.where(hz < _QUIETEST_HZ, 0, 1 / np.sqrt(np.maximum(hz, _QUIETEST_HZ)))
    noise = np.fft.irfft(np.fft.rfft(white) * response, length)
    pink: NDArray[np.float32] = (noise / np.sqrt(np.mean(noise**2))).astype(np.float32)
    return pink
