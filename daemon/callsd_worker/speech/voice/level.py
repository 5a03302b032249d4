# SPDX-License-Identifier: Apache-2.0
"""Brings speech to the level that the networks know, however far away the microphone is."""

import numpy as np
from numpy.typing import NDArray

from callsd_worker.media.sound import Samples
from callsd_worker.speech.voice.vad import FRAME_SAMPLES, FRAME_SECONDS


_SPEECH_POWER = 10.0 ** (-20.0 / 10.0)
"""-20 dBFS: the level of speech in the training of the networks."""

_MAX_GAIN = 100.0
"""40 dB, for a microphone turned nearly off. More would turn circuit noise into speech."""

_LEVEL_FRAMES = 32
_LEVEL_PERCENTILE = 60
"""The level is that of the louder frames of a second. A cough or a door is over before it counts,
and held for long a level that is too high hides the speech after it."""

_LEVEL_DECAY_PER_SECOND = 0.9
"""Decay of the level after loud speech: half in 7 s."""

_MOMENT_FRAMES = 8
_PEAK_OVER_LEVEL = 2.0
"""What within the last quarter of a second is more than 3 dB above the level is amplified less: a
short answer after a long silence, which is too short to count, would be distorted."""


class LevelControl:
    """Follows the level of one speaker, frame by frame: blocks of any size give the same."""

    def __init__(self) -> None:
        self._recent = np.zeros(_LEVEL_FRAMES - 1, dtype=np.float32)
        self._level_power = 0.0
        self.gain = np.float32(1.0)
        """Of the last frame."""

    def gains(self, power: NDArray[np.float32]) -> Samples:
        """The factor for each sample of the next frames, whose mean powers are given."""
        known = np.concatenate([self._recent, power])
        self._recent = known[power.size :]
        recent = np.lib.stride_tricks.sliding_window_view(known, _LEVEL_FRAMES)
        peaks = recent[:, -_MOMENT_FRAMES:].max(axis=1)
        levels = self._follow(np.percentile(recent, _LEVEL_PERCENTILE, axis=1))
        # Each frame has one gain, without a ramp from the last: that of silence, in front of a
        # word, would distort the word's beginning.
        gains = _gains(np.maximum(levels, peaks / _PEAK_OVER_LEVEL)).astype(np.float32)
        self.gain = gains[-1]
        return gains.repeat(FRAME_SAMPLES)

    def _follow(self, heard: NDArray[np.float64]) -> NDArray[np.float64]:
        """The level in each frame: what is heard, or what was heard before and has decayed."""
        levels = np.empty_like(heard)
        for index, power in enumerate(heard.tolist()):
            self._level_power *= _LEVEL_DECAY_PER_SECOND**FRAME_SECONDS
            self._level_power = levels[index] = max(self._level_power, power)
        return levels


def amplified(samples: Samples) -> Samples:
    """A copy, amplified to the level of ordinary speech if it is quieter."""
    whole = samples.size // FRAME_SAMPLES * FRAME_SAMPLES
    power = frame_power(samples[:whole])
    if not power.size:
        return samples.copy()
    gain = _gains(np.percentile(power, [90])).astype(np.float32)
    raised: Samples = np.clip(samples * gain, -1.0, 1.0)
    return raised


def frame_power(samples: Samples) -> NDArray[np.float32]:
    """Mean power of each whole frame; 1.0 is a full-scale square wave."""
    frames = samples.reshape(-1, FRAME_SAMPLES)
    power: NDArray[np.float32] = np.einsum("ij,ij->i", frames, frames) / np.float32(FRAME_SAMPLES)
    return power


def _gains(power: NDArray[np.float64]) -> NDArray[np.float64]:
    wanted = np.sqrt(_SPEECH_POWER / np.maximum(power, _SPEECH_POWER / _MAX_GAIN**2))
    gains: NDArray[np.float64] = np.maximum(wanted, 1.0)
    return gains
