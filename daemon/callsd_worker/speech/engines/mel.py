# SPDX-License-Identifier: Apache-2.0
"""Log-mel features as Whisper was trained on them, for audio of any length up to 30 s."""

import numpy as np
from numpy.typing import NDArray

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples


Features = NDArray[np.float32]

HOP_SAMPLES = 160
FRAMES_PER_SECOND = SAMPLE_RATE_HZ // HOP_SAMPLES
MAX_FRAMES = 3_000
"""30 s: the positions the encoder has."""

_FFT_SAMPLES = 400
_STACK_FRAMES = 16


class MelFilter:
    """Features of shape (mels, frames): 25 ms windows every 10 ms, Slaney mel bands, log10."""

    def __init__(self, mels: int) -> None:
        self._bands = mel_filters(mels)
        phase = 2.0 * np.pi * np.arange(_FFT_SAMPLES) / _FFT_SAMPLES
        self._taper = (0.5 - 0.5 * np.cos(phase)).astype(np.float32)

    def __call__(self, samples: Samples, *, frames: int) -> Features:
        """Features of `samples`, filled with silence or cut to `frames` (10 ms each)."""
        edge = _FFT_SAMPLES // 2
        length = frames * HOP_SAMPLES
        padded = np.zeros(length + 2 * edge, dtype=np.float32)
        used = min(samples.size, length)
        padded[edge : edge + used] = samples[:used]
        # In training the edges were mirrored.
        padded[:edge] = padded[edge + 1 : 2 * edge + 1][::-1]
        padded[edge + length :] = padded[length - 1 : edge + length - 1][::-1]
        views = np.lib.stride_tricks.sliding_window_view(padded, _FFT_SAMPLES)[::HOP_SAMPLES]
        spectrum = np.fft.rfft(views[:frames] * self._taper, axis=1)
        power = spectrum.real**2 + spectrum.imag**2
        mel = self._in_bands(power.astype(np.float32, copy=False))
        log_mel = np.log10(np.maximum(mel, np.float32(1e-10)))
        # 80 dB of range below the loudest band of the window, then roughly to [-1, 1].
        log_mel = np.maximum(log_mel, log_mel.max() - 8.0)
        scaled: Features = ((log_mel + 4.0) / 4.0).astype(np.float32, copy=False)
        return scaled

    def _in_bands(self, power: NDArray[np.float32]) -> NDArray[np.float32]:
        """Power of shape (frames, bins) → (mels, frames)."""
        # Many small products: a large one would start the threads of the linear algebra library,
        # which then use cores beyond this job's.
        frames = power.shape[0]
        stacked = np.zeros((-(-frames // _STACK_FRAMES), _STACK_FRAMES, power.shape[1]), np.float32)
        stacked.reshape(-1, power.shape[1])[:frames] = power
        mel: NDArray[np.float32] = (stacked @ self._bands.T).reshape(-1, self._bands.shape[0])
        return np.ascontiguousarray(mel[:frames].T)


def mel_filters(mel_bins: int) -> NDArray[np.float32]:
    """Triangular Slaney filters of shape (mel_bins, 201) over a 400-point spectrum of 16 kHz.

    The Slaney scale is linear (200/3 Hz a mel) up to 1 kHz and logarithmic (27 mels for a factor
    of 6.4) above; each filter has unit area.
    """
    break_mel = 15.0
    top_mel = break_mel + 27 * np.log(SAMPLE_RATE_HZ / 2 / 1000) / np.log(6.4)
    mels = np.linspace(0.0, top_mel, mel_bins + 2)
    edges_hz = np.where(mels < break_mel, mels * 200 / 3, 1000 * 6.4 ** ((mels - break_mel) / 27))
    bins_hz = np.linspace(0, SAMPLE_RATE_HZ / 2, _FFT_SAMPLES // 2 + 1)
    left, centre, right = (edges_hz[i : mel_bins + i, None] for i in range(3))
    rising = (bins_hz - left) / (centre - left)
    falling = (right - bins_hz) / (right - centre)
    triangles = np.maximum(0, np.minimum(rising, falling))
    filters: NDArray[np.float32] = (triangles * 2 / (right - left)).astype(np.float32)
    return filters
