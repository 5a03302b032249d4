# SPDX-License-Identifier: Apache-2.0
"""One speaker of one call: takes audio, hands out windows to recognise, returns updates of words.

No threads, no clock, no I/O: the caller holds a lock and passes the time. All times are seconds of
one monotonic clock; all positions are samples at 16 kHz from the start of the call.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from callsd_worker.captioner.agreement import Agreement, common_prefix
from callsd_worker.captioner.cadence import Cadence
from callsd_worker.captioner.cuts import ends_softly
from callsd_worker.captioner.decoding import DecodeWindow, Due, Result
from callsd_worker.captioner.language import SpeakerLanguage
from callsd_worker.captioner.rules import Rules
from callsd_worker.captioner.segment import Segment
from callsd_worker.captioner.segmenter import Segmenter
from callsd_worker.captioner.updates import UpdateBuilder
from callsd_worker.captioner.words import TrackUpdate
from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.evidence.sentences import UNSPACED_LANGUAGES, without_stop
from callsd_worker.speech.voice.level import amplified
from callsd_worker.speech.voice.vad import FRAME_SAMPLES, VoiceDetector


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outstanding:
    """A pass that is under way."""

    window: DecodeWindow
    segment: Segment
    taken_sample: int
    """`taken_sample` of the segment before this pass."""
    unrecognised_since_seconds: float | None
    taken_seconds: float


class Track:
    """See above."""

    def __init__(
        self,
        detector: VoiceDetector,
        *,
        start_sample: int,
        language: str,
        rules: Rules | None = None,
        cadence: Cadence | None = None,
    ) -> None:
        """Audio before `start_sample` is already processed; an empty `language` is to be detected.

        `cadence` is shared by all tracks of the same recognisers.
        """
        self._rules = rules or Rules()
        self._cadence = cadence or Cadence(self._rules)
        self._segmenter = Segmenter(detector, start_sample=start_sample, rules=self._rules)
        self._segments = self._segmenter.segments
        self._language = SpeakerLanguage(language)
        self._outstanding: _Outstanding | None = None
        self._retry_seconds = 0.0
        self._is_draining = False
        self._updates = UpdateBuilder(start_sample)

    @property
    def unrecognised_since_seconds(self) -> float | None:
        """When the oldest voice that is not in words yet arrived; None if there is none."""
        if (
            self._outstanding is not None
            and self._outstanding.unrecognised_since_seconds is not None
        ):
            return self._outstanding.unrecognised_since_seconds
        for segment in self._segments:
            if segment.unrecognised_since_seconds is not None:
                return segment.unrecognised_since_seconds
        return None

    # --- audio ---

    def feed(self, start_sample: int, samples: Samples, now_seconds: float) -> None:
        """Take the next audio, float32 at 16 kHz, in pieces of any length.

        Audio that was fed before is skipped; a hole is silence.
        """
        self._is_draining = False
        self._segmenter.feed(start_sample, samples, now_seconds)
        self._finalise_complete()

    def end_speech(self, now_seconds: float) -> None:
        """The speaker has stopped talking: end the open segment here."""
        self._segmenter.end(now_seconds)
        self._finalise_complete()
        self._is_draining = True

    def notice_stall(self, now_seconds: float) -> None:
        """End speech whose audio has stopped coming."""
        self._segmenter.notice_stall(now_seconds)
        self._finalise_complete()

    # --- passes ---

    def due(self) -> Due | None:
        """The pass that is wanted next; None while there is nothing to recognise."""
        if self._outstanding is not None or not self._segments:
            return None
        segment = self._segments[0]
        if segment.end_sample is not None:
            at = max(segment.closed_seconds, self._retry_seconds)
            return Due(ready_seconds=at, deadline_seconds=at, is_final=True)
        if segment.is_click:
            return None
        since = segment.unrecognised_since_seconds
        if segment.silence_seconds >= self._rules.draft_silence_seconds:
            if segment.is_drafted:
                return None
            at = self._segmenter.last_sound_seconds
        elif since is None:
            return None
        else:
            at = since + self._cadence.seconds
            if segment.silence_start_sample is not None:
                # In a moment it is clear whether speech has ended; one pass serves both cases.
                draft_seconds = (
                    self._segmenter.last_sound_seconds + self._rules.draft_silence_seconds
                )
                at = max(at, min(draft_seconds, at + self._rules.pause_patience_seconds))
        at = max(at, self._retry_seconds)
        return Due(ready_seconds=at, deadline_seconds=at, is_final=False)

    def take(self, now_seconds: float) -> DecodeWindow:
        """The window to recognise now. No other pass is due until `settle`."""
        segment = self._segments[0]
        assert self._outstanding is None
        rules = self._rules
        is_final = (
            segment.samples is not None or segment.silence_seconds >= rules.draft_silence_seconds
        )
        samples = self._segmenter.sound_of(segment)
        if segment.samples is None and segment.silence_start_sample is None:
            left_seconds = min(rules.soft_end_seconds, self._cadence.seconds / 3)
            samples = samples[: ends_softly(samples, last_seconds=left_seconds)]
        window = DecodeWindow(
            samples=amplified(samples),
            start_sample=segment.start_sample,
            end_sample=segment.start_sample + samples.size,
            voiced_seconds=segment.voiced_seconds,
            is_final=is_final,
            was_rejected=segment.was_rejected,
            language=self._language.code,
            needs_language=self._language.wants_vote(
                voiced_seconds=segment.voiced_seconds, is_final=is_final
            ),
        )
        self._outstanding = _Outstanding(
            window=window,
            segment=segment,
            taken_sample=segment.taken_sample,
            unrecognised_since_seconds=segment.unrecognised_since_seconds,
            taken_seconds=now_seconds,
        )
        segment.taken_sample = window.end_sample
        return window

    def settle(self, result: Result, now_seconds: float) -> None:
        """Take the result of the window that `take` returned."""
        outstanding = self._outstanding
        assert outstanding is not None
        self._outstanding = None
        self._cadence.take(self, now_seconds - outstanding.taken_seconds, now_seconds)
        window, segment = outstanding.window, outstanding.segment
        self._language.vote(result.languages, voiced_seconds=window.voiced_seconds)
        if result.recognised is None:
            self._settle_failed(outstanding, now_seconds)
            return
        if not segment.is_end_of_utterance and window.end_sample > segment.window_end_sample:
            return  # The segment was cut meanwhile: these are words of two segments.
        words = tuple(_split_words(result.recognised.text, result.language))
        if segment.is_cut:
            words = _with_end_of(segment.agreement.words, words)
        self._updates.language = result.language
        if window.is_final and not words:
            segment.agreement = Agreement()
        timed = result.recognised.words
        segment.agreement.update(
            words,
            is_careful=window.is_final,
            probabilities=[word.probability for word in timed],
            doubtful_probability=self._rules.doubtful_probability,
        )
        segment.recognised_sample = window.end_sample
        if held := len(segment.agreement.held):
            shown_seconds = timed[-held].start_seconds
            segment.recognised_sample = window.start_sample + int(shown_seconds * SAMPLE_RATE_HZ)
        segment.was_rejected = False
        if window.is_final:
            segment.drafted_sample = window.end_sample
        if timed:
            segment.heard = timed
        if not segment.is_complete:
            self._updates.show(segment)
            if segment is self._segmenter.open:
                self._cut_if_certain(segment, now_seconds)
        self._finalise_complete()

    def _cut_if_certain(self, segment: Segment, now_seconds: float) -> None:
        """Make the stable beginning of a long segment final, if it ends in a pause."""
        if segment.seconds < self._rules.cut_after_seconds:
            return
        cuts = [
            cut
            for cut in self._segmenter.cuts(segment, word_count=segment.agreement.stable_count)
            if cut.pause_seconds >= self._rules.cut_pause_seconds
        ]
        if cuts:
            # The last cut: fewest words go into the next segment.
            self._segmenter.cut(segment, cuts[-1], now_seconds)
            self._finalise_first()

    def _settle_failed(self, outstanding: _Outstanding, now_seconds: float) -> None:
        window, segment = outstanding.window, outstanding.segment
        if window.is_final and window.end_sample == segment.end_sample:
            # Better the words of the last pass than none.
            segment.agreement.show_held()
            self._finalise_first()
            return
        # The next pass recognises this audio again, with what has come since.
        segment.was_rejected = True
        segment.taken_sample = outstanding.taken_sample
        self._retry_seconds = now_seconds + self._cadence.seconds

    def _finalise_complete(self) -> None:
        while (
            self._outstanding is None
            and self._segments
            and self._segments[0].end_sample is not None
            and (self._segments[0].is_complete or self._segments[0].is_click)
        ):
            self._finalise_first()

    def _finalise_first(self) -> None:
        self._updates.finalise(self._segments.popleft())
        if self._segments and self._segments[0].agreement.words:
            # Words that a cut has moved into this segment stay on the screen.
            self._updates.show(self._segments[0])

    # --- updates ---

    def take_update(self) -> TrackUpdate | None:
        """What has changed since the last update; None if nothing worth a message has."""
        head = self._segments[0] if self._segments else None
        padding = int(self._rules.padding_seconds * SAMPLE_RATE_HZ) + FRAME_SAMPLES
        is_drained = self._is_draining and head is None
        if head is not None:
            processed, recognised = head.start_sample, head.recognised_sample
        else:
            recognised = self._segmenter.judged_sample
            # An utterance that begins now reaches back a little.
            processed = recognised if is_drained else recognised - padding
        if is_drained:
            self._is_draining = False
        self._updates.is_speaking = self._segmenter.is_speaking
        return self._updates.take(
            processed_sample=processed,
            recognised_sample=recognised,
            is_drained=is_drained,
            position_step_samples=int(self._rules.position_step_seconds * SAMPLE_RATE_HZ),
        )


def _with_end_of(shown: Sequence[str], words: Sequence[str]) -> tuple[str, ...]:
    """The words of a segment that was cut, without the full stop of a pass that heard no more.

    What was heard together with the words after it tells whether there is one.
    """
    if not words:
        return ()
    is_same = bool(shown) and common_prefix(shown[-1:], words[-1:]) == 1
    return (*words[:-1], shown[-1] if is_same else without_stop(words[-1]))


def _split_words(text: str, language: str) -> list[str]:
    return list(text.replace(" ", "")) if language in UNSPACED_LANGUAGES else text.split()
