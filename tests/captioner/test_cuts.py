# SPDX-License-Identifier: Apache-2.0

import numpy as np

from callsd_worker.captioner.cuts import cuts_between_words, ends_softly, softest_frame, times_of
from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.engine import TimedWord
from callsd_worker.speech.voice.vad import FRAME_SAMPLES


def noise(seconds: float) -> Samples:
    """What stands for voice here."""
    random = np.random.default_rng(1)
    return random.normal(0, 0.1, int(seconds * SAMPLE_RATE_HZ)).astype(np.float32)


def silence(seconds: float) -> Samples:
    """Digital silence."""
    return np.zeros(int(seconds * SAMPLE_RATE_HZ), dtype=np.float32)


def words(*starts_seconds: float) -> list[TimedWord]:
    """Words that begin then; each lasts until the next."""
    ends = (*starts_seconds[1:], starts_seconds[-1] + 0.3)
    return [
        TimedWord(text=f" w{index}", start_seconds=begin, end_seconds=end, probability=1.0)
        for index, (begin, end) in enumerate(zip(starts_seconds, ends, strict=True))
    ]


class TestCutsBetweenWords:
    """Running speech is cut in pauses."""

    def test_a_pause_parts_the_words_around_it(self) -> None:
        """The word that is said to begin within the pause is the one after it."""
        sound = np.concatenate([noise(2.0), silence(0.2), noise(2.0)])

        (cut,) = cuts_between_words(sound, words(0.0, 1.0, 2.05, 2.6, 3.4))

        assert abs(cut.sample / SAMPLE_RATE_HZ - 2.1) < 0.02
        assert cut.word_count == 2
        assert abs(cut.pause_seconds - 0.2) < 0.02

    def test_a_word_that_is_timed_too_early_stays_behind_the_pause(self) -> None:
        """A pause that the recogniser put into the next word parts all the same."""
        sound = np.concatenate([noise(2.0), silence(0.3), noise(2.0)])

        (cut,) = cuts_between_words(sound, words(0.0, 1.0, 1.8, 2.6, 3.4))

        assert cut.word_count == 2

    def test_no_pause_no_cut(self) -> None:
        """Speech without a soft moment is not cut between words."""
        assert cuts_between_words(noise(4.0), words(0.0, 1.0, 2.0, 3.0)) == []

    def test_pieces_are_not_too_short(self) -> None:
        """A pause near either end is no place to cut."""
        sound = np.concatenate([noise(0.5), silence(0.2), noise(2.5), silence(0.2), noise(0.3)])

        assert cuts_between_words(sound, words(0.0, 0.65, 1.5, 2.5, 3.35, 3.5)) == []


class TestTimesOf:
    """Words that are shown have the times of what the last pass has heard instead."""

    def test_other_words_have_the_times_of_their_place(self) -> None:
        """One word for two or two for one, the words around them keep their own times."""
        heard = words(0.0, 0.5, 1.0, 1.5, 2.0)

        times = times_of(["W0,", "so", "w3", "and", "on"], heard)

        assert [word.start_seconds for word in times] == [0.0, 0.5, 1.5, 2.0, 2.0]

    def test_a_word_that_was_not_heard_has_the_time_of_the_next(self) -> None:
        """A cut parts it from neither of its neighbours."""
        times = times_of(["w0", "well", "w1"], words(0.0, 0.5))

        assert [word.start_seconds for word in times] == [0.0, 0.5, 0.5]

    def test_words_behind_what_was_heard_have_no_times(self) -> None:
        """Nothing is said about sound that the pass with the times did not have."""
        assert len(times_of(["w0", "w1", "w2", "w3"], words(0.0, 0.5))) == 2
        assert times_of(["w0"], []) == []


class TestSoftMoments:
    """Where there are no words to go by."""

    def test_softest_frame_is_in_the_pause(self) -> None:
        """The cut lies in the only soft stretch of the range."""
        sound = np.concatenate([noise(3.2), silence(0.2), noise(1.6)])

        frame = softest_frame(sound, first=50, after=150)

        assert 3.2 <= frame * FRAME_SAMPLES / SAMPLE_RATE_HZ <= 3.4

    def test_a_window_ends_in_its_last_soft_moment(self) -> None:
        """What comes behind it is left for the next pass."""
        sound = np.concatenate([noise(2.0), silence(0.05), noise(0.1)])

        size = ends_softly(sound, last_seconds=0.25)

        assert 2.0 <= size / SAMPLE_RATE_HZ <= 2.08

    def test_no_more_is_left_out_than_allowed(self) -> None:
        """A pause further back is not looked for."""
        sound = np.concatenate([noise(1.0), silence(0.3), noise(1.0)])

        assert ends_softly(sound, last_seconds=0.25) >= sound.size - 0.3 * SAMPLE_RATE_HZ
