# SPDX-License-Identifier: Apache-2.0

from dataclasses import replace

import numpy as np
import pytest

from callsd_worker.speech.engine import Recognised, TimedWord
from callsd_worker.speech.evidence.choice import choose
from callsd_worker.speech.evidence.repeats import only_lasting, only_sounding


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


SILENT = np.zeros(0)


class TestTimes:
    """What words last tells how often they were said."""

    def test_what_lasts_as_long_again_was_said_again(self) -> None:
        """Faster or slower, each time has its own."""
        thrice = said("can you hear me now", *((0.2, 0.1, 0.2, 0.1, 0.4),) * 2, (0.1,) * 5)

        assert only_lasting(thrice, SILENT) == thrice

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

        assert only_lasting(loop, SILENT).text == "that works for me so"
        assert len(only_lasting(loop, SILENT).words) == 5

    def test_one_saying_shared_out_is_one(self) -> None:
        """Where two texts share the time of one saying, each word has it once."""
        shared = said(
            "the edge is easy",
            (0.3, 0.4, 0.3, 0.7),
            (0.2, 0.4, 0.3, 0.6),
            (0.3, 0.4, 0.4, 0.0),
            (0.0, 0.0, 0.0, 0.6),
        )

        assert only_lasting(shared, SILENT).text == "the edge is easy " * 2 + "the edge is easy"

    def test_a_small_word_without_time_takes_nothing_back(self) -> None:
        """An aligner often gives an article no time: the longer words tell."""
        twice = said("the alert came first", (0.1, 0.4, 0.3, 0.5), (0.0, 0.4, 0.2, 0.5))

        assert only_lasting(twice, SILENT) == twice

    def test_time_that_one_saying_has_for_two_keeps_both(self) -> None:
        """An aligner may give all of one saying's time to a word of the saying before."""
        usual = (0.2, 0.5, 0.3, 0.6)
        taken = said("did any customer complain", usual, (0.2, 2.1, 0.3, 0.6), (0.0,) * 4, usual)

        assert only_lasting(taken, SILENT) == taken

    def test_a_saying_with_the_time_of_two_may_be_the_longer_of_two(self) -> None:
        """Said three times, and the aligner gives the last one's time to the first."""
        first, second = (0.38, 0.26, 0.34, 1.38, 0.66), (0.12, 0.2, 0.22, 0.18, 0.64)
        thrice = said("can you hear me now", first, second, (0.34, 0, 0, 0, 0), after="okay good")

        assert only_lasting(thrice, SILENT) == thrice

    def test_a_hurried_saying_makes_no_two_of_another(self) -> None:
        """A decoder that is stuck gives the second saying some of the first one's time."""
        loop = said("works for me", (0.5, 0.3, 0.6), (0.1, 0.05, 0.1), (0, 0, 0))

        assert only_lasting(loop, SILENT).text == "works for me"

    @pytest.mark.parametrize("peaks", [0, 7])
    def test_a_word_is_there_as_often_as_it_has_time(self, peaks: int) -> None:
        """Of seven fives that were said an aligner gave two hardly any time, but others twice."""
        seconds = (1.1, 0.6, 0.6, 0.7, 0.2, 1.2, 0.1)
        fives = said("five", *((time,) for time in seconds))
        more = said("five", *((time,) for time in (*seconds, 0.0, 0.0)))

        assert only_lasting(fives, np.arange(peaks) * 0.6) == fives
        assert only_lasting(more, np.arange(peaks) * 0.6).text == fives.text

    def test_a_word_that_has_syllables_stays(self) -> None:
        """Where an aligner gives no time to a word, no other word of the phrase corrects it."""
        fives = said("five", (0.6,), (0.6,), (0.6,), (0.0,), (0.0,), (0.6,))

        assert only_lasting(fives, np.arange(6) * 0.4) == fives
        assert only_lasting(fives, np.arange(3) * 0.4).text == "five five five five"

    def test_words_without_times_stay(self) -> None:
        """Nothing is known of them; nor of words that an aligner gives no time at all."""
        timeless = said("no one knows that", *((0.0,) * 4,) * 3)

        assert only_lasting(untimed("five " * 7), SILENT).text == "five " * 7
        assert only_lasting(timeless, SILENT) == timeless

    def test_an_attempt_that_leaves_a_saying_out_is_not_chosen(self) -> None:
        """One saying has the time of two, and nothing else has it: another attempt is believed."""
        usual = (0.2, 0.4, 0.4, 0.6)
        short = said("did any customer complain", usual, (0.2, 0.4, 0.4, 2.4), usual, usual)
        whole = said("did any customer comply", *(usual,) * 5, (0.1, 0.0, 0.0, 0.0))
        attempts = [replace(whole, average_log_probability=-0.2), short]

        chosen = choose(attempts, np.arange(34) * 0.24)

        assert chosen is not None
        assert chosen.text == "did any customer comply " * 4 + "did any customer comply"

    def test_agreement_does_not_make_up_for_time(self) -> None:
        """Two attempts that loop alike are believed once, though the sound has the syllables."""
        saying = (0.3, 0.2, 0.4)
        loop = said("works for me", saying, saying, (0.0, 0.0, 0.1))
        same = said("works for me", saying, saying, (0.0, 0.0, 0.0))
        attempts = [loop, replace(same, average_log_probability=-0.2)]

        chosen = choose(attempts, np.arange(9) * 0.2)

        assert chosen is not None
        assert chosen.text == "works for me works for me"


@pytest.mark.parametrize(
    ("phrase", "peaks", "times"),
    [
        ("and so my fellow", 15, 3),
        ("and so my fellow", 9, 2),
        ("and so my fellow", 1, 1),
        ("five", 7, 7),
    ],
)
def test_words_without_times_are_there_as_often_as_their_syllables(
    phrase: str, peaks: int, times: int
) -> None:
    """And at least once; some syllables of a phrase are missed, of a word by itself none."""
    loop = untimed(" ".join([phrase] * (3 if " " in phrase else 9)))

    kept = only_sounding(loop, np.arange(peaks) * 0.2)

    assert kept.text == " ".join([phrase] * times)


@pytest.mark.parametrize("is_timed", [False, True])
def test_a_quick_answer_stays(*, is_timed: bool) -> None:
    """What is said three times in one breath is one bump of loudness, and was said three times."""
    answer = said("no", *((0.15,),) * 3) if is_timed else untimed("no no no")

    assert only_sounding(answer, np.zeros(1)) == answer


def test_times_that_are_guessed_prove_nothing() -> None:
    """Each word has a part of the window by its length, said or not: the syllables tell."""
    guessed = replace(said("five", *((0.4,),) * 12), is_aligned=False)

    assert only_lasting(guessed, np.zeros(7)) == guessed
    assert only_sounding(guessed, np.arange(7) * 0.6).text == " ".join(["five"] * 7)
