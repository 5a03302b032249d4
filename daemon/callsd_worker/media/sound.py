# SPDX-License-Identifier: Apache-2.0
"""Decoded sound, as everything behind the decoders takes it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


Samples = NDArray[np.float32]

SAMPLE_RATE_HZ = 16_000
"""The rate that recognisers and voice detection expect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Consecutive samples; between blocks may be holes, which are silence."""

    start_sample: int
    """Position at 16 kHz."""
    samples: Samples
    """Mono, float32, within [-1, 1], always finite."""
