# SPDX-License-Identifier: Apache-2.0

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.voice.utterances import SpeechRules, Utterance, UtteranceFinder
from callsd_worker.speech.voice.vad import VoiceDetector

from .conftest import SAMPLE_CALL, decode


def silence(seconds: float) -> Samples:
    """Digital silence."""
    return np.zeros(int(seconds * SAMPLE_RATE_HZ), dtype=np.float32)


def find(
    track: Samples, *, block_samples: int = 10 * SAMPLE_RATE_HZ, rules: SpeechRules | None = None
) -> list[Utterance]:
    """All utterances of a track fed in blocks."""
    finder = UtteranceFinder(VoiceDetector(), rules)
    found = []
    for first in range(0, track.size, block_samples):
        found += finder.feed(first, track[first : first + block_samples])
    return found + finder.finish()


def spoken_seconds(utterances: list[Utterance]) -> float:
    """How long all utterances are."""
    return sum(utterance.samples.size for utterance in utterances) / SAMPLE_RATE_HZ


def voiced_seconds(utterances: list[Utterance]) -> float:
    """How much voice is in all utterances."""
    return sum(utterance.voiced_seconds for utterance in utterances)


def far_away(speech: Samples, random: np.random.Generator) -> NDArray[np.float64]:
    """As a microphone at the other end of a room hears it: its echoes are twice as loud."""
    seconds = np.arange(int(0.6 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    echoes = random.standard_normal(seconds.size) * 10 ** (-5 * seconds)
    echoes *= (2 / np.square(echoes).sum()) ** 0.5
    size = speech.size + seconds.size
    spectrum = np.fft.rfft(speech, size) * (1 + np.fft.rfft(echoes, size))
    heard = np.fft.irfft(spectrum, size)[: speech.size]
    level: NDArray[np.float64] = heard * (np.square(speech).mean() / np.square(heard).mean()) ** 0.5
    return level


def extents(utterances: list[Utterance]) -> list[tuple[int, int]]:
    """Where utterances begin and end."""
    return [(utterance.start_sample, utterance.end_sample) for utterance in utterances]


class TestSpeech:
    """Voices are found."""

    def test_is_found_where_it_is(self, speech: Samples) -> None:
        """One utterance after silence starts within a fraction of a second of the voice."""
        found = find(np.concatenate([silence(20), speech, silence(20)]))

        starts = [utterance.start_sample / SAMPLE_RATE_HZ for utterance in found]
        assert 19.5 < starts[0] < 20.5
        assert found[-1].end_sample / SAMPLE_RATE_HZ < 20.5 + speech.size / SAMPLE_RATE_HZ
        assert spoken_seconds(found) > 0.9 * 6

    @pytest.mark.parametrize("block_samples", [320, 1600, 7919], ids=str)
    def test_does_not_depend_on_blocks(self, speech: Samples, block_samples: int) -> None:
        """Live packets and large blocks of a file give the same utterances."""
        track = np.concatenate([silence(3), speech, silence(3), speech, silence(3)])

        whole = find(track)
        packets = find(track, block_samples=block_samples)

        assert extents(packets) == extents(whole)

    def test_a_short_answer_is_kept(self, speech: Samples) -> None:
        """A third of a second of voice in a minute of silence is an utterance."""
        answer = speech[int(1.0 * SAMPLE_RATE_HZ) : int(1.35 * SAMPLE_RATE_HZ)]

        found = find(np.concatenate([silence(30), answer, silence(30)]))

        assert len(found) == 1
        assert 29 < found[0].start_sample / SAMPLE_RATE_HZ < 30.5

    @pytest.mark.parametrize("level", [0.001, 0.003], ids=str)
    @pytest.mark.parametrize("ripple_db", [0.0, 5.0], ids=["even", "uneven"])
    def test_a_short_answer_is_heard_in_noise(self, level: float, ripple_db: float) -> None:
        """An answer after half a minute of an open microphone's noise is an utterance.

        The noise is not taken for a quiet speaker's voice: with its gain the answer was distorted
        beyond recognition.
        """
        answer = decode(SAMPLE_CALL / "joe.ogg")[int(70.05 * SAMPLE_RATE_HZ) :][:SAMPLE_RATE_HZ]
        random = np.random.default_rng(3)
        track = level * random.standard_normal(60 * SAMPLE_RATE_HZ)
        ripple = random.normal(0.0, ripple_db, 60 * 20)
        track *= 10 ** (np.interp(np.arange(track.size) / 800, np.arange(ripple.size), ripple) / 20)
        track[30 * SAMPLE_RATE_HZ :][: answer.size] += answer

        found = find(track.astype(np.float32))

        assert len(found) == 1
        assert 29.5 < found[0].start_sample / SAMPLE_RATE_HZ < 30.5
        assert found[0].voiced_seconds > 0.25

    def test_a_quiet_speaker_is_heard_and_raised(self, speech: Samples) -> None:
        """Speech 40 dB down is found, and handed on at a level recognisers know."""
        loud = find(np.concatenate([silence(2), speech, silence(2)]))
        quiet = find(np.concatenate([silence(2), speech * np.float32(0.01), silence(2)]))

        assert abs(spoken_seconds(quiet) - spoken_seconds(loud)) < 1.0
        assert np.abs(quiet[0].samples).max() > 0.05

    @pytest.mark.parametrize("block_samples", [1600, 10 * SAMPLE_RATE_HZ], ids=["live", "file"])
    def test_who_is_far_away_is_heard_after_a_bang(
        self, speech: Samples, block_samples: int
    ) -> None:
        """Speech 40 dB down and full of echo is found right after a bang next to the microphone."""
        random = np.random.default_rng(5)
        bang = 0.8 * random.standard_normal(SAMPLE_RATE_HZ // 3) * np.hanning(SAMPLE_RATE_HZ // 3)
        begin = 3 * SAMPLE_RATE_HZ
        track = 0.0001 * random.standard_normal(begin + speech.size + 2 * SAMPLE_RATE_HZ)
        track[2 * SAMPLE_RATE_HZ :][: bang.size] += bang
        track[begin:][: speech.size] += 0.01 * far_away(speech, random)

        found = find(track.astype(np.float32), block_samples=block_samples)

        heard = [utterance for utterance in found if utterance.end_sample > begin]
        assert voiced_seconds(heard) > 0.95 * voiced_seconds(find(speech))
        assert spoken_seconds(heard) < speech.size / SAMPLE_RATE_HZ + 1.0

    def test_a_monologue_is_cut(self, speech: Samples) -> None:
        """Speech without a pause is cut below the limit, and nothing is lost at the seam."""
        rules = SpeechRules(max_utterance_seconds=4.0, min_silence_seconds=5.0)

        found = find(np.concatenate([speech, speech]), rules=rules)

        assert len(found) >= 3
        assert max(utterance.samples.size for utterance in found) < 5 * SAMPLE_RATE_HZ
        for left, right in itertools.pairwise(found):
            assert right.start_sample == left.end_sample

    def test_lost_packets_end_no_utterance(self, speech: Samples) -> None:
        """Holes of 80 ms are sound that is missing: what is said around them stays together."""
        sentence = speech[: int(2.9 * SAMPLE_RATE_HZ)]
        step, hole = int(0.5 * SAMPLE_RATE_HZ), int(0.08 * SAMPLE_RATE_HZ)
        finder = UtteranceFinder(VoiceDetector())

        found = []
        for first in range(0, sentence.size, step):
            found += finder.feed(first, sentence[first : first + step - hole])
        found += finder.finish()

        (whole,) = find(sentence)
        (utterance,) = found
        assert utterance.start_sample == whole.start_sample
        assert whole.end_sample - utterance.end_sample <= hole

    def test_a_hole_in_the_track_ends_an_utterance(self, speech: Samples) -> None:
        """Audio that was never sent is silence, and positions after it are right."""
        finder = UtteranceFinder(VoiceDetector())

        found = finder.feed(0, speech)
        found += finder.feed(3600 * SAMPLE_RATE_HZ, speech)
        found += finder.finish()

        assert found[-1].start_sample >= 3600 * SAMPLE_RATE_HZ
        assert spoken_seconds(found) > 11
        assert all(utterance.samples.size < 12 * SAMPLE_RATE_HZ for utterance in found)


class TestNoSpeech:
    """Everything else is not."""

    @pytest.mark.parametrize("level", [0.0, 0.0001, 0.01, 0.1], ids=str)
    def test_noise_is_not_speech(self, level: float) -> None:
        """Silence, circuit noise and loud noise give no utterance."""
        noise = np.random.default_rng(1).standard_normal(20 * SAMPLE_RATE_HZ)

        assert find((level * noise).astype(np.float32)) == []

    def test_hum_and_clicks_are_not_speech(self) -> None:
        """Mains hum with a keyboard on top gives no utterance."""
        moments: NDArray[np.float64] = np.arange(20 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
        track = 0.05 * np.sin(2 * np.pi * 50 * moments)
        track[:: SAMPLE_RATE_HZ // 3] += 0.8

        assert find(track.astype(np.float32)) == []

    def test_silence_is_not_kept(self) -> None:
        """An hour of silence leaves less than a second of audio behind."""
        finder = UtteranceFinder(VoiceDetector())
        minute = silence(60)

        for number in range(60):
            assert finder.feed(number * minute.size, minute) == []

        assert finder._audio.size < SAMPLE_RATE_HZ
