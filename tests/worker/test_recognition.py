# SPDX-License-Identifier: Apache-2.0

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.engine import DecodeOptions, Encoded, Recognised
from callsd_worker.speech.evidence.choice import choose
from callsd_worker.speech.evidence.syllables import syllables_of
from callsd_worker.speech.voice.windows import Piece, Window
from callsd_worker.transcriber.languages import choose_probes, decide
from callsd_worker.transcriber.recognition import recognise
from callsd_worker.transcriber.seams import mended
from callsd_worker.transcriber.segments import MAX_SEGMENT_SECONDS, place
from callsd_worker.transcriber.unheard import notice_of, unheard_in
from tests.helpers.recognised import spoken
from tests.helpers.syllables import murmur, syllables


class TestLanguageDecision:
    """Languages per speaker."""

    def test_each_certain_speaker_decides_alone(self) -> None:
        """Two languages in one call are two languages."""
        votes = {1: [({"en": 0.9, "de": 0.1}, 20.0)], 2: [({"de": 0.8, "en": 0.2}, 20.0)]}

        assert decide(votes, {}) == {1: "en", 2: "de"}

    def test_pooled_speech_outvotes_one_odd_window(self) -> None:
        """Windows count by their length."""
        votes = {1: [({"en": 0.9}, 20.0), ({"cy": 0.9, "en": 0.1}, 2.0)]}

        assert decide(votes, {}) == {1: "en"}

    @pytest.mark.parametrize(
        "vote",
        [({"cy": 0.9, "en": 0.1}, 1.0), ({"cy": 0.3, "en": 0.2}, 20.0)],
        ids=["short", "unsure"],
    )
    def test_an_uncertain_speaker_follows_the_call(
        self, vote: tuple[dict[str, float], float]
    ) -> None:
        """A "yes" alone does not make a speaker Welsh among English ones."""
        assert decide({1: [({"en": 0.9}, 20.0)], 2: [vote]}, {}) == {1: "en", 2: "en"}
        assert decide({2: [vote]}, {"en": 5.0, "de": 0.0}) == {2: "en"}
        assert decide({2: [vote]}, {}) == {2: "cy"}

    def test_an_uncertain_speaker_speaks_the_likeliest_of_the_call(self) -> None:
        """In a call of two languages a short answer is in the one it sounds like.

        One that sounds like neither is in the one that most is spoken in.
        """
        spoken = {"en": 300.0, "de": 200.0}

        assert decide({1: [({"de": 0.7, "en": 0.2}, 1.5)]}, spoken) == {1: "de"}
        assert decide({1: [({"cy": 0.9}, 1.5)]}, spoken) == {1: "en"}

    def test_short_answers_are_taken_together(self) -> None:
        """Where nobody is certain, all of the call's speech decides together."""
        votes = {
            1: [({"en": 0.6, "cy": 0.3}, 2.0)],
            2: [({"en": 0.5, "cy": 0.2}, 2.0)],
            3: [({"cy": 0.4, "en": 0.3}, 1.0)],
        }

        assert decide(votes, {}) == {1: "en", 2: "en", 3: "en"}

    def test_probes_are_the_longest_windows(self) -> None:
        """As few windows as give enough speech, the longest first: not the first words."""
        windows = [window_of(seconds) for seconds in (2.0, 23.0, 15.0, 24.0)]

        assert choose_probes(windows) == [3, 1]
        assert choose_probes(windows[:1]) == [0]
        assert choose_probes(windows[:3]) == [1, 2, 0]


def window_of(seconds: float, *, pieces: int = 1, said: int = 17) -> Window:
    """A window of utterances with as many syllables, as FAIR has if nothing else is said."""
    size = int(seconds * SAMPLE_RATE_HZ) // pieces
    return Window(
        samples=np.tile(syllables(said, seconds=size / SAMPLE_RATE_HZ), pieces),
        pieces=tuple(
            Piece(
                track_start_sample=number * 100 * SAMPLE_RATE_HZ,
                window_start_sample=number * size,
                length_samples=size,
                voiced_seconds=size / SAMPLE_RATE_HZ * 0.8,
            )
            for number in range(pieces)
        ),
    )


