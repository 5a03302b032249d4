# SPDX-License-Identifier: Apache-2.0

import pytest

from callsd_transcript.transcript import Segment, Word
from callsd_worker.transcriber.seams import mended


def segments(*parts: str, pause_seconds: float = 0.9, language: str = "en") -> list[Segment]:
    """What one speaker says, two seconds at a time, with a pause after each."""
    made = []
    for number, text in enumerate(parts):
        start = number * (2.0 + pause_seconds)
        words = tuple(
            Word(text=word, start_seconds=start, end_seconds=start + 2.0) for word in text.split()
        )
        made.append(
            Segment(
                speaker="A",
                start_seconds=start,
                end_seconds=start + 2.0,
                text=text,
                words=words,
                language=language,
            )
        )
    return made


def texts(found: list[Segment]) -> list[str]:
    """The texts, which their words must say, too."""
    for segment in found:
        assert " ".join(word.text for word in segment.words) == segment.text
    return [segment.text for segment in found]


class TestSeams:
    """Parts of a sentence that were recognised apart from each other."""

    def test_a_sentence_that_goes_on_has_no_stop_inside(self) -> None:
        """What the recogniser ended too early reads as one sentence, in text and words."""
        found = mended(segments("We only found the problem.", "because the queue was long."))

        assert texts(found) == ["We only found the problem", "because the queue was long."]

    def test_after_a_long_pause_a_sentence_begins(self) -> None:
        """Somebody who speaks again later begins with a capital, and has ended before."""
        found = mended(segments("That is it.", "see you then.", pause_seconds=5.0))

        assert texts(found) == ["That is it.", "See you then."]

    def test_a_track_begins_with_a_capital(self) -> None:
        """There is nothing before the first word that it could go on."""
        assert texts(mended(segments("'so we begin."))) == ["'So we begin."]

    @pytest.mark.parametrize(
        ("language", "text", "expected"),
        [
            ("tr", "iyi günler.", "İyi günler."),
            ("tr", "ne güzel.", "Ne güzel."),
            ("de", "ist gut.", "Ist gut."),
            ("zh", "app很好用。", "app很好用。"),
        ],
    )
    def test_a_capital_is_that_of_the_language(
        self, language: str, text: str, expected: str
    ) -> None:
        """Turkish has another one; a script without capitals gets none in a borrowed word."""
        assert texts(mended(segments(text, language=language))) == [expected]

    @pytest.mark.parametrize(
        "parts",
        [
            ("It is done.", "We go on."),
            ("It is done,", "and we go on."),
            ("At 5 p.m.", "and not later."),
            ("I thought...", "about it."),
            ("Well .", "so it is."),
            ("Now.", "iPhones are sold."),
            ("Now.", "10th comes the report."),
            ("გამარჯობა.", "როგორ ხარ?"),
        ],
        ids=lambda parts: parts[1],
    )
    def test_the_rest_stays(self, parts: tuple[str, str]) -> None:
        """Sentences in order, abbreviations, names, numbers, and scripts without capitals."""
        assert texts(mended(segments(*parts))) == list(parts)

    def test_order_is_that_of_time(self) -> None:
        """Windows are recognised in any order: what follows is what was said next."""
        first, second, third = segments("We saw.", "that it was good.", "Fine.")

        assert texts(mended([third, first, second])) == ["We saw", "that it was good.", "Fine."]
