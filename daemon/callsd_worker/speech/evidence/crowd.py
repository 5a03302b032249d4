# SPDX-License-Identifier: Apache-2.0
"""Tells several distant voices at once from somebody who speaks to the microphone.

Speech gets louder and softer with its syllables. Voices at once fill each other's pauses, and a
room smears them: what is left is a murmur of nearly one loudness.
"""

import numpy as np

from callsd_worker.media.sound import Samples
from callsd_worker.speech.engine import Recognised
from callsd_worker.speech.evidence.flaws import TOO_FEW, Flaw
from callsd_worker.speech.evidence.syllables import LEVELS_PER_SECOND, levels


_SLOWEST_HZ = 0.5
"""What changes more slowly is who is nearer, not what is said."""

_MAX_DEPTH = 0.46
"""Of how much louder and softer it gets, relative to the mean. Three to six distant voices at once
had 0.16 to 0.45. Of one voice, what looked wrong had 0.43 and more, 5 dB above six others, too."""

SURE_LOG_PROBABILITY = -0.6
"""Of one voice among others words may be fewer than the syllables of all: those had -0.27 to -0.47
(Whisper), what was made of crowds -1.0. Of one voice in noise Moonshine had -0.59, and of three
voices at once it made 104 fluent words with -0.68."""


def is_of_crowd(result: Recognised, flaw: Flaw | None, samples: Samples) -> bool:
    """Whether a result with this flaw is what decoders make of a crowd."""
    is_sure = result.average_log_probability >= SURE_LOG_PROBABILITY
    return not (flaw in TOO_FEW and is_sure) and is_crowd(samples)


def is_crowd(samples: Samples) -> bool:
    """Whether nobody stands out from a murmur. One voice in loud noise may be taken for one."""
    loudness = 10.0 ** (levels(samples) / 20.0)
    if loudness.size == 0:
        return False
    swing = np.abs(np.fft.rfft(loudness / loudness.mean())) / loudness.size
    hz = np.fft.rfftfreq(loudness.size, 1.0 / LEVELS_PER_SECOND)
    return bool(np.sqrt(2.0 * np.square(swing[hz >= _SLOWEST_HZ]).sum()) < _MAX_DEPTH)
