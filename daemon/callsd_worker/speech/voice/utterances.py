# SPDX-License-Identifier: Apache-2.0
"""Cuts a track into utterances: stretches of speech without a long pause.

One `UtteranceFinder` per track takes audio in blocks of any size and returns finished utterances.
Silence is not kept.
"""

from dataclasses import dataclass

import numpy as np

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.voice.level import amplified
from callsd_worker.speech.voice.vad import (
    CONTEXT_SAMPLES,
    FRAME_SAMPLES,
    FRAME_SECONDS,
    VoiceDetector,
)
from callsd_worker.speech.voice.voice_gate import VoiceGate


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechRules:
    """When speech begins and ends."""

    begin_probability: float = 0.3
    end_probability: float = 0.15
    """Both lower than usual: a missed word is lost, while the recogniser still rejects noise."""
    min_silence_seconds: float = 0.8
    """A pause this long ends an utterance."""
    padding_seconds: float = 0.35
    """Sound kept on either side: soft first and last consonants are below any threshold."""
    min_voiced_seconds: float = 0.09
    """Less than three frames of voice is a click; the shortest "no" has more."""
    max_utterance_seconds: float = 24.0
    """A longer one is cut at its softest moment; recognisers take at most 30 s."""
    floor_dbfs: float = -66.0
    """Frames below this level are silence without asking the network."""
    hangover_seconds: float = 1.0
    """For so long after the last loud frame the network is asked, to find the end of speech."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """A stretch of speech in one track."""

    start_sample: int
    """Position in the track, at 16 kHz."""
    samples: Samples
    voiced_seconds: float
    """Length of what the detector classified as voice."""

    @property
    def end_sample(self) -> int:
        return self.start_sample + self.samples.size


class UtteranceFinder:
    """Cuts one track into utterances as its audio arrives."""

    def __init__(self, detector: VoiceDetector, rules: SpeechRules | None = None) -> None:
        self._rules = rules or SpeechRules()
        self._gate = VoiceGate(
            detector,
            floor_dbfs=self._rules.floor_dbfs,
            hangover_seconds=self._rules.hangover_seconds,
        )
        self._end_frames = round(self._rules.min_silence_seconds / FRAME_SECONDS)
        self._padding_samples = int(self._rules.padding_seconds * SAMPLE_RATE_HZ)
        self._audio: Samples = np.zeros(0, dtype=np.float32)
        self._audio_start = 0
        self._judged_end = 0
        self._last_end = 0
        self._speech_start: int | None = None
        self._silence_start: int | None = None
        self._voiced_frames = 0
        self._trail: list[float] = []
        self._restart(0)

    def feed(self, start_sample: int, samples: Samples) -> list[Utterance]:
        """Take the next audio; a `start_sample` after the end of the last means a hole between.

        A hole shorter than a pause is sound that was lost on its way, a longer one is silence.
        """
        found: list[Utterance] = []
        hole = start_sample - (self._audio_start + self._audio.size)
        if hole >= self._end_frames * FRAME_SAMPLES:
            found += self.finish()
            self._restart(start_sample)
        elif hole > 0:
            samples = np.concatenate([np.zeros(hole, dtype=np.float32), samples])
        self._audio = np.concatenate([self._audio, samples])
        first_new = self._judged_end - self._audio_start
        whole = (self._audio.size - first_new) // FRAME_SAMPLES * FRAME_SAMPLES
        if whole:
            found += self._judge(first_new, whole)
            self._forget()
        return found

    def finish(self) -> list[Utterance]:
        """End of the track, or of a stretch of it: the open utterance ends here."""
        found = []
        if self._speech_start is not None:
            end = self._silence_start if self._silence_start is not None else self._judged_end
            # An incomplete last frame belongs to the utterance if that ends in voice.
            if self._silence_start is None:
                end = self._audio_start + self._audio.size
            found = self._close(end)
        self._restart(self._audio_start + self._audio.size)
        return found

    def _restart(self, at_sample: int) -> None:
        self._audio = np.zeros(0, dtype=np.float32)
        self._audio_start = at_sample
        self._judged_end = at_sample
        self._gate.restart()
        self._last_end = at_sample
        self._idle()

    def _idle(self) -> None:
        self._speech_start = None
        self._silence_start = None
        self._voiced_frames = 0
        self._trail = []

    def _judge(self, first: int, length: int) -> list[Utterance]:
        before = self._audio[max(0, first - CONTEXT_SAMPLES) : first]
        probabilities = self._gate.judge(self._audio[first : first + length], before)
        found: list[Utterance] = []
        for probability in probabilities.tolist():
            found += self._step(probability)
        return found

    def _step(self, probability: float) -> list[Utterance]:
        rules = self._rules
        frame_start = self._judged_end
        self._judged_end += FRAME_SAMPLES
        if self._speech_start is None:
            if probability < rules.begin_probability:
                return []
            self._speech_start = frame_start
        if probability >= rules.begin_probability:
            self._voiced_frames += 1
            self._silence_start = None
        elif probability < rules.end_probability and self._silence_start is None:
            self._silence_start = frame_start
        self._trail.append(probability)
        if self._silence_start is not None:
            silent_frames = (self._judged_end - self._silence_start) // FRAME_SAMPLES
            if silent_frames >= self._end_frames:
                return self._close(self._silence_start)
        if len(self._trail) * FRAME_SECONDS >= rules.max_utterance_seconds:
            return self._split()
        return []

    def _split(self) -> list[Utterance]:
        """Cut an utterance that is too long at the softest moment of its second half."""
        assert self._speech_start is not None
        trail = np.array(self._trail, dtype=np.float32)
        smooth = np.convolve(trail, np.ones(5) / 5, mode="same")
        half = smooth.size // 2
        cut_frame = half + int(np.argmin(smooth[half:-2]))
        cut = self._speech_start + cut_frame * FRAME_SAMPLES
        rest = self._trail[cut_frame:]
        silence_start = self._silence_start
        begin = self._rules.begin_probability
        voiced_left = sum(probability >= begin for probability in rest)
        self._voiced_frames -= voiced_left
        found = self._cut(self._speech_start, cut, pad_end_samples=0)
        self._speech_start = cut
        self._silence_start = silence_start
        self._trail = rest
        self._voiced_frames = voiced_left
        return found

    def _close(self, end_sample: int) -> list[Utterance]:
        assert self._speech_start is not None
        found = self._cut(self._speech_start, end_sample, pad_end_samples=self._padding_samples)
        self._idle()
        return found

    def _cut(self, start: int, end: int, *, pad_end_samples: int) -> list[Utterance]:
        voiced_seconds = self._voiced_frames * FRAME_SECONDS
        if voiced_seconds < self._rules.min_voiced_seconds:
            return []
        start = max(start - self._padding_samples, self._last_end, self._audio_start)
        end = min(end + pad_end_samples, self._audio_start + self._audio.size)
        self._last_end = end
        samples = amplified(self._audio[start - self._audio_start : end - self._audio_start])
        return [Utterance(start_sample=start, samples=samples, voiced_seconds=voiced_seconds)]

    def _forget(self) -> None:
        """Drop audio that no utterance can need any more."""
        needed = self._judged_end if self._speech_start is None else self._speech_start
        keep_from = max(needed - self._padding_samples - FRAME_SAMPLES, self._audio_start)
        self._audio = self._audio[keep_from - self._audio_start :].copy()
        self._audio_start = keep_from
