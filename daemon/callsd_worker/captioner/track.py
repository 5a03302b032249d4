# SPDX-License-Identifier: Apache-2.0
"""One speaker of one call: sound in, passes out to the recogniser, news of words back.

No threads, no clock, no I/O: whoever drives a track holds a lock around it and says what time it
is. All times are seconds of one clock that never goes back; all positions are samples at 16 kHz
from the start of the call.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from callsd_worker.captioner.agreement import Agreement, common_prefix
from callsd_worker.captioner.cuts import Cut, cuts_between_words, ends_softly, softest_frame
from callsd_worker.captioner.language import SpeakerLanguage
from callsd_worker.captioner.passes import Due, Pass, Result
from callsd_worker.captioner.rules import Rules
from callsd_worker.captioner.segment import Segment
from callsd_worker.captioner.tape import Tape
from callsd_worker.captioner.telling import Telling
from callsd_worker.captioner.words import News
from callsd_worker.speech.engine import TimedWord
from callsd_worker.speech.mel import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.tokens import UNSPACED_LANGUAGES
from callsd_worker.speech.vad import (
    CONTEXT_SAMPLES,
    FRAME_SAMPLES,
    VoiceDetector,
    VoiceGate,
    amplified,
)


STALL_SECONDS = 1.5
"""Sound that stays away for so long in the middle of speech will not come: a client is gone, or
sends nothing while its speaker is silent."""

_LONGEST_FILLED_SECONDS = 1.5
"""A hole in the sound up to this is heard as silence, frame by frame; beyond it the track starts
anew behind it. Any utterance has ended in it."""


_NEW_PASS_WEIGHT = 0.2
"""Of the newest pass in what is known of how long they take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outstanding:
    """A pass that is being made."""

    window: Pass
    segment: Segment
    taken_sample: int
    """What the segment's was before."""
    unheard_since_seconds: float | None
    taken_seconds: float


