# SPDX-License-Identifier: Apache-2.0
"""Judges the sound of one track frame by frame: an energy gate, level control, the network."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from callsd_worker.media.sound import Samples
from callsd_worker.speech.voice.level import LevelControl, frame_power
from callsd_worker.speech.voice.vad import (
    CONTEXT_SAMPLES,
    FRAME_SAMPLES,
    FRAME_SECONDS,
    VoiceDetector,
    VoiceState,
)


class VoiceGate:
    """See above. The network is not asked about silence, and hears quiet speech amplified."""

    def __init__(
        self, detector: VoiceDetector, *, floor_dbfs: float, hangover_seconds: float
    ) -> None:
        self._detector = detector
        self._floor_power = 10.0 ** (floor_dbfs / 10.0)
        self._hangover_frames = round(hangover_seconds / FRAME_SECONDS)
        self._level = LevelControl()
        self.restart()

    def restart(self) -> None:
        """Forget all but the speaker's level: the next audio does not follow the last."""
        self._state = VoiceState()
        self._quiet_frames = self._hangover_frames + 1

    def judge(self, samples: Samples, before: Samples) -> NDArray[np.float32]:
        """Probability of voice for each frame, 0 where the energy gate is closed.

        `samples` are whole frames; `before` is what precedes them, of which up to
        `CONTEXT_SAMPLES` are used.
        """
        power = frame_power(samples)
        before = before[-CONTEXT_SAMPLES:]
        before = np.pad(before, (CONTEXT_SAMPLES - before.size, 0)) * self._level.gain
        raised = samples * self._level.gains(power)
        probabilities = np.zeros(power.size, dtype=np.float32)
        for begin, end in self._open_stretches(power >= self._floor_power):
            first = begin * FRAME_SAMPLES
            probabilities[begin:end] = self._detector.probabilities(
                raised[first : end * FRAME_SAMPLES],
                raised[first - CONTEXT_SAMPLES : first] if first else before,
                self._state,
            )
        return probabilities

    def _open_stretches(self, loud: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
        """Runs of frames, as (first, after), in which the gate is open.

        Where it opens anew the network's state is reset.
        """
        index = np.arange(loud.size)
        last_loud = np.maximum.accumulate(np.where(loud, index, -1 - self._quiet_frames))
        quiet = index - last_loud
        is_open = quiet <= self._hangover_frames
        was_open = self._quiet_frames <= self._hangover_frames
        self._quiet_frames = min(int(quiet[-1]), self._hangover_frames + 1)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], is_open, [False]]).astype(np.int8)))
        for begin, end in edges.reshape(-1, 2).tolist():
            if begin > 0 or not was_open:
                self._state = VoiceState()
            yield begin, end
