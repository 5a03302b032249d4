# SPDX-License-Identifier: Apache-2.0

from hypothesis import given
from hypothesis import strategies as st

from callsd_worker.speech.evidence.phrases import repetitions


class TestRepetitions:
    """Finding what loops."""

    def test_a_loop_has_a_place_a_length_and_a_number(self) -> None:
        """The phrase that loops, where it begins, and how often it is there."""
        words = [
            "so",
            "press",
            "five",
            "to",
            "leave",
            "press",
            "five",
            "to",
            "leave",
            "press",
            "five",
            "to",
            "leave",
            "now",
        ]

        assert list(repetitions(words)) == [(1, 4, 3)]

    @given(st.lists(st.sampled_from("abc"), max_size=40))
    def test_each_is_really_there(self, words: list[str]) -> None:
        """What is found is the same words again and again, and none overlaps the next."""
        end = 0
        for first, length, times in repetitions(words):
            assert first >= end
            end = first + length * times
            assert words[first:end] == words[first : first + length] * times

    @given(st.lists(st.integers(), unique=True, max_size=60))
    def test_distinct_words_do_not_loop(self, numbers: list[int]) -> None:
        """Without repetition nothing is found."""
        assert not list(repetitions([f"w{number}" for number in numbers]))
