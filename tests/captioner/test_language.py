# SPDX-License-Identifier: Apache-2.0

from callsd_worker.captioner.language import SWITCH_WINDOWS, SpeakerLanguage


GERMAN = {"de": 0.9, "en": 0.1}
ENGLISH = {"de": 0.1, "en": 0.9}


class TestSpeakerLanguage:
    """A speaker's language is settled once, and left only for good reasons."""

    def test_a_given_one_is_never_asked_for(self) -> None:
        """What the caller knows is not guessed."""
        language = SpeakerLanguage("ja")

        language.vote(GERMAN, voiced_seconds=60.0)

        assert language.code == "ja"
        assert not language.wants_vote(voiced_seconds=60.0, is_final=True)

    def test_a_short_word_settles_nothing(self) -> None:
        """Both "ja" and "yes" are words of many languages."""
        language = SpeakerLanguage("")

        for _ in range(20):
            language.vote(GERMAN, voiced_seconds=0.5)

        assert language.code == ""
        assert language.wants_vote(voiced_seconds=0.5, is_final=False)

    def test_enough_speech_settles_it(self) -> None:
        """Some seconds with a clear lead are enough."""
        language = SpeakerLanguage("")

        language.vote(GERMAN, voiced_seconds=2.5)
        before = language.code
        language.vote(GERMAN, voiced_seconds=2.5)

        assert (before, language.code) == ("", "de")

    def test_one_strange_window_does_not_switch(self) -> None:
        """A quotation in another language is not a change of language."""
        language = SpeakerLanguage("")
        language.vote(GERMAN, voiced_seconds=5.0)

        language.vote(ENGLISH, voiced_seconds=3.0)
        language.vote(GERMAN, voiced_seconds=3.0)
        language.vote(ENGLISH, voiced_seconds=3.0)

        assert language.code == "de"

    def test_a_speaker_who_changes_is_followed(self) -> None:
        """Several windows running in another language switch to it."""
        language = SpeakerLanguage("")
        language.vote(GERMAN, voiced_seconds=5.0)

        for _ in range(SWITCH_WINDOWS):
            language.vote(ENGLISH, voiced_seconds=3.0)

        assert language.code == "en"
