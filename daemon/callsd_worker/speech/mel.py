# SPDX-License-Identifier: Apache-2.0
"""Log-mel features as Whisper was trained on them, for audio of any length up to 30 s."""

import numpy as np
from numpy.typing import NDArray


Samples = NDArray[np.float32]
Features = NDArray[np.float32]

SAMPLE_RATE_HZ = 16_000
HOP_SAMPLES = 160
FRAMES_PER_SECOND = SAMPLE_RATE_HZ // HOP_SAMPLES
MAX_FRAMES = 3_000
"""30 s: the positions the encoder has."""

_FFT_SAMPLES = 400


class MelFilter:
    """Features of shape (mels, frames): 25 ms windows every 10 ms, Slaney mel bands, log10."""

    def __init__(self, mels: int) -> None:
        self._bands = _mel_bands(mels)
        phase = 2.0 * np.pi * np.arange(_FFT_SAMPLES) / _FFT_SAMPLES
        self._taper = (0.5 - 0.5 * np.cos(phase)).astype(np.float32)

    def __call__(self, samples: Samples, *, frames: int) -> Features:
        """Features of `samples`, filled with silence or cut to `frames` (10 ms each)."""
        edge = _FFT_SAMPLES // 2
        length = frames * HOP_SAMPLES
        padded = np.zeros(length + 2 * edge, dtype=np.float32)
        used = min(samples.size, length)
        padded[edge : edge + used] = samples[:used]
        # The model saw mirrored edges in training.
        padded[:edge] = padded[edge + 1 : 2 * edge + 1][::-1]
        padded[edge + length :] = padded[length - 1 : edge + length - 1][::-1]
        views = np.lib.stride_tricks.sliding_window_view(padded, _FFT_SAMPLES)[::HOP_SAMPLES]
        spectrum = np.fft.rfft(views[:frames] * self._taper, axis=1)
        power = spectrum.real**2 + spectrum.imag**2
        mel = self._bands @ power.astype(np.float32, copy=False).T
        log_mel = np.log10(np.maximum(mel, np.float32(1e-10)))
        # 80 dB of range below the loudest band of the window, then roughly to [-1, 1].
        log_mel = np.maximum(log_mel, log_mel.max() - 8.0)
        scaled: Features = ((log_mel + 4.0) / 4.0).astype(np.float32, copy=False)
        return scaled


def _mel_bands(mels: int) -> NDArray[np.float32]:
    """Triangular filters of equal area on Slaney's scale: linear to 1 kHz, logarithmic above."""
    bin_hz = np.fft.rfftfreq(_FFT_SAMPLES, 1.0 / SAMPLE_RATE_HZ)
    linear_hz_per_mel = 200.0 / 3.0
    knee_mel = 1000.0 / linear_hz_per_mel
    log_step = np.log(6.4) / 27.0
    top_mel = knee_mel + np.log(SAMPLE_RATE_HZ / 2 / 1000.0) / log_step
    edges_mel = np.linspace(0.0, top_mel, mels + 2)
    edges_hz = np.where(
        edges_mel < knee_mel,
        edges_mel * linear_hz_per_mel,
        1000.0 * np.exp(log_step * (edges_mel - knee_mel)),
    )
    low, centre, high = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising = (bin_hz - low) / (centre - low)
    falling = (high - bin_hz) / (high - centre)
    bands: NDArray[np.float64] = np.maximum(0.0, np.minimum(rising, falling)) * 2.0 / (high - low)
    return bands.astype(np.float32)
