# SPDX-License-Identifier: Apache-2.0

import numpy as np

from callsd_worker.captioner.audio_buffer import AudioBuffer


class TestTape:
    """Sound is kept while it may be needed, and no longer."""

    def test_reads_by_absolute_position(self) -> None:
        """Positions stay what they are when the beginning is forgotten."""
        audio = AudioBuffer(1000)
        audio.append(np.arange(40_000, dtype=np.float32))

        audio.forget(31_000)

        assert audio.start_sample == 31_000
        assert audio.end_sample == 41_000
        assert audio.read(35_000, 35_003).tolist() == [34_000.0, 34_001.0, 34_002.0]

    def test_reads_only_what_is_there(self) -> None:
        """Forgotten sound and sound to come are left out."""
        audio = AudioBuffer(100)
        audio.append(np.ones(50, dtype=np.float32))

        assert audio.read(0, 120).size == 20
        assert audio.read(140, 900).size == 10

    def test_memory_is_bounded_by_what_is_needed(self) -> None:
        """An hour that is forgotten as it comes takes no more than a second or two."""
        audio = AudioBuffer(0)
        block = np.zeros(1600, dtype=np.float32)

        for _ in range(36_000):
            audio.append(block)
            audio.forget(audio.end_sample - 8_000)

        assert audio._memory.nbytes < 300_000
