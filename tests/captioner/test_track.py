# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest

from callsd_worker.captioner.agreement import MOST_HELD_WORDS
from callsd_worker.captioner.decoding import DecodeWindow, Result
from callsd_worker.captioner.rules import Rules, rules_for
from callsd_worker.captioner.schedule import LARGEST_BATCH, Schedule
from callsd_worker.captioner.segmenter import STALL_SECONDS
from callsd_worker.captioner.track import Track
from callsd_worker.captioner.words import SpeechChange, TrackUpdate
from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.engine import Recognised, TimedWord
from callsd_worker.speech.voice.vad import VoiceDetector
from tests.captioner.sound import MAYA_SECONDS, cut, decoded


PARCEL_SECONDS = 0.1
WORD_SECONDS = 0.4


@pytest.fixture(scope="module")
def detector() -> VoiceDetector:
    """One for all tests, as for all tracks."""
    return VoiceDetector()


@pytest.fixture(scope="module")
def speech() -> Samples:
    """Seven seconds of Maya: two sentences with a pause between them."""
    return cut(decoded("maya"), MAYA_SECONDS)


def silence(seconds: float) -> Samples:
    """Digital silence."""
    return np.zeros(int(seconds * SAMPLE_RATE_HZ), dtype=np.float32)


def says_position(window: DecodeWindow) -> Result:
    """A recogniser that says a word for each 0.4 s of the track, named for where it is."""
    step = WORD_SECONDS * SAMPLE_RATE_HZ
    first = -int(-window.start_sample // step)
    numbers = range(first, int(window.end_sample // step))
    words = tuple(
        TimedWord(
            text=f" w{number}",
            start_seconds=(number * step - window.start_sample) / SAMPLE_RATE_HZ,
            end_seconds=((number + 1) * step - window.start_sample) / SAMPLE_RATE_HZ,
            probability=1.0,
        )
        for number in numbers
    )
    return said("".join(word.text for word in words), words)


def said_last(window: DecodeWindow) -> str:
    """The last word that is heard in a window."""
    heard = says_position(window).recognised
    assert heard is not None
    return heard.text.split()[-1]


def said(text: str, words: tuple[TimedWord, ...] = ()) -> Result:
    """A believable result."""
    heard = Recognised(
        text=text.strip(),
        words=words,
        token_count=len(text.split()),
        average_log_probability=-0.1,
        no_speech_probability=0.0,
    )
    return Result(recognised=heard, language="en")


@dataclass
class Story:
    """All that became of a track."""

    update: list[TrackUpdate] = field(default_factory=list)
    passes: list[DecodeWindow] = field(default_factory=list)

    @property
    def finals(self) -> list[str]:
        """Final texts in order."""
        return [words.text for update in self.update for words in update.finals]

    def note(self, update: TrackUpdate | None) -> None:
        """Keep what a track has told."""
        if update is not None:
            self.update.append(update)


def play(
    track: Track,
    sound: Samples,
    *,
    recognise: Callable[[DecodeWindow], Result] = says_position,
    parcel_seconds: float = PARCEL_SECONDS,
    begin_seconds: float = 0.0,
    times: int = 1,
    is_ended: bool = True,
) -> Story:
    """Let a track hear sound as it is spoken, each piece so many times; passes take no time."""
    story = Story()
    schedule: Schedule[str] = Schedule()
    schedule.add("track", track)
    step = int(parcel_seconds * SAMPLE_RATE_HZ)
    now = begin_seconds
    for first in range(0, sound.size, step):
        now += parcel_seconds
        for _ in range(times):
            track.feed(
                int(begin_seconds * SAMPLE_RATE_HZ) + first, sound[first : first + step], now
            )
        story.note(track.take_update())
        work_off(schedule, story, recognise, now)
    if is_ended:
        track.end_speech(now)
        story.note(track.take_update())
        work_off(schedule, story, recognise, now)
    return story


def work_off(
    schedule: Schedule[str], story: Story, recognise: Callable[[DecodeWindow], Result], now: float
) -> None:
    """Make all passes that are due."""
    while ready := schedule.next(now):
        for _, track in ready:
            window = track.take(now)
            story.passes.append(window)
            track.settle(recognise(window), now)
            story.note(track.take_update())


def make(detector: VoiceDetector, **rules: float) -> Track:
    """A track that begins with the call."""
    return Track(detector, start_sample=0, language="en", rules=Rules(**rules))


def is_growing(values: Iterable[int]) -> bool:
    """Whether no value is below the one before."""
    listed = list(values)
    return listed == sorted(listed)


class TestSpeech:
    """Words come while they are spoken."""

    def test_every_word_is_told_once(self, detector: VoiceDetector, speech: Samples) -> None:
        """Finals of a track, put together, are all words in order without a double one."""
        story = play(make(detector), np.concatenate([silence(1), speech, silence(1)]))

        numbers = [int(word[1:]) for text in story.finals for word in text.split()]
        assert numbers == sorted(set(numbers))
        assert len(numbers) >= 14

    def test_words_are_shown_while_they_are_spoken(
        self, detector: VoiceDetector, speech: Samples
    ) -> None:
        """No voice waits longer for a pass than the cadence and two parcels of sound."""
        rules = Rules()
        track = make(detector)
        ages = []
        schedule: Schedule[str] = Schedule()
        schedule.add("track", track)
        for index, first in enumerate(range(0, speech.size, 1600)):
            now = (index + 1) * PARCEL_SECONDS
            track.feed(first, speech[first : first + 1600], now)
            ages.append(schedule.lag_seconds(now))
            work_off(schedule, Story(), says_position, now)

        assert max(ages) > 0.0
        assert max(ages) <= rules.max_cadence_seconds + 2 * PARCEL_SECONDS

    def test_a_doubtful_last_word_is_shown_a_pass_later(
        self, detector: VoiceDetector, speech: Samples
    ) -> None:
        """A word that may be half a word waits; so does the position that says what is shown."""

        def doubts_the_last(window: DecodeWindow) -> Result:
            heard = says_position(window).recognised
            assert heard is not None
            words = heard.words
            if not window.is_final and words:
                words = (*words[:-1], replace(words[-1], probability=0.2))
            return said(heard.text, words)

        story = play(make(detector), speech, recognise=doubts_the_last)

        step = WORD_SECONDS * SAMPLE_RATE_HZ
        interims = [update.interim for update in story.update if update.interim is not None]
        assert len(interims) >= 3
        heard = says_position(story.passes[0]).recognised
        assert heard is not None
        assert interims[0].text.lower().split() == heard.text.split()[:-1]
        for words in interims[:3]:
            last = int(words.text.lower().rpartition("w")[2])
            assert words.recognised_sample == pytest.approx((last + 1) * step, abs=1)
        assert " ".join(story.finals) == " ".join(play(make(detector), speech).finals)

    def test_words_of_a_tiny_model_wait_less(
        self, detector: VoiceDetector, speech: Samples
    ) -> None:
        """Who chose it for early words gets those of which another model would be asked again."""

        def waiting(model: str) -> int:
            track = Track(detector, start_sample=0, language="en", rules=rules_for(model))
            track.feed(0, speech[: 3 * SAMPLE_RATE_HZ], 0.0)
            heard = says_position(track.take(1.0)).recognised
            assert heard is not None
            words = tuple(replace(word, probability=0.7) for word in heard.words)
            track.settle(said(heard.text, words), 1.0)
            update = track.take_update()
            assert update is not None
            assert update.interim is not None
            return len(words) - len(update.interim.text.split())

        assert waiting("tiny.en") == 0
        assert waiting("base") == MOST_HELD_WORDS

    def test_doubtful_words_are_final_when_the_last_pass_fails(
        self, detector: VoiceDetector, speech: Samples
    ) -> None:
        """What waits for a pass that fails is not lost."""

        def doubts_and_fails(window: DecodeWindow) -> Result:
            heard = says_position(window).recognised
            assert heard is not None
            if window.is_final:
                return Result(recognised=None, language="en")
            return said(heard.text, tuple(replace(word, probability=0.2) for word in heard.words))

        story = play(make(detector), speech[: 3 * SAMPLE_RATE_HZ], recognise=doubts_and_fails)

        interims = [one for one in story.passes if not one.is_final]
        assert story.finals[-1].split()[-1] == said_last(interims[-1])

    def test_words_that_all_wait_are_not_told_as_withdrawn(
        self, detector: VoiceDetector, speech: Samples
    ) -> None:
        """Before its first words are shown a segment has nothing to take back."""

        def doubts_the_first(window: DecodeWindow) -> Result:
            heard = says_position(window).recognised
            assert heard is not None
            words = heard.words[:2]
            text = "".join(word.text for word in words)
            return said(text, tuple(replace(word, probability=0.2) for word in words))

        story = play(make(detector), speech[: 3 * SAMPLE_RATE_HZ], recognise=doubts_the_first)

        assert not story.passes[0].is_final
        interims = [update.interim for update in story.update if update.interim is not None]
        assert interims
        assert all(words.text for words in interims)

    def test_positions_only_grow(self, detector: VoiceDetector, speech: Samples) -> None:
        """What is heard and processed never goes back, and finals lie before it."""
        story = play(make(detector), np.concatenate([speech, silence(1), speech]))

        assert is_growing(update.processed_sample for update in story.update)
        assert is_growing(update.recognised_sample for update in story.update)
        for update in story.update:
            assert all(words.end_sample <= update.recognised_sample for words in update.finals)

    def test_a_pause_ends_an_utterance_without_another_pass(
        self, detector: VoiceDetector, speech: Samples
    ) -> None:
        """The pass that is made early in a pause gives the final words when the pause lasts."""
        story = play(make(detector), np.concatenate([speech, silence(2)]), is_ended=False)

        last_pass = story.passes[-1]
        assert last_pass.is_final
        assert last_pass.end_sample <= speech.size + int(0.1 * SAMPLE_RATE_HZ)
        assert story.finals[-1].split()[-1] == said_last(last_pass)

    def test_lost_packets_end_no_utterance(self, detector: VoiceDetector, speech: Samples) -> None:
        """Holes shorter than a pause are sound that is missing: the words stay together."""
        sentence = speech[: int(2.9 * SAMPLE_RATE_HZ)]
        track = make(detector)
        step, hole = int(0.5 * SAMPLE_RATE_HZ), int(0.08 * SAMPLE_RATE_HZ)

        for first in range(0, sentence.size, step):
            track.feed(first, sentence[first : first + step - hole], first / SAMPLE_RATE_HZ)
        track.end_speech(3.0)

        assert track.take(3.0).end_sample > sentence.size - 2 * hole
        assert len(track._segments) == 1

    def test_speech_is_announced(self, detector: VoiceDetector, speech: Samples) -> None:
        """It begins, and ends as often."""
        story = play(make(detector), np.concatenate([silence(1), speech, silence(2)]))

        changes = [update.speech for update in story.update if update.speech is not None]
        assert changes[0] is SpeechChange.BEGIN
        assert changes[-1] is SpeechChange.END
        assert changes.count(SpeechChange.BEGIN) == changes.count(SpeechChange.END)

    def test_a_monologue_is_cut_and_windows_stay_short(
        self, detector: VoiceDetector, speech: Samples
    ) -> None:
        """Someone who never pauses gets final words all the same, from windows of bounded size."""
        rules = Rules(end_silence_seconds=30.0, draft_silence_seconds=30.0)
        track = Track(detector, start_sample=0, language="en", rules=rules)

        story = play(track, np.concatenate([speech] * 4))

        numbers = [int(word[1:]) for text in story.finals for word in text.split()]
        assert numbers == sorted(set(numbers))
        assert len(story.finals) >= 3
        assert max(window.seconds for window in story.passes) < 9.5

    def test_a_pass_that_is_not_believed_takes_nothing_away(
        self, detector: VoiceDetector, speech: Samples
    ) -> None:
        """What was shown stays, and becomes final when the last pass fails too."""

        def fails_later(window: DecodeWindow) -> Result:
            is_early = window.end_sample < 2.0 * SAMPLE_RATE_HZ
            return said("I will write") if is_early else Result(recognised=None, language="en")

        story = play(
            make(detector), np.concatenate([speech[:40_000], silence(1)]), recognise=fails_later
        )

        assert story.finals == ["I will write"]

    def test_after_one_that_is_not_believed_the_next_is_asked_for_with_care(
        self, detector: VoiceDetector, speech: Samples
    ) -> None:
        """Words must not stand still for long: a second failure in a row would be one too many."""
        seen: list[DecodeWindow] = []

        def fails_once(window: DecodeWindow) -> Result:
            seen.append(window)
            is_second = len(seen) == 2
            return Result(recognised=None, language="en") if is_second else said("I will write")

        play(make(detector), speech[:40_000], recognise=fails_once)

        assert [window.was_rejected for window in seen[:4]] == [False, False, True, False]


class TestEnds:
    """How sound ends, or does not come."""

    def test_end_speech_works_all_off_and_says_so(
        self, detector: VoiceDetector, speech: Samples
    ) -> None:
        """Cut off in the middle of a word, everything is final at once; this is told once."""
        story = play(make(detector), speech[: 2 * SAMPLE_RATE_HZ])

        assert [update.is_drained for update in story.update].count(True) == 1
        assert story.update[-1].is_drained
        assert story.update[-1].processed_sample == 2 * SAMPLE_RATE_HZ
        assert len(story.finals) == 1

    def test_a_track_is_drained_without_a_word(self, detector: VoiceDetector) -> None:
        """A speaker who never spoke has nothing to be waited for."""
        track = make(detector)

        track.end_speech(1.0)

        update = track.take_update()
        assert update is not None
        assert update.is_drained

    def test_sound_may_come_again_after_the_end(
        self, detector: VoiceDetector, speech: Samples
    ) -> None:
        """Unmuted later, the speaker is heard at the right place."""
        track = make(detector)
        play(track, speech)

        story = play(track, speech, begin_seconds=3600.0)

        first = next(words for update in story.update for words in update.finals)
        assert first.segment >= 3600 * SAMPLE_RATE_HZ
        assert story.update[-1].is_drained

    def test_sound_that_stays_away_ends_speech(
        self, detector: VoiceDetector, speech: Samples
    ) -> None:
        """A client that vanished mid-word leaves no open words behind."""
        track = make(detector)
        story = play(track, speech[: 2 * SAMPLE_RATE_HZ], is_ended=False)
        schedule: Schedule[str] = Schedule()
        schedule.add("track", track)
        assert story.finals == []

        work_off(schedule, story, says_position, 2.0 + STALL_SECONDS + 0.1)

        assert len(story.finals) == 1

    def test_doubled_sound_is_heard_once(self, detector: VoiceDetector, speech: Samples) -> None:
        """Sound sent again after a cut changes nothing."""
        once = play(make(detector), speech)

        twice = play(make(detector), speech, times=2)

        assert twice.finals == once.finals


class TestLimits:
    """Memory and work are bounded."""

    def test_a_cut_in_the_dark_loses_no_words(self, detector: VoiceDetector) -> None:
        """Where no times tell which words are left of a cut, that part is recognised once more."""

        def untimed(window: DecodeWindow) -> Result:
            heard = says_position(window).recognised
            assert heard is not None
            return said(heard.text)

        story = play(make(detector), cut(decoded("kenji"), (26.0, 37.5)), recognise=untimed)

        numbers = [int(word[1:]) for text in story.finals for word in text.split()]
        assert len(story.finals) > 1
        assert numbers[0] <= 3
        # The word that a cut goes through is on neither side of it.
        assert all(later - earlier <= 2 for earlier, later in pairwise(numbers))

    @pytest.mark.parametrize("noise", [0.0, 0.01], ids=["in a pause", "in noise"])
    def test_a_cut_keeps_words_that_its_last_pass_heard_otherwise(
        self, detector: VoiceDetector, noise: float
    ) -> None:
        """Words that passes agreed on stay when later ones differ and running speech is cut."""

        def changes_its_mind(window: DecodeWindow) -> Result:
            heard = says_position(window).recognised
            assert heard is not None
            first, _, rest = heard.text.partition(" ")
            if window.start_sample < SAMPLE_RATE_HZ and window.seconds > 3.0:
                return said(f"other {rest}", heard.words)
            return said(f"{first} {rest}", heard.words)

        sound = cut(decoded("kenji"), (26.0, 37.5))
        hiss = np.random.default_rng(1).normal(0, noise, sound.size).astype(np.float32)

        story = play(make(detector), sound + hiss, recognise=changes_its_mind)

        assert len(story.finals) > 1
        assert story.finals[0].lower().startswith("w")
        assert not any("other" in text.lower() for text in story.finals)
        numbers = [int(word[1:]) for text in story.finals for word in text.split()]
        assert numbers == sorted(set(numbers))

    @pytest.mark.parametrize("is_timed", [True, False], ids=["between words", "in the dark"])
    def test_a_cut_inside_a_sentence_leaves_no_full_stop(
        self, detector: VoiceDetector, *, is_timed: bool
    ) -> None:
        """A pass that hears nothing after the cut ends the sentence there; the words do not."""

        def stops(window: DecodeWindow) -> Result:
            heard = says_position(window).recognised
            assert heard is not None
            return said(f"{heard.text}.", heard.words if is_timed else ())

        track = make(detector)
        sound = cut(decoded("kenji"), (26.0, 37.5))

        story = play(track, sound, recognise=stops)

        finals = [words for update in story.update for words in update.finals]
        cuts = [words.text for words in finals if not words.is_end_of_utterance]
        assert cuts
        assert not any(text.endswith(".") for text in cuts)
        assert finals[-1].text.endswith(".")
        assert finals[-1].text[0].isupper() == finals[-2].text.endswith(".")

    def test_ten_seconds_at_once_are_cut_as_usual(
        self, detector: VoiceDetector, speech: Samples
    ) -> None:
        """Faster than real time: utterances pile up in order and each gets its final pass."""
        sound = np.concatenate([speech, silence(1)] * 4)

        story = play(make(detector), sound, parcel_seconds=10.0)

        numbers = [int(word[1:]) for text in story.finals for word in text.split()]
        assert numbers == sorted(set(numbers))
        assert len(story.finals) >= 8
        assert max(window.seconds for window in story.passes) < 9.5

    @pytest.mark.parametrize("level", [0.0, 0.001, 0.05], ids=str)
    def test_ten_minutes_without_speech_cost_no_pass(
        self, detector: VoiceDetector, level: float
    ) -> None:
        """Silence and noise are processed at once, in a second of memory."""
        noise = np.random.default_rng(1).normal(0, level, 10 * SAMPLE_RATE_HZ).astype(np.float32)
        track = make(detector)

        story = play(track, np.tile(noise, 60), parcel_seconds=1.0, is_ended=False)

        assert story.passes == []
        assert story.update[-1].processed_sample > 595 * SAMPLE_RATE_HZ
        assert track._segmenter._audio._memory.nbytes < 500_000

    def test_newer_sound_merges_into_a_waiting_pass(
        self, detector: VoiceDetector, speech: Samples
    ) -> None:
        """However long a recogniser is busy, one pass catches up with an open utterance."""
        track = make(detector)
        for first in range(0, 2 * SAMPLE_RATE_HZ, 1600):
            track.feed(first, speech[first : first + 1600], first / SAMPLE_RATE_HZ)

        window = track.take(2.0)

        assert window.end_sample > 1.6 * SAMPLE_RATE_HZ
        assert track.due() is None


class TestSchedule:
    """The oldest voice of all comes first."""

    def test_final_words_go_first_then_the_oldest(
        self, detector: VoiceDetector, speech: Samples
    ) -> None:
        """Who has ended is served before who waits longer; no more than a batch at a time."""
        schedule: Schedule[str] = Schedule()
        tracks = {name: make(detector) for name in ("old", "new", "ended")}
        for index, (name, track) in enumerate(tracks.items()):
            schedule.add(name, track)
            track.feed(0, speech[:24_000], index * 0.1)
        tracks["ended"].end_speech(0.3)

        ready = schedule.next(5.0 - STALL_SECONDS - 2.5)

        assert [name for name, _ in ready] == ["ended", "old"]
        assert len(ready) == LARGEST_BATCH

    def test_says_how_long_nothing_is_due(self, detector: VoiceDetector, speech: Samples) -> None:
        """Waiting ends when the first pass is due, and is short when there is none."""
        schedule: Schedule[str] = Schedule()
        empty_seconds = schedule.wait_seconds(0.0)
        track = make(detector)
        schedule.add("track", track)
        track.feed(0, speech[:16_000], 10.0)

        assert 0.0 < empty_seconds <= 1.0
        assert 0.2 < schedule.wait_seconds(10.0) <= Rules().max_cadence_seconds
        assert schedule.wait_seconds(11.0) == 0.0
        assert schedule.lag_seconds(11.0) == pytest.approx(1.0)
