# SPDX-License-Identifier: Apache-2.0
"""What was reported of a track, and what has changed since."""

from collections.abc import Sequence

from callsd_worker.captioner.segment import Segment
from callsd_worker.captioner.words import SpeechChange, TrackUpdate, Words
from callsd_worker.speech.evidence.sentences import UNSPACED_LANGUAGES, ends_sentence, with_capital


class UpdateBuilder:
    """Collects changes until `take`."""

    def __init__(self, start_sample: int) -> None:
        self.language = ""
        """Of the words in the next update."""
        self._finals: list[Words] = []
        self._interim: Words | None = None
        self.is_speaking = False
        self._reported_speaking = False
        self._processed_sample = start_sample
        self._recognised_sample = start_sample
        self._reported_sample = start_sample
        self._begins_sentence = True
        """Whether nothing final is there that the next words could go on."""

    def show(self, segment: Segment) -> None:
        """Report the segment's current words as an interim; before the first there is nothing."""
        if not (segment.agreement.words or segment.revision):
            return
        self._interim = self._words(
            segment,
            segment.agreement.words,
            recognised_sample=segment.recognised_sample,
            stability=segment.agreement.stability,
        )

    def withdraw(self, segment: Segment) -> None:
        """Report that the segment has no words after all."""
        if segment.revision:
            self._interim = self._words(
                segment, (), recognised_sample=segment.recognised_sample, stability=0
            )

    def finalise(self, segment: Segment) -> None:
        """Report the segment's words as final."""
        words = segment.agreement.words
        if not words:
            self.withdraw(segment)
            return
        if self._interim is not None and self._interim.segment == segment.start_sample:
            self._interim = None
        final = self._words(
            segment, words, recognised_sample=segment.window_end_sample, stability=1.0
        )
        self._finals.append(final)
        self._begins_sentence = ends_sentence(final.text)

    def take(
        self,
        *,
        processed_sample: int,
        recognised_sample: int,
        is_drained: bool,
        position_step_samples: int,
    ) -> TrackUpdate | None:
        """All changes, or None; positions never go back."""
        self._processed_sample = max(self._processed_sample, processed_sample)
        self._recognised_sample = max(
            self._recognised_sample, recognised_sample, self._processed_sample
        )
        is_changed = self.is_speaking != self._reported_speaking
        moved = self._processed_sample - self._reported_sample
        if not (
            self._finals
            or self._interim is not None
            or is_changed
            or is_drained
            or moved >= position_step_samples
        ):
            return None
        change = SpeechChange.BEGIN if self.is_speaking else SpeechChange.END
        update = TrackUpdate(
            finals=tuple(self._finals),
            interim=self._interim,
            processed_sample=self._processed_sample,
            recognised_sample=self._recognised_sample,
            speech=change if is_changed else None,
            is_drained=is_drained,
        )
        self._finals = []
        self._interim = None
        self._reported_speaking = self.is_speaking
        self._reported_sample = self._processed_sample
        return update

    def _words(
        self, segment: Segment, words: Sequence[str], *, recognised_sample: int, stability: float
    ) -> Words:
        segment.revision += 1
        text = ("" if self.language in UNSPACED_LANGUAGES else " ").join(words)
        end_sample = segment.window_end_sample
        if segment.silence_start_sample is not None:
            end_sample = min(end_sample, segment.silence_start_sample)
        return Words(
            segment=segment.start_sample,
            revision=segment.revision,
            is_end_of_utterance=segment.is_end_of_utterance,
            text=with_capital(text, self.language) if self._begins_sentence else text,
            start_sample=segment.voice_start_sample,
            end_sample=min(end_sample, max(recognised_sample, segment.voice_start_sample)),
            recognised_sample=recognised_sample,
            language=self.language,
            stability=stability,
        )
