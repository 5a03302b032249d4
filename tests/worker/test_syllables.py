# SPDX-License-Identifier: Apache-2.0

from collections.abc import Sequence

import numpy as np
import pytest

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.engine import Recognised, TimedWord
from callsd_worker.speech.evidence.flaws import find_flaw
from callsd_worker.speech.evidence.gaps import filled, find_gap
from callsd_worker.speech.evidence.syllables import is_countable, syllables_in, syllables_of
from tests.helpers.syllables import syllables


def words_at(**starts: float) -> tuple[TimedWord, ...]:
    """Words by their beginnings, each as long as half a second."""
    return in_turn([*starts], [*starts.values()])


def in_turn(words: Sequence[str], starts: Sequence[float]) -> tuple[TimedWord, ...]:
    """The same, of words of which some are equal."""
    return tuple(
        TimedWord(text=f" {word}", start_seconds=start, end_seconds=start + 0.5, probability=1.0)
        for word, start in zip(words, starts, strict=True)
    )


class TestCounting:
    """Syllables of sound and of text."""

    def test_speech_has_as_many_as_its_words(self, speech: Samples) -> None:
        """In a human-like voice the two counts differ by a quarter at most."""
        written = syllables_of(
            "I will write to them today and explain what happened. "
            "Nina, please put that down as an action for me."
        )

        assert 0.75 * written <= syllables_in(speech).size <= 1.25 * written

    @pytest.mark.parametrize("count", [1, 7, 20])
    def test_bumps_of_loudness_are_counted(self, count: int) -> None:
        """Each is one, at its place."""
        peaks = syllables_in(syllables(count, seconds=count * 0.25, of_seconds=6.0))

        assert peaks.size == count
        assert peaks == pytest.approx((np.arange(count) + 0.5) * 0.25, abs=0.06)

    def test_silence_has_none(self) -> None:
        """Nor has a moment too short for one."""
        assert syllables_in(np.zeros(SAMPLE_RATE_HZ, dtype=np.float32)).size == 0
        assert syllables_in(np.zeros(40, dtype=np.float32)).size == 0

    @pytest.mark.parametrize(
        ("text", "count"),
        [
            ("5, 5, 5.", 3),
            ("Can you hear me now?", 5),
            ("Works for me.", 3),
            ("a little table …", 5),
            ("Häuser", 2),
            ("Сегодня хорошо", 6),
            ("", 0),
        ],
    )
    def test_text(self, text: str, count: int) -> None:
        """Vowels together are one, digits one each, other scripts half of their letters."""
        assert syllables_of(text) == count

    @pytest.mark.parametrize(
        ("text", "is_known"),
        [
            ("Häuser", True),
            ("Сегодня хорошо", True),
            ("5, 5 …", True),
            ("", True),
            ("안녕하세요 Zoom", False),
            ("आप कैसे हैं", False),
            ("مرحبا", False),
        ],
    )
    def test_which_scripts_are_counted(self, text: str, *, is_known: bool) -> None:
        """Latin and Cyrillic letters, if most are of these; figures do not decide."""
        assert is_countable(text) is is_known


class TestGaps:
    """Voice without words."""

    @pytest.mark.parametrize(
        "text",
        [
            "회의를 시작하겠습니다 여러분 안녕하세요",
            "我们现在开始开会请大家安静",
            "それでは会議を始めましょう",
            "चलिए बैठक शुरू करते हैं दोस्तों",
        ],
        ids=["Korean", "Chinese", "Japanese", "Hindi"],
    )
    def test_scripts_that_are_not_counted_have_none(self, text: str) -> None:
        """Each character is a syllable or more: that too few are counted is no gap, no flaw."""
        units = text.split() if " " in text else list(text)
        size = sum(not letter.isspace() for letter in text)
        peaks = np.arange(2 * size) * 0.2
        seconds = 0.4 * size / len(units)
        words = tuple(
            TimedWord(
                text=f" {unit}" if " " in text else unit,
                start_seconds=at * seconds,
                end_seconds=(at + 1) * seconds,
                probability=1.0,
            )
            for at, unit in enumerate(units)
        )

        assert find_gap(words, peaks) is None
        lasting = 0.4 * size
        flaw = find_flaw(_result(words), seconds=lasting, voiced_seconds=lasting / 2, peaks=peaks)
        assert flaw is None

    def test_words_that_fill_their_time_leave_no_gap(self) -> None:
        """One syllable for each peak."""
        peaks = np.arange(8) * 0.5 + 0.1

        assert find_gap(words_at(a=0.0, b=0.5, c=1.0, d=1.5, e=2.0, f=2.5), peaks) is None

    def test_a_skipped_sentence_is_a_gap(self) -> None:
        """The words around it have more syllables in their time than they can have."""
        peaks = np.concatenate([np.arange(20) * 0.25, [5.1, 5.6]])

        gap = find_gap(words_at(ask=0.0, no=0.25, more=5.0, please=5.5), peaks)

        assert gap is not None
        assert (gap.first, gap.after) == (1, 2)
        assert (gap.start_seconds, gap.end_seconds) == (0.25, 5.0)

    def test_what_is_said_again_has_its_time_together(self) -> None:
        """An aligner may give one saying the time of the next two: that skipped nothing."""
        phrase = ("Did", "any", "customer", "complain?")
        starts = (0.0, 0.2, 0.6, 1.0, 1.5, 1.7, 2.1, 2.5, 3.0, 5.9, 5.9, 5.9, 6.0, 6.2, 6.6, 7.0)
        words = in_turn(phrase * 4, starts)

        assert find_gap(words, np.arange(28) * 0.25 + 0.1) is None

    def test_what_was_not_heard_again_is_a_gap(self) -> None:
        """A voice that goes on far longer than all sayings together says more than they do."""
        phrase = ("Works", "for", "me.")
        words = in_turn(("So", *phrase * 3), [at * 0.2 for at in range(10)])

        gap = find_gap(words, np.arange(28) * 0.2)

        assert gap is not None
        assert (gap.first, gap.after) == (9, 10)

    def test_a_gap_is_filled_in_its_place(self) -> None:
        """What was heard in it comes between the words before and after, at its own time."""
        gap = find_gap(words_at(ask=0.0, no=0.25, more=5.0), np.arange(20) * 0.25)
        heard = _result(words_at(no=0.0, thing=1.0))
        assert gap is not None

        whole = filled(_result(words_at(ask=0.0, no=0.25, more=5.0)), gap, heard)

        assert whole.text == "ask no thing more"
        assert [word.start_seconds for word in whole.words] == [0.0, 0.25, 1.25, 5.0]


def _result(words: tuple[TimedWord, ...]) -> Recognised:
    return Recognised(
        text="".join(word.text for word in words).strip(),
        words=words,
        token_count=len(words),
        average_log_probability=-0.1,
        no_speech_probability=0.0,
    )
