# SPDX-License-Identifier: Apache-2.0

from dataclasses import replace

import numpy as np
import pytest

from callsd_worker.speech.engine import Recognised
from callsd_worker.speech.evidence.flaws import (
    Flaw,
    compression_ratio,
    find_flaw,
)
from callsd_worker.speech.evidence.syllables import syllables_of


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


def flaw_of(
    result: Recognised, *, seconds: float, voiced_seconds: float, said: int | None = None
) -> Flaw | None:
    """The flaw, in a sound of as many syllables as the words have if nothing else is said."""
    count = syllables_of(result.text) if said is None else said
    return find_flaw(
        result, seconds=seconds, voiced_seconds=voiced_seconds, peaks=np.arange(count) * 0.2
    )


class TestFlaws:
    """Which results are suspicious."""

    def test_fair_speech_has_none(self) -> None:
        """Ordinary sentences at an ordinary rate pass."""
        assert flaw_of(heard(FAIR), seconds=9, voiced_seconds=8) is None

    @pytest.mark.parametrize("text", ["Yes.", "No, no.", "Okay. Thank you, Nina."])
    def test_short_answers_pass(self, text: str) -> None:
        """An answer in half a second is neither too fast nor a loop."""
        assert flaw_of(heard(text), seconds=0.6, voiced_seconds=0.4) is None

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
        assert flaw_of(heard(text), seconds=30, voiced_seconds=5) == Flaw.LOOP

    def test_echo(self) -> None:
        """A last phrase said twice is listened to again."""
        text = FAIR + " Works for me. Works for me."

        assert flaw_of(heard(text), seconds=20.0, voiced_seconds=16.0) == Flaw.ECHO
        assert flaw_of(heard(FAIR + " No, no."), seconds=20.0, voiced_seconds=16.0) is None

    def test_loops_without_spaces(self) -> None:
        """Where no words can be told apart, compression gives the loop away."""
        text = "ありがとうございました" * 12

        assert flaw_of(heard(text, tokens=80), seconds=20, voiced_seconds=20) == Flaw.LOOP

    def test_too_fast(self) -> None:
        """More words than a mouth can say."""
        assert flaw_of(heard(FAIR), seconds=2, voiced_seconds=2) == Flaw.TOO_FAST

    def test_omission(self) -> None:
        """A quarter of a minute of voice is not three words."""
        assert flaw_of(heard("And so on."), seconds=16, voiced_seconds=14) == Flaw.OMISSION

    def test_nothing_heard_in_much_voice(self) -> None:
        """No text at all is an omission too, not silence."""
        assert flaw_of(heard(""), seconds=16, voiced_seconds=14) == Flaw.OMISSION

    def test_words_without_sound(self) -> None:
        """More syllables than there are bumps of loudness were not all said."""
        assert flaw_of(heard(FAIR), seconds=20, voiced_seconds=8, said=10) == Flaw.UNSAID
        assert flaw_of(heard("Thank you."), seconds=3, voiced_seconds=0.3, said=1) is None

    def test_fewer_words_than_sound(self) -> None:
        """A sentence said three times and written once is an omission."""
        once = heard("Can you hear me now? Okay, good.")

        assert flaw_of(once, seconds=6, voiced_seconds=4, said=14) == Flaw.SKIPPED

    def test_doubted_words(self) -> None:
        """Words that the model takes for noise, and is unsure of, are invented."""
        doubted = heard("Thank you.", log_probability=-1.2, no_speech=0.8)

        assert flaw_of(doubted, seconds=3, voiced_seconds=0.2) == Flaw.NO_SPEECH
        assert (
            flaw_of(
                heard("Got it.", log_probability=-0.2, no_speech=0.8), seconds=3, voiced_seconds=1
            )
            is None
        )
        assert (
            flaw_of(
                heard("Got it.", log_probability=-1.2, no_speech=0.1), seconds=3, voiced_seconds=1
            )
            is None
        )
        assert (
            flaw_of(heard("Th gah nk.", log_probability=-2.0), seconds=3, voiced_seconds=1)
            == Flaw.NO_SPEECH
        )

    def test_each_engine_doubts_in_its_own_way(self) -> None:
        """Words are noise below the limit that was measured for their engine, wherever that is."""
        words = heard("The rest goes to the window.", log_probability=-0.9)

        assert flaw_of(words, seconds=3, voiced_seconds=2) is None
        surer = replace(words, guess_log_probability=-0.8)
        assert flaw_of(surer, seconds=3, voiced_seconds=2) == Flaw.NO_SPEECH

    @pytest.mark.parametrize("text", ["Thank you.", "Thanks for watching!", "Vielen Dank."])
    def test_politeness_needs_a_voice(self, text: str) -> None:
        """Thanks are believed when somebody gives them; in noise they are not."""
        said, guessed = heard(text, log_probability=-0.5), heard(text, log_probability=-1.2)

        assert flaw_of(said, seconds=3, voiced_seconds=1) is None
        assert flaw_of(guessed, seconds=3, voiced_seconds=1) == Flaw.NO_SPEECH
        assert find_flaw(said, seconds=3, voiced_seconds=1, peaks=np.zeros(0)) == Flaw.NO_SPEECH


def test_compression_ratio_of_speech() -> None:
    """Fair speech is well below the limit, a loop well above, a short answer says nothing."""
    assert compression_ratio(FAIR) < 1.6
    assert compression_ratio(FAIR * 5) > 2.5
    assert compression_ratio("Yes.") == 1.0