def at_times(result: Recognised, *starts: float) -> Recognised:
    """The same words, at these times; each lasts until the next one."""
    ends = (*starts[1:], starts[-1] + 0.5)
    return replace(
        result,
        words=tuple(
            replace(word, start_seconds=start, end_seconds=end)
            for word, start, end in zip(result.words, starts, ends, strict=True)
        ),
    )


class StubbornEngine:
    """Gives prepared answers, one per call: loops cannot be ordered from a real model."""

    name = "stubborn"
    is_multilingual = False
    languages = frozenset({"en"})
    detects_from_encoding = True
    usual_beam_size = 1
    batch_windows = 8

    def __init__(self, *answers: Recognised) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[float, DecodeOptions]] = []

    def padded_seconds(self, window_seconds: float) -> float:
        return window_seconds

    def encode(self, window: Samples, *, padded_seconds: float) -> Encoded:
        return Encoded(payload=padded_seconds, seconds=window.size / SAMPLE_RATE_HZ)

    def detect_language(self, encoded: Sequence[Encoded]) -> list[dict[str, float]]:
        raise NotImplementedError

    def recognise(self, encoded: Sequence[Encoded], options: DecodeOptions) -> list[Recognised]:
        self.asked += [(item.payload, options) for item in encoded]
        return [self.answers.pop(0) for _ in encoded]


LOOP = spoken("and so my fellow and so my fellow and so my fellow", log_probability=-0.1)
FAIR = spoken("and so my fellow americans ask not what your country can do")


