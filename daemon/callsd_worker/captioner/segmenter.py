# SPDX-License-Identifier: Apache-2.0
"""Cuts the live audio of one track into segments of speech."""

from collections import deque

import numpy as np

from callsd_worker.captioner.agreement import Agreement
from callsd_worker.captioner.audio_buffer import AudioBuffer
from callsd_worker.captioner.cuts import Cut, cuts_between_words, softest_frame, times_of
from callsd_worker.captioner.rules import Rules
from callsd_worker.captioner.segment import Segment
from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.voice.vad import CONTEXT_SAMPLES, FRAME_SAMPLES, VoiceDetector
from callsd_worker.speech.voice.voice_gate import VoiceGate


STALL_SECONDS = 1.5
"""Audio that is missing for so long in the middle of speech will not come: the client is gone, or
sends nothing during silence."""

_LONGEST_FILLED_SECONDS = 1.5
"""A hole up to this length is filled with silence. After a longer one detection starts anew: any
utterance has ended in it."""


class Segmenter:
    """Begins, cuts and ends segments, and keeps the audio that may still be needed."""

    def __init__(self, detector: VoiceDetector, *, start_sample: int, rules: Rules) -> None:
        self._rules = rules
        self._gate = VoiceGate(
            detector, floor_dbfs=rules.floor_dbfs, hangover_seconds=rules.hangover_seconds
        )
        self._audio = AudioBuffer(start_sample)
        self._last_end_sample = start_sample
        self.judged_sample = start_sample
        """Audio before this has been classified as speech or silence."""
        self.last_sound_seconds = 0.0
        """When the newest audio arrived."""
        self.segments: deque[Segment] = deque()
        """In order; `Track` removes those that are final."""
        self.open: Segment | None = None
        """The last of them, while the speaker talks."""

    @property
    def is_speaking(self) -> bool:
        return self.open is not None and not self.open.is_click

    def feed(self, start_sample: int, samples: Samples, now_seconds: float) -> None:
        """Take the next audio, float32 at 16 kHz, in pieces of any length.

        Audio that was fed before is skipped; a hole is silence.
        """
        hole = start_sample - self._audio.end_sample
        if hole < 0:
            samples = samples[-hole:]
        elif hole > _LONGEST_FILLED_SECONDS * SAMPLE_RATE_HZ:
            self.break_off(now_seconds)
            self._restart(start_sample)
        elif hole > 0:
            self._audio.append(np.zeros(hole, dtype=np.float32))
        if not samples.size:
            return
        self.last_sound_seconds = now_seconds
        self._audio.append(samples)
        self._judge(now_seconds)
        self._forget()

    def end(self, now_seconds: float) -> None:
        """No more audio comes for now: end the open segment here."""
        self.break_off(now_seconds)
        self._restart(self._audio.end_sample)

    def notice_stall(self, now_seconds: float) -> None:
        """End speech whose audio has stopped coming."""
        if self.open is not None and now_seconds - self.last_sound_seconds >= STALL_SECONDS:
            self.break_off(now_seconds)

    def break_off(self, now_seconds: float) -> None:
        """End the open segment with the audio received so far."""
        if self.open is not None:
            self._end_utterance(self._audio.end_sample, now_seconds)

    def sound_of(self, segment: Segment) -> Samples:
        """A segment's window so far. A view: copy it to keep it."""
        if segment.samples is not None:
            return segment.samples
        return self._audio.read(segment.start_sample, segment.judged_sample)

    def cuts(self, segment: Segment, *, word_count: int) -> list[Cut]:
        """Good places to cut between the first `word_count` words, if their times are known."""
        words = times_of(segment.agreement.words, segment.heard)[:word_count]
        return cuts_between_words(self.sound_of(segment), words)

    def cut(self, segment: Segment, cut: Cut, now_seconds: float) -> None:
        """End the open segment at the cut; the words after it move into a new segment."""
        cut_sample = segment.start_sample + cut.sample
        frame = round((cut_sample - segment.voice_start_sample) / FRAME_SAMPLES)
        rest = self._split(segment, frame, now_seconds)
        segment.agreement, rest.agreement = segment.agreement.split(cut.word_count)

    def _judge(self, now_seconds: float) -> None:
        whole = (self._audio.end_sample - self.judged_sample) // FRAME_SAMPLES * FRAME_SAMPLES
        if not whole:
            return
        first = self.judged_sample
        probabilities = self._gate.judge(
            self._audio.read(first, first + whole),
            self._audio.read(first - CONTEXT_SAMPLES, first),
        )
        for probability in probabilities.tolist():
            self._step(probability, now_seconds)

    def _step(self, probability: float, now_seconds: float) -> None:
        rules = self._rules
        if self.open is None:
            if probability >= rules.begin_probability:
                self._begin()
            else:
                self.judged_sample += FRAME_SAMPLES
                return
        segment = self.open
        assert segment is not None
        segment.add_frame(probability, rules.end_probability, now_seconds)
        self.judged_sample += FRAME_SAMPLES
        if segment.silence_seconds >= rules.end_silence_seconds:
            padded = segment.voice_end_sample + int(rules.padding_seconds * SAMPLE_RATE_HZ)
            self._end_utterance(min(padded, self.judged_sample), now_seconds)
        elif segment.seconds >= rules.max_segment_seconds:
            self._cut_at_limit(segment, now_seconds)

    def _begin(self) -> None:
        padded = self.judged_sample - int(self._rules.padding_seconds * SAMPLE_RATE_HZ)
        self.open = Segment(
            start_sample=max(padded, self._last_end_sample, self._audio.start_sample),
            voice_start_sample=self.judged_sample,
            begin_probability=self._rules.begin_probability,
            min_voiced_seconds=self._rules.min_voiced_seconds,
        )
        self.segments.append(self.open)

    def _end_utterance(self, end_sample: int, now_seconds: float) -> None:
        segment = self.open
        assert segment is not None
        self.open = None
        self._last_end_sample = end_sample
        self._close(segment, end_sample, is_end_of_utterance=True, now_seconds=now_seconds)

    def _cut_at_limit(self, segment: Segment, now_seconds: float) -> None:
        """Cut a segment that is too long at its softest moment."""
        words = times_of(segment.agreement.words, segment.heard)
        if cuts := cuts_between_words(self.sound_of(segment), words):
            self.cut(segment, max(cuts, key=lambda cut: cut.pause_seconds), now_seconds)
            return
        count = len(segment.trail)
        samples = self._audio.read(segment.voice_start_sample, segment.judged_sample)
        frame = softest_frame(samples, first=count // 2, after=count - 2)
        if words:
            # Noise hides all pauses. A word that is cut in two goes to where more of it is.
            sample = segment.voice_start_sample + frame * FRAME_SAMPLES - segment.start_sample
            at_seconds = sample / SAMPLE_RATE_HZ
            before = sum(word.start_seconds + word.end_seconds < 2 * at_seconds for word in words)
            self.cut(segment, Cut(sample=sample, word_count=before, pause_seconds=0.0), now_seconds)
            return
        self._split(segment, frame, now_seconds)
        # Which words are before the cut is not known: both parts are recognised again.
        segment.agreement = Agreement()
        segment.drafted_sample = segment.start_sample

    def _split(self, segment: Segment, frame: int, now_seconds: float) -> Segment:
        """End the open segment before a frame; the rest becomes the open segment."""
        rest = segment.split(frame)
        end_sample = rest.start_sample
        self._close(segment, end_sample, is_end_of_utterance=False, now_seconds=now_seconds)
        self._last_end_sample = end_sample
        self.open = rest
        self.segments.append(rest)
        return rest

    def _close(
        self, segment: Segment, end_sample: int, *, is_end_of_utterance: bool, now_seconds: float
    ) -> None:
        segment.close(
            samples=self._audio.read(segment.start_sample, end_sample).copy(),
            is_end_of_utterance=is_end_of_utterance,
            now_seconds=now_seconds,
        )

    def _restart(self, at_sample: int) -> None:
        """Start detection anew: the next audio does not follow the last."""
        self._gate.restart()
        self._audio.restart(at_sample)
        self.judged_sample = at_sample

    def _forget(self) -> None:
        padding = int(self._rules.padding_seconds * SAMPLE_RATE_HZ) + FRAME_SAMPLES
        needed = self.judged_sample if self.open is None else self.open.start_sample
        self._audio.forget(needed - padding)
