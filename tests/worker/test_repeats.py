# SPDX-License-Identifier: Apache-2.0

from dataclasses import replace

import numpy as np
import pytest

from callsd_worker.speech.choice import choose
from callsd_worker.speech.engine import Recognised, TimedWord
from callsd_worker.speech.repeats import only_lasting, only_sounding


def said(phrase: str, *seconds: tuple[float, ...], before: str = "", after: str = "") -> Recognised:
    """A phrase again and again, its words as long as given each time; half a second for others."""
    texts = [*before.split(), *phrase.split() * len(seconds), *after.split()]
    lasting = [
        *(0.5 for _ in before.split()),
        *(second for saying in seconds for second in saying),
        *(0.5 for _ in after.split()),
    ]
    ends = np.cumsum(lasting).tolist()
    return Recognised(
        text=" ".join(texts),
        words=tuple(
            TimedWord(text=f" {text}", start_seconds=end - length, end_seconds=end, probability=0.9)
            for text, length, end in zip(texts, lasting, ends, strict=True)
        ),
        token_count=len(texts),
        average_log_probability=-0.1,
        no_speech_probability=0.0,
    )


def untimed(text: str) -> Recognised:
    """Words without times."""
    return Recognised(
        text=text,
        words=(),
        token_count=len(text.split()),
        average_log_probability=-0.1,
        no_speech_probability=0.0,
    )


class TestTimes:
    """What words last tells how often they were said."""

    def test_what_lasts_as_long_again_was_said_again(self) -> None:
        """Faster or slower, each time has its own."""
        thrice = said("can you hear me now", *((0.2, 0.1, 0.2, 0.1, 0.4),) * 2, (0.1,) * 5)

        assert only_lasting(thrice) == thrice

    def test_a_loop_has_no_time(self) -> None:
        """The words of a decoder that is stuck are all at one moment."""
        loop = said(
            "works for me",
            (0.3, 0.2, 0.4),
            (0, 0, 0.1),
            *((0, 0, 0),) * 9,
            before="that",
            after="so",
        )

        assert only_lasting(loop).text == "that works for me so"
        assert len(only_lasting(loop).words) == 5

    def test_one_saying_shared_out_is_one(self) -> None:
        """Where two texts share the time of one saying, each word has it once."""
        shared = said(
            "the edge is easy",
            (0.3, 0.4, 0.3, 0.7),
            (0.2, 0.4, 0.3, 0.6),
            (0.3, 0.4, 0.4, 0.0),
            (0.0, 0.0, 0.0, 0.6),
        )

        assert only_lasting(shared).text == "the edge is easy " * 2 + "the edge is easy"

    def test_a_small_word_without_time_takes_nothing_back(self) -> None:
        """An aligner often gives an article no time: the longer words tell."""
        twice = said("the alert came first", (0.1, 0.4, 0.3, 0.5), (0.0, 0.4, 0.2, 0.5))

        assert only_lasting(twice) == twice

    def test_time_that_one_saying_has_for_two_keeps_both(self) -> None:
        """An aligner may give all of one saying's time to a word of the saying before."""
        usual = (0.2, 0.5, 0.3, 0.6)
        taken = said("did any customer complain", usual, (0.2, 2.1, 0.3, 0.6), (0.0,) * 4, usual)

        assert only_lasting(taken) == taken

    def test_one_word_alone_is_not_judged(self) -> None:
        """Of seven fives that were said an aligner gave two hardly any time."""
        fives = said("five", *((time,) for time in (1.1, 0.6, 0.6, 0.7, 0.2, 1.2, 0.1)))

        assert only_lasting(fives) == fives

    def test_words_without_times_stay(self) -> None:
        """Nothing is known of them; nor of words that an aligner gives no time at all."""
        timeless = said("no one knows that", *((0.0,) * 4,) * 3)

        assert only_lasting(untimed("five " * 7)).text == "five " * 7
        assert only_lasting(timeless) == timeless

    def test_agreement_does_not_make_up_for_time(self) -> None:
        """Two attempts that loop alike are believed once, though the sound has the syllables."""
        saying = (0.3, 0.2, 0.4)
        loop = said("works for me", saying, saying, (0.0, 0.0, 0.1))
        same = said("works for me", saying, saying, (0.0, 0.0, 0.0))
        attempts = [loop, replace(same, average_log_probability=-0.2)]

        chosen = choose(attempts, np.arange(9) * 0.2)

        assert chosen is not None
        assert chosen.text == "works for me works for me"


@pytest.mark.parametrize(("peaks", "times"), [(15, 3), (9, 2), (1, 1)])
def test_words_without_times_are_there_as_often_as_their_syllables(peaks: int, times: int) -> None:
    """And at least once."""
    loop = untimed(" ".join(["and so my fellow"] * 3))

    kept = only_sounding(loop, np.arange(peaks) * 0.2)

    assert kept.text == " ".join(["and so my fellow"] * times)