class TestRetries:
    """What happens to suspicious windows."""

    def recognise(
        self, engine: StubbornEngine, window: Window, *, task: str = "transcribe"
    ) -> list[str]:
        encoded = engine.encode(window.samples, padded_seconds=window.seconds)
        options = DecodeOptions(language="en", task=task)
        (heard,) = recognise(engine, [window], [encoded], options, lambda: None)
        return [result.text for _, result in heard]

    def test_fair_results_are_taken(self) -> None:
        """What looks right is recognised once."""
        engine = StubbornEngine(FAIR)

        assert self.recognise(engine, window_of(9)) == [FAIR.text]
        assert len(engine.asked) == 1

    def test_a_loop_is_heard_again_with_care(self) -> None:
        """A loop is heard again at the length of training, and what fits the sound is taken."""
        engine = StubbornEngine(LOOP, FAIR)

        assert self.recognise(engine, window_of(9)) == [FAIR.text]
        assert engine.asked[1][0] == 30.0

    def test_what_two_attempts_hear_was_said(self) -> None:
        """Words said again stay when another attempt agrees and there is voice for them."""
        engine = StubbornEngine(LOOP, replace(LOOP, average_log_probability=-0.11))

        assert self.recognise(engine, window_of(9, said=15)) == [LOOP.text]

    def test_an_engine_does_not_confirm_itself(self) -> None:
        """The same computation made again is no second witness: another way is tried."""
        engine = StubbornEngine(LOOP, LOOP, FAIR)

        assert self.recognise(engine, window_of(9)) == [FAIR.text]
        assert engine.asked[2][1].temperature > 0

    def test_a_repetition_is_not_lost_to_a_shorter_attempt(self) -> None:
        """An attempt without the repetition is not believed when the sound has more syllables."""
        once = spoken("and so my fellow", log_probability=-0.1)
        engine = StubbornEngine(LOOP, once, once)

        assert self.recognise(engine, window_of(9, said=15)) == [LOOP.text]

    @pytest.mark.parametrize(
        ("said", "other"),
        [
            ("회의를 시작하겠습니다", "회의를 시작하겠습니다 시작하겠습니다"),
            ("会议现在开始", "会议现在开始了开始了"),
        ],
        ids=["Korean", "Chinese"],
    )
    def test_what_is_not_counted_is_chosen_by_its_probability(self, said: str, other: str) -> None:
        """More words are no better for it where each letter of a script is a syllable."""
        peaks = np.arange(syllables_of(other)) * 0.2

        chosen = choose([spoken(other, log_probability=-0.3), spoken(said)], peaks)

        assert chosen is not None
        assert chosen.text == said

    @pytest.mark.parametrize("said", [3, 40])
    def test_a_translation_has_its_own_syllables(self, said: int) -> None:
        """However many there are in the sound, a fair translation is taken at once."""
        engine = StubbornEngine(FAIR)

        assert self.recognise(engine, window_of(9, said=said), task="translate") == [FAIR.text]
        assert len(engine.asked) == 1

    def test_a_translation_in_a_loop_is_made_again(self) -> None:
        """One without repetitions is taken, though the loop is more probable; else it stays."""
        window = window_of(9, said=5)

        once_fair = self.recognise(StubbornEngine(LOOP, FAIR), window, task="translate")
        always_loop = self.recognise(StubbornEngine(LOOP, LOOP, LOOP), window, task="translate")

        assert once_fair == [FAIR.text]
        assert always_loop == [LOOP.text]

    def test_a_packed_window_is_taken_apart(self) -> None:
        """Each utterance of a suspicious window is then heard alone."""
        engine = StubbornEngine(LOOP, FAIR, FAIR)

        assert self.recognise(engine, window_of(18, pieces=2)) == [FAIR.text, FAIR.text]

    def test_a_loop_is_there_as_often_as_it_has_sound(self) -> None:
        """If nothing helps, repetitions that have no voice are left out."""
        engine = StubbornEngine(LOOP, LOOP, LOOP)

        assert self.recognise(engine, window_of(9, said=5)) == ["and so my fellow"]
        assert engine.asked[2][1].temperature > 0

    def test_invented_words_are_dropped(self) -> None:
        """Words that nobody believes after three attempts are not said."""
        guess = spoken("thank you for watching", log_probability=-2.0)
        engine = StubbornEngine(guess, guess, guess)

        assert self.recognise(engine, window_of(9)) == [""]

    def test_of_many_voices_only_words_without_a_flaw_are_believed(self) -> None:
        """Where nobody stands out, a second attempt is believed if it is sound, and is the last."""
        crowd = replace(window_of(9), samples=murmur(17, seconds=9))
        fair, looping = StubbornEngine(LOOP, FAIR), StubbornEngine(LOOP, LOOP)

        assert self.recognise(fair, crowd) == [FAIR.text]
        assert self.recognise(looping, crowd) == [""]
        assert [options.temperature for _, options in looping.asked] == [0.0, 0.0]

    def test_one_voice_among_many_may_have_fewer_words_than_all(self) -> None:
        """Words that the model is sure of stay, though others have most of the syllables."""
        crowd = replace(window_of(9), samples=murmur(40, seconds=9))
        sure, unsure = (replace(FAIR, average_log_probability=value) for value in (-0.47, -1.0))

        nothing = spoken("")
        assert self.recognise(StubbornEngine(sure, sure, unsure, nothing), crowd) == [FAIR.text]
        assert self.recognise(StubbornEngine(unsure, unsure), crowd) == [""]

    def test_a_sentence_skipped_in_the_middle_is_heard_alone(self) -> None:
        """Voice without words in mid-window is listened to by itself, and put in its place."""
        skipped = at_times(spoken("ask not your country"), 0.0, 0.5, 8.0, 8.4)
        middle = spoken("not what you can do for them all", seconds=3.5)
        engine = StubbornEngine(skipped, skipped, skipped, middle)

        heard = self.recognise(engine, window_of(9, said=14))

        assert heard == ["ask not what you can do for them all your country"]

    def test_a_gap_is_not_filled_with_words_without_times(self) -> None:
        """What cannot be put in its place does not take the place of other words."""
        skipped = at_times(spoken("ask not your country"), 0.0, 0.5, 8.0, 8.4)
        untimed = replace(spoken("not what you can do for them all"), words=())
        nothing = [spoken("")] * 12
        engine = StubbornEngine(skipped, skipped, skipped, untimed, *nothing)

        assert self.recognise(engine, window_of(9, said=20)) == [skipped.text]
        assert untimed not in engine.answers


