# SPDX-License-Identifier: Apache-2.0
"""Finds flaws in results: loops, omitted speech, words that nobody said (hallucinations).

A flaw is a reason to recognise again in another way, not a proof: people do repeat themselves.
What is to be believed in the end is decided in `choice.py`.
"""

import zlib
from enum import StrEnum

from callsd_worker.speech.engine import Recognised
from callsd_worker.speech.evidence.gaps import find_gap
from callsd_worker.speech.evidence.phrases import bare, echo_length, repetitions
from callsd_worker.speech.evidence.syllables import Peaks, is_countable, syllables_of


MAX_COMPRESSION_RATIO = 2.2
"""Ordinary text compresses to a bit more than half; text that repeats itself to far less."""

MAX_WORDS_PER_SECOND = 4.6
MAX_TOKENS_PER_SECOND = 10.0
"""Nobody talks faster for a whole window, in any script."""

MIN_TOKENS_PER_VOICED_SECOND = 1.0
MIN_VOICED_SECONDS_FOR_OMISSION = 2.0
"""Slow speech has 2 to 3 tokens a second; with less than one, speech was omitted."""

NO_SPEECH_PROBABILITY = 0.6
NO_SPEECH_LOG_PROBABILITY = -1.0
"""Below it the model is unsure of its words; together with its doubt that anybody speaks, there is
no speech."""

POLITE_LOG_PROBABILITY = -0.8
"""Words of thanks that were said had at least -0.55; what noises are heard as, less than -1.6."""

_POLITE = frozenset(
    {
        "bye",
        "byebye",
        "thanks",
        "thanksforlistening",
        "thanksforwatching",
        "thankyou",
        "thankyouforlistening",
        "thankyouforwatching",
        "thankyousomuch",
        "thankyouverymuch",
        "you",
        "gracias",
        "graciasporver",
        "merci",
        "mercidavoirregardé",
        "vielendank",
        "vielendankfürszuschauen",
    }
)

MAX_SYLLABLES_PER_PEAK = 1.6
SPARE_SYLLABLES = 4
"""More syllables than the sound has, by so much, nobody has said. Of human speech at most 1.5 were
counted for each peak in a sentence of nine, 1.1 in longer ones."""

MIN_SYLLABLES_PER_PEAK = 0.65
MIN_PEAKS_FOR_OMISSION = 8
"""Human speech had at least 0.85, and 0.67 where three words of an utterance were omitted."""

_SHORTEST_TELLING_BYTES = 48


class Flaw(StrEnum):
    """What looks wrong about a result."""

    LOOP = "loop"
    ECHO = "echo"
    TOO_FAST = "too fast"
    UNSAID = "unsaid"
    OMISSION = "omission"
    SKIPPED = "skipped"
    NO_SPEECH = "no speech"


REPEATS = frozenset({Flaw.LOOP, Flaw.ECHO})
"""Signs that words were said again, or were not."""

TOO_FEW = frozenset({Flaw.OMISSION, Flaw.SKIPPED})
"""Signs that something was said that is not there."""


def find_flaw(
    result: Recognised, *, seconds: float, voiced_seconds: float, peaks: Peaks | None
) -> Flaw | None:
    """The first flaw in the result of a window of this length, with these syllables.

    Without `peaks` words are not compared with the sound: a translation has other syllables.
    """
    if is_invented(result, peaks):
        return Flaw.NO_SPEECH
    if is_unsaid(result, peaks):
        return Flaw.UNSAID
    if (repeats := find_repeats(result.text)) is not None:
        return repeats
    if _is_too_fast(result, seconds):
        return Flaw.TOO_FAST
    if (
        voiced_seconds >= MIN_VOICED_SECONDS_FOR_OMISSION
        and result.token_count < MIN_TOKENS_PER_VOICED_SECOND * voiced_seconds
    ):
        return Flaw.OMISSION
    return Flaw.SKIPPED if peaks is not None and _skips_speech(result, peaks) else None


def find_repeats(text: str) -> Flaw | None:
    """LOOP or ECHO, if words are there again and again."""
    words = [bare(word) for word in text.split()]
    if any(repetitions(words)) or compression_ratio(text) > MAX_COMPRESSION_RATIO:
        return Flaw.LOOP
    return Flaw.ECHO if echo_length(words) else None


def _is_too_fast(result: Recognised, seconds: float) -> bool:
    # In less than a second even "yes, I do" exceeds any rate.
    lasting = max(seconds, 1.0)
    return (
        len(result.text.split()) > MAX_WORDS_PER_SECOND * lasting + 1
        or result.token_count > MAX_TOKENS_PER_SECOND * lasting + 8
    )


def _skips_speech(result: Recognised, peaks: Peaks) -> bool:
    is_short = (
        peaks.size >= MIN_PEAKS_FOR_OMISSION
        and is_countable(result.text)
        and syllables_of(result.text) < MIN_SYLLABLES_PER_PEAK * peaks.size
    )
    return is_short or find_gap(result.words, peaks) is not None


def is_unsaid(result: Recognised, peaks: Peaks | None, *, spare: int = SPARE_SYLLABLES) -> bool:
    """Whether the sound has no voice for so many syllables."""
    return (
        peaks is not None
        and syllables_of(result.text) > MAX_SYLLABLES_PER_PEAK * peaks.size + spare
    )


def is_invented(result: Recognised, peaks: Peaks | None) -> bool:
    """Whether the model itself gives the words a low probability, or nothing but words of thanks.

    Those end many videos that models learn from, so that they are what is heard in noise.
    """
    if not result.text:
        return False
    is_polite = bare(result.text) in _POLITE
    limit = result.guess_log_probability
    if is_polite:
        limit = max(limit, POLITE_LOG_PROBABILITY)
    if result.average_log_probability < limit:
        return True
    if is_polite and is_unsaid(result, peaks, spare=1):
        return True
    return (
        result.no_speech_probability > NO_SPEECH_PROBABILITY
        and result.average_log_probability < NO_SPEECH_LOG_PROBABILITY
    )


def compression_ratio(text: str) -> float:
    """Ratio of sizes before and after zlib; 1.0 for texts too short for it to mean anything."""
    data = text.encode()
    if len(data) < _SHORTEST_TELLING_BYTES:
        return 1.0
    return len(data) / len(zlib.compress(data))
