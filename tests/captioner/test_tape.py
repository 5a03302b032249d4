# SPDX-License-Identifier: Apache-2.0

import numpy as np

from callsd_worker.captioner.tape import Tape


class TestTape:
    """Sound is kept while it may be needed, and no longer."""

    def test_reads_by_absolute_position(self) -> None:
        """Positions stay what they are when the beginning is forgotten."""
        tape = Tape(1000)
        tape.append(np.arange(40_000, dtype=np.float32))

        tape.forget(31_000)

        assert tape.start_sample == 31_000
        assert tape.end_sample == 41_000
        assert tape.read(35_000, 35_003).tolist() == [34_000.0, 34_001.0, 34_002.0]

    def test_reads_only_what_is_there(self) -> None:
        """Forgotten sound and sound to come are left out."""
        tape = Tape(100)
        tape.append(np.ones(50, dtype=np.float32))

        assert tape.read(0, 120).size == 20
        assert tape.read(140, 900).size == 10

    def test_memory_is_bounded_by_what_is_needed(self) -> None:
        """An hour that is forgotten as it comes takes no more than a second or two."""
        tape = Tape(0)
        block = np.zeros(1600, dtype=np.float32)

        for _ in range(36_000):
            tape.append(block)
            tape.forget(tape.end_sample - 8_000)

        assert tape._memory.nbytes < 300_000
