# SPDX-License-Identifier: Apache-2.0

import numpy as np

from callsd_bench.robustness.sound import far
from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.evidence.crowd import is_crowd


def test_voices_at_once_are_told_from_one(speech: Samples) -> None:
    """Six distant voices at once are a crowd; one of them alone is none, near or far."""
    random = np.random.default_rng(1)
    voices = np.sum([np.roll(speech, at * speech.size // 6) for at in range(6)], axis=0)

    assert is_crowd(far(voices / 6, random))
    assert not is_crowd(far(speech, random))
    assert not is_crowd(speech)


def test_a_moment_is_no_crowd() -> None:
    """What is too short to get louder and softer tells nothing."""
    assert not is_crowd(np.full(SAMPLE_RATE_HZ // 40, 0.1, dtype=np.float32))
