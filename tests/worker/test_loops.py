# SPDX-License-Identifier: Apache-2.0

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callsd_worker.speech.engine import Recognised
from callsd_worker.speech.loops import (
    Flaw,
    compression_ratio,
    find_flaw,
    has_loop,
    is_invented,
    without_repeats,
)


FAIR = (
    "One question for the notes. Did any customer complain, or did we notice it first? "
    "The alert came first, by maybe two minutes."
)


def heard(
    text: str, *, log_probability: float = -0.3, no_speech: float = 0.0, tokens: int | None = None
) -> Recognised:
    """A result with these signs."""
    return Recognised(
        text=text,
        words=(),
        token_count=len(text.split()) * 5 // 4 if tokens is None else tokens,
        average_log_probability=log_probability,
        no_speech_probability=no_speech,
    )


class TestFlaws:
    """Which results are suspicious."""

    def test_fair_speech_has_none(self) -> None:
        """Ordinary sentences at an ordinary rate pass."""
        assert find_flaw(heard(FAIR), seconds=9, voiced_seconds=8) is None

    @pytest.mark.parametrize("text", ["Yes.", "No, no, no.", "Okay. Thank you, Nina."])
    def test_short_answers_pass(self, text: str) -> None:
        """An answer in half a second is neither too fast nor a loop."""
        assert find_flaw(heard(text), seconds=0.6, voiced_seconds=0.4) is None

    @pytest.mark.parametrize(
        "text",
        [
            "and so my fellow americans and so my fellow americans",
            "you know you know you know it is",
            "no no no no no",
            FAIR + " press five to change. press five to change.",
        ],
    )
    def test_loops(self, text: str) -> None:
        """A long phrase twice running, a short one three times, a word five times."""
        assert find_flaw(heard(text), seconds=30, voiced_seconds=5) == Flaw.LOOP

    def test_echo(self) -> None:
        """A last phrase said twice is listened to again, but never cut out: people say so too."""
        text = FAIR + " Works for me. Works for me."

        assert find_flaw(heard(text), seconds=20.0, voiced_seconds=16.0) == Flaw.ECHO
        assert without_repeats(text.split(), text.split()) == text.split()
        assert find_flaw(heard(FAIR + " No, no."), seconds=20.0, voiced_seconds=16.0) is None

    def test_loops_without_spaces(self) -> None:
        """Where no words can be told apart, compression gives the loop away."""
        text = "ありがとうございました" * 12

        assert find_flaw(heard(text, tokens=80), seconds=20, voiced_seconds=20) == Flaw.LOOP

    def test_too_fast(self) -> None:
        """More words than a mouth can say."""
        assert find_flaw(heard(FAIR), seconds=2, voiced_seconds=2) == Flaw.TOO_FAST

    def test_omission(self) -> None:
        """A quarter of a minute of voice is not three words."""
        assert find_flaw(heard("And so on."), seconds=16, voiced_seconds=14) == Flaw.OMISSION

    def test_nothing_heard_in_much_voice(self) -> None:
        """No text at all is an omission too, not silence."""
        assert find_flaw(heard(""), seconds=16, voiced_seconds=14) == Flaw.OMISSION

    def test_doubted_words(self) -> None:
        """Words that the model takes for noise, and is unsure of, are invented."""
        doubted = heard("Thank you.", log_probability=-1.2, no_speech=0.8)

        assert find_flaw(doubted, seconds=3, voiced_seconds=0.2) == Flaw.NO_SPEECH
        assert not is_invented(heard("Thank you.", log_probability=-0.2, no_speech=0.8))
        assert not is_invented(heard("Thank you.", log_probability=-1.2, no_speech=0.1))
        assert is_invented(heard("Th gah nk.", log_probability=-2.0))


class TestRepeats:
    """Cutting loops out."""

    def test_the_loop_is_said_once(self) -> None:
        """What is around a loop stays, the loop itself is kept once."""
        loop = ["press", "five", "to", "leave"]
        words = ["so", *loop, "Press", "five", "to", "leave.", *loop, "now"]

        assert without_repeats(words, words) == ["so", *loop, "now"]

    @given(st.lists(st.sampled_from("abc"), max_size=40))
    def test_nothing_but_repeats_is_lost(self, words: list[str]) -> None:
        """The result is in order, begins and ends like the input's words, and is never empty."""
        kept = without_repeats(words, words)

        assert set(kept) == set(words)
        assert kept[:1] == words[:1]
        assert has_loop(words) == (len(kept) < len(words))

    @given(st.lists(st.integers(), unique=True, max_size=60))
    def test_distinct_words_are_all_kept(self, numbers: list[int]) -> None:
        """Without repetition nothing is touched."""
        words = [f"w{number}" for number in numbers]

        assert without_repeats(words, words) == words


def test_compression_ratio_of_speech() -> None:
    """Fair speech is well below the limit, a loop well above, a short answer says nothing."""
    assert compression_ratio(FAIR) < 1.6
    assert compression_ratio(FAIR * 5) > 2.5
    assert compression_ratio("Yes.") == 1.0