class Track:
    """See the module."""

    def __init__(
        self,
        detector: VoiceDetector,
        *,
        start_sample: int,
        language: str,
        rules: Rules | None = None,
    ) -> None:
        """Sound before `start_sample` is known already; `language` is empty if it is not given."""
        self._rules = rules or Rules()
        self._gate = VoiceGate(
            detector,
            floor_dbfs=self._rules.floor_dbfs,
            hangover_seconds=self._rules.hangover_seconds,
        )
        self._language = SpeakerLanguage(language)
        self._tape = Tape(start_sample)
        self._judged_sample = start_sample
        self._segments: deque[Segment] = deque()
        self._open: Segment | None = None
        """The last of them, while the speaker speaks."""
        self._last_end_sample = start_sample
        self._outstanding: _Outstanding | None = None
        self._last_sound_seconds = 0.0
        self._retry_seconds = 0.0
        self._pass_seconds = 0.0
        """How long passes take of late."""
        self._is_draining = False
        self._telling = Telling(start_sample)

    @property
    def unheard_since_seconds(self) -> float | None:
        """When the oldest voice came that is not in words yet; None if there is none."""
        if self._outstanding is not None and self._outstanding.unheard_since_seconds is not None:
            return self._outstanding.unheard_since_seconds
        for segment in self._segments:
            if segment.unheard_since_seconds is not None:
                return segment.unheard_since_seconds
        return None

    @property
    def _cadence_seconds(self) -> float:
        rules = self._rules
        wanted = self._pass_seconds / rules.pass_share
        return min(max(wanted, rules.min_cadence_seconds), rules.max_cadence_seconds)

    # --- sound ---

    def hear(self, start_sample: int, samples: Samples, now_seconds: float) -> None:
        """Take the next sound, float32 at 16 kHz, in pieces of any length.

        What was heard before is left out; a hole is silence.
        """
        hole = start_sample - self._tape.end_sample
        if hole < 0:
            samples = samples[-hole:]
        elif hole > _LONGEST_FILLED_SECONDS * SAMPLE_RATE_HZ:
            self._break_off(now_seconds)
            self._restart(start_sample)
        elif hole > 0:
            self._tape.append(np.zeros(hole, dtype=np.float32))
        if not samples.size:
            return
        self._last_sound_seconds = now_seconds
        self._is_draining = False
        self._tape.append(samples)
        self._judge(now_seconds)
        self._forget()

    def end_speech(self, now_seconds: float) -> None:
        """The speaker says no more for now: what is open ends here."""
        self._break_off(now_seconds)
        self._restart(self._tape.end_sample)
        self._is_draining = True

    def notice_stall(self, now_seconds: float) -> None:
        """End speech whose sound has stopped coming."""
        if self._open is not None and now_seconds - self._last_sound_seconds >= STALL_SECONDS:
            self._break_off(now_seconds)

    def _judge(self, now_seconds: float) -> None:
        whole = (self._tape.end_sample - self._judged_sample) // FRAME_SAMPLES * FRAME_SAMPLES
        if not whole:
            return
        first = self._judged_sample
        probabilities = self._gate.judge(
            self._tape.read(first, first + whole),
            self._tape.read(first - CONTEXT_SAMPLES, first),
        )
        for probability in probabilities.tolist():
            self._step(probability, now_seconds)

    def _step(self, probability: float, now_seconds: float) -> None:
        rules = self._rules
        if self._open is None:
            if probability >= rules.begin_probability:
                self._begin()
            else:
                self._judged_sample += FRAME_SAMPLES
                return
        segment = self._open
        assert segment is not None
        segment.add_frame(probability, rules.end_probability, now_seconds)
        self._judged_sample += FRAME_SAMPLES
        if segment.voiced_seconds >= rules.min_voiced_seconds:
            self._telling.speech_begins()
        if segment.silence_seconds >= rules.end_silence_seconds:
            padded = segment.voice_end_sample + int(rules.padding_seconds * SAMPLE_RATE_HZ)
            self._end_utterance(min(padded, self._judged_sample), now_seconds)
        elif segment.seconds >= rules.max_segment_seconds:
            self._cut_at_limit(segment, now_seconds)

    def _begin(self) -> None:
        padded = self._judged_sample - int(self._rules.padding_seconds * SAMPLE_RATE_HZ)
        self._open = Segment(
            start_sample=max(padded, self._last_end_sample, self._tape.start_sample),
            voice_start_sample=self._judged_sample,
            begin_probability=self._rules.begin_probability,
        )
        self._segments.append(self._open)

    def _break_off(self, now_seconds: float) -> None:
        """The open utterance ends with the sound there is."""
        if self._open is not None:
            self._end_utterance(self._tape.end_sample, now_seconds)

    def _end_utterance(self, end_sample: int, now_seconds: float) -> None:
        segment = self._open
        assert segment is not None
        self._open = None
        self._last_end_sample = end_sample
        self._close(segment, end_sample, is_end_of_utterance=True, now_seconds=now_seconds)
        self._telling.speech_ends()
        is_click = segment.voiced_seconds < self._rules.min_voiced_seconds
        if is_click and not segment.agreement.words:
            self._segments.remove(segment)
            self._telling.withdraw(segment)
        elif self._outstanding is None and segment.is_complete:
            self._finish(segment)

    def _cut_at_limit(self, segment: Segment, now_seconds: float) -> None:
        """Too long: end it at its softest moment and go on from there."""
        cuts = self._cuts(segment, len(segment.word_times))
        if cuts:
            self._cut(segment, max(cuts, key=lambda cut: cut.pause_seconds), now_seconds)
            return
        count = len(segment.trail)
        samples = self._tape.read(segment.voice_start_sample, segment.judged_sample)
        frame = softest_frame(samples, first=count // 2, after=count - 2)
        self._split(segment, frame, now_seconds)
        # Which of the words are left of the cut nobody knows.
        segment.agreement = Agreement()

    def _cuts(self, segment: Segment, word_count: int) -> list[Cut]:
        samples = self._tape.read(segment.start_sample, segment.judged_sample)
        return cuts_between_words(samples, segment.word_times[:word_count])

    def _cut(self, segment: Segment, cut: Cut, now_seconds: float) -> None:
        """The words behind the cut move into a new segment."""
        cut_sample = segment.start_sample + cut.sample
        frame = round((cut_sample - segment.voice_start_sample) / FRAME_SAMPLES)
        rest = self._split(segment, frame, now_seconds)
        segment.agreement, rest.agreement = segment.agreement.split(cut.word_count)
        self._telling.show(rest)

    def _split(self, segment: Segment, frame: int, now_seconds: float) -> Segment:
        """The open segment ends before a frame, and the rest of it goes on."""
        rest = segment.split(frame)
        end_sample = rest.start_sample
        self._close(segment, end_sample, is_end_of_utterance=False, now_seconds=now_seconds)
        self._last_end_sample = end_sample
        self._open = rest
        self._segments.append(rest)
        return rest

    def _close(
        self, segment: Segment, end_sample: int, *, is_end_of_utterance: bool, now_seconds: float
    ) -> None:
        segment.close(
            samples=self._tape.read(segment.start_sample, end_sample).copy(),
            is_end_of_utterance=is_end_of_utterance,
            now_seconds=now_seconds,
        )

    def _restart(self, at_sample: int) -> None:
        """What comes next does not follow what came."""
        self._gate.restart()
        self._tape.restart(at_sample)
        self._judged_sample = at_sample

    def _forget(self) -> None:
        padding = int(self._rules.padding_seconds * SAMPLE_RATE_HZ) + FRAME_SAMPLES
        needed = self._judged_sample if self._open is None else self._open.start_sample
        self._tape.forget(needed - padding)

    # --- passes ---

    def due(self) -> Due | None:
        """The pass that is wanted next; None while there is nothing to recognise."""
        if self._outstanding is not None or not self._segments:
            return None
        segment = self._segments[0]
        if segment.end_sample is not None:
            at = max(segment.closed_seconds, self._retry_seconds)
            return Due(ready_seconds=at, deadline_seconds=at, is_final=True)
        if segment.voiced_seconds < self._rules.min_voiced_seconds:
            return None
        since = segment.unheard_since_seconds
        if segment.silence_seconds >= self._rules.draft_silence_seconds:
            if segment.is_drafted:
                return None
            at = self._last_sound_seconds
        elif since is None:
            return None
        else:
            at = since + self._cadence_seconds
            if segment.silence_start_sample is not None:
                # Sound decides in a moment whether this is the end; one pass serves both.
                at = max(at, self._last_sound_seconds + self._rules.draft_silence_seconds)
        at = max(at, self._retry_seconds)
        return Due(ready_seconds=at, deadline_seconds=at, is_final=False)

    def take(self, now_seconds: float) -> Pass:
        """The window to recognise now. Until it is settled no other pass is due."""
        segment = self._segments[0]
        assert self._outstanding is None
        rules = self._rules
        is_final = (
            segment.samples is not None or segment.silence_seconds >= rules.draft_silence_seconds
        )
        samples = segment.samples
        if samples is None:
            samples = self._tape.read(segment.start_sample, segment.judged_sample)
            if segment.silence_start_sample is None:
                samples = samples[: ends_softly(samples, last_seconds=rules.soft_end_seconds)]
        window = Pass(
            samples=amplified(samples),
            start_sample=segment.start_sample,
            end_sample=segment.start_sample + samples.size,
            voiced_seconds=segment.voiced_seconds,
            is_final=is_final,
            needs_word_times=not is_final and segment.seconds >= rules.cut_after_seconds,
            language=self._language.code,
            is_language_asked=self._language.wants_vote(
                voiced_seconds=segment.voiced_seconds, is_final=is_final
            ),
        )
        self._outstanding = _Outstanding(
            window=window,
            segment=segment,
            taken_sample=segment.taken_sample,
            unheard_since_seconds=segment.unheard_since_seconds,
            taken_seconds=now_seconds,
        )
        segment.taken_sample = window.end_sample
        return window

    def settle(self, result: Result, now_seconds: float) -> None:
        """Take what became of the pass that was taken last."""
        outstanding = self._outstanding
        assert outstanding is not None
        self._outstanding = None
        self._pass_seconds += _NEW_PASS_WEIGHT * (
            now_seconds - outstanding.taken_seconds - self._pass_seconds
        )
        window, segment = outstanding.window, outstanding.segment
        if segment not in self._segments:
            return  # It was no speech after all.
        self._language.vote(result.languages, voiced_seconds=window.voiced_seconds)
        if result.heard is None:
            self._settle_unheard(outstanding, now_seconds)
            return
        if not segment.is_end_of_utterance and window.end_sample > segment.window_end_sample:
            return  # It was cut meanwhile: these are words of two segments.
        words = tuple(_split_words(result.heard.text, result.language))
        self._telling.language = result.language
        if window.is_final and not words:
            segment.agreement = Agreement()
        segment.agreement.hear(words)
        segment.heard_sample = window.end_sample
        if window.is_final:
            segment.drafted_sample = window.end_sample
        if segment.is_complete:
            self._finish(segment)
            return
        self._telling.show(segment)
        if segment is self._open and window.needs_word_times:
            segment.word_times = _times_of(segment.agreement.words, words, result.heard.words)
            self._cut_if_certain(segment, now_seconds)

    def _cut_if_certain(self, segment: Segment, now_seconds: float) -> None:
        """Make the certain beginning of a long segment final, if it ends in a pause."""
        cuts = [
            cut
            for cut in self._cuts(segment, segment.agreement.stable_count)
            if cut.pause_seconds >= self._rules.cut_pause_seconds
        ]
        if cuts:
            # The last one: few words move on.
            self._cut(segment, cuts[-1], now_seconds)
            self._finish(segment)

    def _settle_unheard(self, outstanding: _Outstanding, now_seconds: float) -> None:
        window, segment = outstanding.window, outstanding.segment
        if window.is_final and window.end_sample == segment.end_sample:
            # What was shown is more than nothing.
            self._finish(segment)
            return
        # Heard next time, with what has come since.
        segment.taken_sample = outstanding.taken_sample
        self._retry_seconds = now_seconds + self._cadence_seconds

    def _finish(self, segment: Segment) -> None:
        assert self._segments[0] is segment
        self._segments.popleft()
        self._telling.finish(segment)

    # --- news ---

    def news(self) -> News | None:
        """What has changed since the last call; None if nothing worth telling has."""
        head = self._segments[0] if self._segments else None
        padding = int(self._rules.padding_seconds * SAMPLE_RATE_HZ) + FRAME_SAMPLES
        is_drained = self._is_draining and head is None
        if head is not None:
            processed, heard = head.start_sample, head.heard_sample
        else:
            heard = self._judged_sample
            # An utterance that begins now reaches back a little.
            processed = heard if is_drained else heard - padding
        if is_drained:
            self._is_draining = False
        return self._telling.news(
            processed_sample=processed,
            heard_sample=heard,
            is_drained=is_drained,
            position_step_samples=int(self._rules.position_step_seconds * SAMPLE_RATE_HZ),
        )


def _times_of(
    shown: Sequence[str], heard: Sequence[str], timed: Sequence[TimedWord]
) -> tuple[TimedWord, ...]:
    """The times of the words that are shown, if they are those of the words that were heard."""
    is_same = len(shown) == len(heard) == len(timed) and common_prefix(shown, heard) == len(shown)
    return tuple(timed) if is_same else ()


def _split_words(text: str, language: str) -> list[str]:
    return list(text.replace(" ", "")) if language in UNSPACED_LANGUAGES else text.split()
