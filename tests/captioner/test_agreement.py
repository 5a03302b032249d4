# SPDX-License-Identifier: Apache-2.0

from collections.abc import Sequence

from callsd_worker.captioner.agreement import Agreement, common_prefix, matching_prefix


def update(
    agreement: Agreement, words: Sequence[str], probabilities: Sequence[float], *, is_careful: bool
) -> None:
    """A pass that knows how probable its words are; below 0.6 they are doubtful."""
    agreement.update(
        words, is_careful=is_careful, probabilities=probabilities, doubtful_probability=0.6
    )


class TestAgreement:
    """Words that two passes agree on stay."""

    def test_one_pass_does_not_settle_the_newest_words(self) -> None:
        """The last words of what only one pass has heard are shown and may go."""
        agreement = Agreement()

        agreement.update(["can", "summon"], is_careful=False)

        assert agreement.words == ("can", "summon")
        assert agreement.stable_count == 0
        assert agreement.stability == 0.0

    def test_a_word_with_others_behind_it_is_settled(self) -> None:
        """What would take several words off the screen with it stays."""
        agreement = Agreement()

        agreement.update(["we", "can", "take", "notes", "today"], is_careful=False)
        agreement.update(["he", "can", "take", "notes", "now"], is_careful=False)

        assert agreement.words == ("we", "can", "take", "notes", "now")
        assert agreement.stable_count == 2

    def test_two_passes_settle_their_common_beginning(self) -> None:
        """The words before the first difference are stable, and the newest tail is shown."""
        agreement = Agreement()

        agreement.update(["We", "can", "summon"], is_careful=False)
        agreement.update(["We", "can", "somebody", "take"], is_careful=False)

        assert agreement.words == ("We", "can", "somebody", "take")
        assert agreement.stable_count == 2
        assert agreement.stability == 0.5

    def test_case_and_punctuation_are_no_difference(self) -> None:
        """Words "fine." and "Fine" agree; what was shown first stays as it was shown."""
        agreement = Agreement()

        agreement.update(["Fine.", "Then"], is_careful=False)
        agreement.update(["fine", "then", "it"], is_careful=False)
        agreement.update(["FINE", "THEN", "it"], is_careful=False)

        assert agreement.words == ("fine", "then", "it")
        assert agreement.stable_count == 3

    def test_a_sentence_that_goes_on_has_no_stop_inside(self) -> None:
        """Two passes that end in a pause hear a full stop; the next one hears that it was none."""
        agreement = Agreement()
        agreement.update(["The", "problem."], is_careful=False)
        agreement.update(["The", "problem."], is_careful=True)

        agreement.update(["The", "problem", "because", "it"], is_careful=False)

        assert agreement.words == ("The", "problem", "because", "it")

    def test_the_stop_of_an_abbreviation_stays(self) -> None:
        """A pass that hears the words after it, and still writes it, means it."""
        agreement = Agreement(["Tables", "etc."], stable_count=2)

        agreement.update(["Tables", "etc.", "and", "so", "on"], is_careful=False)

        assert agreement.words == ("Tables", "etc.", "and", "so", "on")

    def test_a_stop_before_a_capital_stays(self) -> None:
        """A sentence that has ended has ended."""
        agreement = Agreement(["All", "fine."], stable_count=2)

        agreement.update(["All", "fine.", "Then", "it"], is_careful=False)

        assert agreement.words == ("All", "fine.", "Then", "it")

    def test_stable_words_outlive_a_pass_that_hears_otherwise(self) -> None:
        """A later pass changes only what follows the stable words."""
        agreement = Agreement()
        agreement.update(["the", "queue", "was"], is_careful=False)
        agreement.update(["the", "queue", "was"], is_careful=False)

        agreement.update(["The", "Q", "was", "long"], is_careful=False)

        assert agreement.words == ("the", "queue", "was", "long")
        assert agreement.stable_count == 3

    def test_doubtful_words_at_the_end_wait(self) -> None:
        """The last words of a pass that it is not sure of are not shown, but kept."""
        agreement = Agreement()

        update(agreement, ["press", "a", "dare"], [0.9, 0.5, 0.3], is_careful=False)

        assert agreement.words == ("press",)
        assert agreement.held == ("a", "dare")
        assert agreement.stable_count == 0

    def test_only_the_end_waits(self) -> None:
        """A doubtful word in front of a certain one is shown, and no more than two wait."""
        agreement = Agreement()

        update(agreement, ["you", "may", "end"], [0.3, 0.4, 0.9], is_careful=False)
        assert agreement.words == ("you", "may", "end")

        agreement = Agreement()
        update(agreement, ["you", "may", "end"], [0.3, 0.4, 0.5], is_careful=False)
        assert agreement.words == ("you",)

    def test_what_two_passes_say_is_shown(self) -> None:
        """A word does not wait for ever: the second pass that says it shows it."""
        agreement = Agreement()

        update(agreement, ["press", "dare"], [0.9, 0.3], is_careful=False)
        update(agreement, ["press", "dare"], [0.9, 0.3], is_careful=False)

        assert agreement.words == ("press", "dare")
        assert agreement.held == ()

    def test_what_is_shown_is_not_held_back(self) -> None:
        """A word that is on the screen stays there when it becomes doubtful."""
        agreement = Agreement()

        update(agreement, ["press", "four"], [0.9, 0.9], is_careful=False)
        update(agreement, ["Press", "four"], [0.9, 0.3], is_careful=False)

        assert agreement.words == ("Press", "four")

    def test_a_careful_pass_shows_all(self) -> None:
        """Final words are not held back, whatever they are like."""
        agreement = Agreement()

        update(agreement, ["press", "dare"], [0.9, 0.3], is_careful=True)

        assert agreement.words == ("press", "dare")

    def test_a_word_in_front_of_stable_words_is_left_out(self) -> None:
        """A scrap of the word before a cut does not come twice."""
        agreement = Agreement(["the", "queue", "started"], stable_count=2)

        agreement.update(["Then", "the", "queue", "started", "to"], is_careful=False)

        assert agreement.words == ("the", "queue", "started", "to")

    def test_a_careful_pass_corrects_what_has_only_settled(self) -> None:
        """Words that one pass heard, with others behind them, stay until a careful one differs."""
        agreement = Agreement()
        agreement.update(["we", "can", "take", "notes", "today"], is_careful=False)

        agreement.update(["he", "can", "take", "notes", "now"], is_careful=True)

        assert agreement.words == ("he", "can", "take", "notes", "now")

    def test_a_careful_pass_keeps_what_was_agreed_on(self) -> None:
        """Words that two passes heard the same are not taken off the screen any more."""
        agreement = Agreement()
        agreement.update(["we", "can"], is_careful=False)
        agreement.update(["we", "can", "take"], is_careful=False)

        agreement.update(["he", "can", "take", "notes"], is_careful=True)

        assert agreement.words == ("we", "can", "take", "notes")

    def test_is_split_with_what_is_stable(self) -> None:
        """Both parts keep their words, and of these the stable ones."""
        left, right = Agreement(["a", "b", "c", "d"], stable_count=3).split(2)

        assert (left.words, left.stable_count) == (("a", "b"), 2)
        assert (right.words, right.stable_count) == (("c", "d"), 1)


class TestPrefixes:
    """Where two texts part."""

    def test_common_prefix_ends_at_the_first_difference(self) -> None:
        """Equal words behind a difference do not count."""
        assert common_prefix(["One,", "two", "three"], ["one", "too", "three"]) == 1

    def test_matching_prefix_allows_other_words(self) -> None:
        """The beginning that says the same is found although a word is split or missing."""
        assert matching_prefix(["maybe", "two"], ["may", "be", "two", "minutes"]) == 3
        assert matching_prefix(["so", "let", "us"], ["let", "us", "go"]) == 2

    def test_nothing_matches_nothing(self) -> None:
        """Without stable words all words are new."""
        assert matching_prefix([], ["all", "new"]) == 0
