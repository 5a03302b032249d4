# SPDX-License-Identifier: Apache-2.0
"""The audio of one track that may still be needed."""

import numpy as np

from callsd_worker.media.sound import Samples


_SMALLEST_SAMPLES = 16_000


class AudioBuffer:
    """Audio is appended at one end and dropped at the other. Positions are absolute samples."""

    def __init__(self, start_sample: int) -> None:
        self._memory: Samples = np.zeros(_SMALLEST_SAMPLES, dtype=np.float32)
        self._used = 0
        self.start_sample = start_sample

    @property
    def end_sample(self) -> int:
        return self.start_sample + self._used

    def append(self, samples: Samples) -> None:
        needed = self._used + samples.size
        if needed > self._memory.size:
            grown = np.zeros(max(needed, 2 * self._memory.size), dtype=np.float32)
            grown[: self._used] = self._memory[: self._used]
            self._memory = grown
        self._memory[self._used : needed] = samples
        self._used = needed

    def read(self, start_sample: int, end_sample: int) -> Samples:
        """A view of the audio between two positions, as far as it is there."""
        first = max(start_sample - self.start_sample, 0)
        return self._memory[first : max(end_sample - self.start_sample, first)][
            : max(self._used - first, 0)
        ]

    def forget(self, before_sample: int) -> None:
        """Drop audio before the position."""
        gone = min(before_sample - self.start_sample, self._used)
        # Moving the rest costs time: worth it only when at least half goes.
        if gone <= 0 or 2 * gone < self._used:
            return
        kept = self._memory[gone : self._used].copy()
        self._memory = np.zeros(max(kept.size, _SMALLEST_SAMPLES), dtype=np.float32)
        self._memory[: kept.size] = kept
        self._used = kept.size
        self.start_sample += gone

    def restart(self, start_sample: int) -> None:
        """Drop everything; the next audio begins at the position."""
        self._memory = np.zeros(_SMALLEST_SAMPLES, dtype=np.float32)
        self._used = 0
        self.start_sample = start_sample
