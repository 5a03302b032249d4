# SPDX-License-Identifier: Apache-2.0

from collections.abc import Sequence

import numpy as np
import pytest

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.engine import DecodeOptions, Encoded, Recognised
from callsd_worker.speech.evidence.pieces import MAX_SECONDS, PIECE_SECONDS, completed
from callsd_worker.speech.evidence.syllables import syllables_in
from tests.helpers.recognised import spoken
from tests.helpers.syllables import syllables


SENTENCE = "did any of us complain"
SAYING_SECONDS, PAUSE_SECONDS = 1.3, 0.3


def sayings(times: int) -> Samples:
    """A voice that says as many syllables as the sentence has, again and again, with pauses."""
    each = SAYING_SECONDS + PAUSE_SECONDS
    return np.tile(syllables(7, seconds=SAYING_SECONDS, of_seconds=each), times)


def heard(
    text: str = SENTENCE, *, log_probability: float = -0.4, seconds: float = SAYING_SECONDS
) -> Recognised:
    """What is heard of one saying."""
    return spoken(text, log_probability=log_probability, seconds=seconds)


class Listener:
    """Gives the prepared answers to the pieces; keeps how long and how they were asked for."""

    name = "listener"
    is_multilingual = False
    languages = frozenset({"en"})
    detects_from_encoding = True
    usual_beam_size = 1
    batch_windows = 2

    def __init__(self, *answers: Recognised) -> None:
        self._answers = list(answers)
        self.seconds: list[float] = []
        self.asked: list[DecodeOptions] = []

    def padded_seconds(self, window_seconds: float) -> float:
        raise NotImplementedError

    def encode(self, window: Samples, *, padded_seconds: float) -> Encoded:
        self.seconds.append(window.size / SAMPLE_RATE_HZ)
        return Encoded(payload=None, seconds=padded_seconds)

    def detect_language(self, encoded: Sequence[Encoded]) -> list[dict[str, float]]:
        raise NotImplementedError

    def recognise(self, encoded: Sequence[Encoded], options: DecodeOptions) -> list[Recognised]:
        assert len(encoded) <= self.batch_windows
        self.asked.append(options)
        return [self._answers.pop(0) for _ in encoded]


def told(engine: Listener, samples: Samples, chosen: Recognised, *others: Recognised) -> Recognised:
    """What is believed of what was chosen of these attempts, and of the pieces of the sound."""
    return completed(
        engine,
        samples,
        chosen,
        [chosen, *others],
        DecodeOptions(language="en", hints="Ada, Maya", is_word_timed=False, max_tokens=90),
        peaks=syllables_in(samples),
        padded_seconds=10.24,
    )


def test_what_was_said_several_times_is_heard_saying_by_saying() -> None:
    """Pieces are cut in the pauses, and each word has its time in the whole."""
    engine = Listener(*[heard()] * 4)

    result = told(engine, sayings(4), heard(seconds=6.4))

    assert result.text == " ".join([SENTENCE] * 4)
    assert all(SAYING_SECONDS <= seconds < PIECE_SECONDS for seconds in engine.seconds)
    starts = [word.start_seconds for word in result.words if word.text == " did"]
    assert starts == pytest.approx([0.0, 1.6, 3.2, 4.8], abs=PAUSE_SECONDS)


def test_a_piece_is_heard_by_itself() -> None:
    """Neither hints nor limits for the whole are for it; its words have times."""
    engine = Listener(*[heard()] * 2)

    told(engine, sayings(2), heard(seconds=3.2))

    assert engine.asked == [DecodeOptions(language="en", is_word_timed=True)]


def test_what_has_words_enough_is_not_heard_again() -> None:
    """In ordinary speech no time is lost."""
    engine = Listener()
    whole = heard(" ".join([SENTENCE] * 3), seconds=4.8)

    assert told(engine, sayings(3), whole) == whole
    assert engine.seconds == []


@pytest.mark.parametrize(
    "pieces",
    [
        [heard(log_probability=-1.2)] * 4,
        [heard("did any"), heard("of us"), heard("complain"), heard("", log_probability=-0.1)],
        [heard("did any of us complain about any of it or about anything at all")] * 4,
    ],
    ids=["guesses", "no more", "too many"],
)
def test_pieces_that_explain_the_sound_no_better_are_not_believed(
    pieces: list[Recognised],
) -> None:
    """The attempt stays that was there before."""
    once = heard(seconds=6.4)

    assert told(Listener(*pieces), sayings(4), once) == once


def test_pieces_decide_between_attempts() -> None:
    """Of two attempts that differ the one that they agree with is believed."""
    twice = heard(" ".join([SENTENCE] * 2), log_probability=-0.9, seconds=3.2)
    once = heard(log_probability=-0.1, seconds=3.2)

    result = told(Listener(*[heard()] * 2), sayings(2), once, twice)

    assert result.text == twice.text


def test_a_piece_without_voice_is_not_heard() -> None:
    """A decoder makes words of silence."""
    engine = Listener(*[heard()] * 3)
    samples = np.pad(sayings(3), (0, 4 * SAMPLE_RATE_HZ))

    told(engine, samples, heard(seconds=4.8))

    assert len(engine.seconds) == 3


def test_what_is_short_has_no_pieces_and_what_is_long_too_many() -> None:
    """One piece would be the same sound again; more than a dozen take too long."""
    engine = Listener()
    short, long = sayings(1), sayings(int(MAX_SECONDS / 1.6) + 1)

    for samples in (short, long):
        once = heard("did any", seconds=samples.size / SAMPLE_RATE_HZ)
        assert told(engine, samples, once) == once
    assert engine.seconds == []
