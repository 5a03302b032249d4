# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.engines.spread import spread


def sound(*parts: tuple[float, float]) -> Samples:
    """Noise of these lengths in seconds and levels."""
    random = np.random.default_rng(1)
    return np.concatenate(
        [random.normal(0, level, round(s * SAMPLE_RATE_HZ)) for s, level in parts]
    ).astype(np.float32)


def test_words_are_where_it_is_loud() -> None:
    """Words lie over the sound, and none lies over the pause: each takes time by its length."""
    times = spread(
        [" aaa", " bbb", " ccccccc"], sound((0.5, 0.001), (1, 0.1), (2, 0.001), (1, 0.1))
    )

    assert times == [
        pytest.approx((0.5, 1.0), abs=0.03),
        pytest.approx((1.0, 1.5), abs=0.03),
        pytest.approx((3.5, 4.5), abs=0.03),
    ]


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.05, 1.0])
@pytest.mark.parametrize("level", [0.0, 0.1])
def test_times_stay_in_the_window_and_in_order(seconds: float, level: float) -> None:
    """However short or silent the window is, and however many the words are."""
    times = spread([" word"] * 40, sound((seconds, level)))

    moments = [moment for pair in times for moment in pair]
    assert len(times) == 40
    assert moments == sorted(moments)
    assert moments[0] >= 0
    assert moments[-1] <= seconds


def test_nothing_is_said() -> None:
    """No words have no times."""
    assert spread([], sound((1, 0.1))) == []