class TestUnheard:
    """Voice that nothing was made out of."""

    def test_voice_without_words_is_told(self) -> None:
        """Each utterance without words has its place in the call; a click has none."""
        nothing = spoken("")
        window = window_of(20, pieces=2)
        cough = window_of(0.5)

        stretches = unheard_in(window, nothing, call_seconds=lambda seconds: seconds + 50)

        assert [(one.start_seconds, one.end_seconds) for one in stretches] == [(50, 60), (150, 160)]
        assert unheard_in(cough, nothing, call_seconds=float) == []
        assert unheard_in(window_of(9), FAIR, call_seconds=float) == []

    def test_words_without_times_are_told(self) -> None:
        """They are in no segment, so that their place in the call is unheard."""
        (stretch,) = unheard_in(window_of(9), replace(FAIR, words=()), call_seconds=float)

        assert (stretch.start_seconds, stretch.end_seconds) == (0, 9)

    def test_a_gap_that_stays_is_told(self) -> None:
        """What was skipped in the middle, and not heard alone either, is not silently gone."""
        skipped = at_times(spoken("ask not your country"), 0.0, 0.5, 8.0, 8.4)

        (stretch,) = unheard_in(
            window_of(9, said=20), skipped, call_seconds=lambda seconds: seconds - 1
        )

        assert (stretch.start_seconds, stretch.end_seconds) == (0.0, 7.0)

    def test_a_speaker_has_one_notice(self) -> None:
        """How many there are, how long they are together, and where the first is."""
        stretches = unheard_in(window_of(20, pieces=2), spoken(""), call_seconds=float)

        code, message = notice_of("Maya", list(reversed(stretches)))

        assert code == "SPEECH_UNHEARD"
        assert "Maya" in message
        assert "2 stretches" in message
        assert "20.0 s" in message
        assert "the first 0.0 s into the call" in message


class TestSegments:
    """From words to subtitles."""

    def test_utterances_and_sentences_part_segments(self) -> None:
        """A new utterance or a sentence of some length begins a new segment, in track time."""
        window = window_of(20, pieces=2)
        text = "This is the first sentence. Here is another one that goes on. And a third."
        result = spoken(text, seconds=20)

        segments = place(
            [(window, result)],
            speaker="A",
            language="en",
            call_seconds=lambda seconds: seconds + 50,
        )

        assert " ".join(segment.text for segment in segments) == text
        assert segments[0].text == "This is the first sentence."
        assert segments[0].start_seconds == pytest.approx(50, abs=0.1)
        assert segments[-1].start_seconds > 150
        assert all(segment.words[0].text.strip() for segment in segments)

    def test_an_abbreviation_ends_no_segment(self) -> None:
        """One pass wrote its stop and went on with a small letter: there it stays."""
        text = "We have chairs, tables, etc. and so on. That is all."
        heard = spoken(text, seconds=8)

        segments = mended(
            place([(window_of(8), heard)], speaker="A", language="en", call_seconds=float)
        )

        assert [segment.text for segment in segments] == [
            "We have chairs, tables, etc. and so on.",
            "That is all.",
        ]

    def test_what_is_before_the_start_is_left_out(self) -> None:
        """A track may begin before its recording: words of that time are in no transcript."""
        result = spoken("Nobody hears this. But this is in it.", seconds=8)

        segments = place(
            [(window_of(8), result)],
            speaker="A",
            language="en",
            call_seconds=lambda seconds: seconds - 3.5,
        )

        assert " ".join(segment.text for segment in segments) == "But this is in it."
        assert segments[0].start_seconds >= 0.0

    def test_no_subtitle_is_endless(self) -> None:
        """Speech without punctuation is parted too."""
        result = spoken("word " * 60, seconds=28)

        segments = place([(window_of(28), result)], speaker="A", language="en", call_seconds=float)

        assert len(segments) >= 3
        assert max(s.end_seconds - s.start_seconds for s in segments) <= MAX_SEGMENT_SECONDS
