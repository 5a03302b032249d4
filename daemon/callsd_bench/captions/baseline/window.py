# SPDX-License-Identifier: Apache-2.0
"""The captions baseline's rules for one track: what is recognised at a tick, and what is dropped.

Today's captioner looks at each track every two seconds and recognises the whole window that it
holds, 8 to 12 s, over and over. These are its rules without its threads, clocks and engines.
One rule is read kindly: where several segments leave a window at once, the original measures the
later cuts from the wrong place and loses more than it means to; here it loses what it means to.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from callsd_bench.shared.baseline_vad import WINDOW_SAMPLES, SpeechRules, speech_parts


Samples = NDArray[np.float32]

SAMPLES_PER_MS = 16
SAMPLE_RATE_HZ = 1_000 * SAMPLES_PER_MS

TARGET_SAMPLES = 8 * SAMPLE_RATE_HZ
LIMIT_SAMPLES = 12 * SAMPLE_RATE_HZ
# Without new audio for longer, a window is of no more use.
STALE_SECONDS = 3.0
# Silence at the end of a window that finishes it.
FINISHED_SAMPLES = 3 * SAMPLE_RATE_HZ
MIN_SPEECH_SAMPLES = 330 * SAMPLES_PER_MS

RULES = SpeechRules(min_silence_samples=150 * SAMPLES_PER_MS, pad_samples=60 * SAMPLES_PER_MS)

VoiceProbabilities = Callable[[Samples], Iterable[float]]
"""The probability of speech in each 512-sample window, from a fresh state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of a window, in samples, taken as speech or as silence."""

    start: int
    end: int
    is_speech: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Audio without a hole; `start_sample` is its place in the track."""

    start_sample: int
    samples: Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a track wants recognised: its whole window with the silence zeroed."""

    samples: Samples
    start_seconds: float
    """Place of the first sample in the track."""
    end_seconds: float
    new_audio_ms: int
    """Audio that came since the last tick at which the window was looked at."""


def split(parts: Iterable[tuple[int, int]], *, sample_count: int) -> list[Segment]:
    """Segments that cover the window; a word cannot be shorter than 330 ms, so that is silence.

    Such a silence stays apart from those beside it: only from its own start does it count.
    """
    segments: list[Segment] = []
    position = 0
    for start, end in parts:
        if start > position:
            segments.append(Segment(start=position, end=start, is_speech=False))
        is_speech = end - start >= MIN_SPEECH_SAMPLES
        segments.append(Segment(start=start, end=end, is_speech=is_speech))
        position = end
    if position < sample_count:
        segments.append(Segment(start=position, end=sample_count, is_speech=False))
    return segments


def silence_zeroed(samples: Samples, segments: Iterable[Segment]) -> Samples:
    """A copy in which only speech is left."""
    cleaned = samples.copy()
    for segment in segments:
        if not segment.is_speech:
            cleaned[segment.start : segment.end] = 0
    return cleaned


class TrackWindow:
    """The window of one track, looked at once per tick."""

    def __init__(self, probabilities: VoiceProbabilities) -> None:
        self.windows_dropped = 0
        """Windows thrown away whole because they reached 12 s."""
        self._probabilities = probabilities
        self._samples: Samples = np.empty(0, np.float32)
        self._place: list[tuple[int, int]] = []
        """(sample of the window, sample of the track) at the beginning and after each hole."""
        self._length_before = 0
        self._done = 0
        self._audio_at_seconds = 0.0

    def __len__(self) -> int:
        return len(self._samples)

    def tick(self, arrived: Sequence[Run], *, now_seconds: float) -> Offer | None:
        """Take what has arrived; the window to recognise, or None if there is nothing new in it.

        What is offered counts as done, whether or not anybody takes the offer.
        """
        self._append(arrived)
        new_audio_ms = (len(self) - self._length_before) // SAMPLES_PER_MS
        if len(self) < WINDOW_SAMPLES:
            return None
        if len(self) == self._length_before:
            if now_seconds - self._audio_at_seconds > STALE_SECONDS:
                self._clear()
            return None
        if len(self) >= LIMIT_SAMPLES:
            self._clear()
            self.windows_dropped += 1
            return None
        self._audio_at_seconds = now_seconds
        self._length_before = len(self)
        probabilities = self._probabilities(self._samples)
        parts = speech_parts(probabilities, RULES, sample_count=len(self))
        if not parts:
            return None
        segments = split(parts, sample_count=len(self))
        if self._is_new_audio_silent(segments):
            return None
        offer = Offer(
            samples=silence_zeroed(self._samples, segments),
            start_seconds=self._track_sample(0) / SAMPLE_RATE_HZ,
            end_seconds=(self._track_sample(len(self) - 1) + 1) / SAMPLE_RATE_HZ,
            new_audio_ms=new_audio_ms,
        )
        self._done = len(self)
        self._cut_to_target(segments)
        self._length_before = len(self)
        return offer

    def _is_new_audio_silent(self, segments: Sequence[Segment]) -> bool:
        """Whether no speech follows what is done; a long silence there finishes the window."""
        rest = [segment for segment in segments if segment.end > self._done]
        if any(segment.is_speech for segment in rest):
            return False
        if rest[-1].end - rest[0].start >= FINISHED_SAMPLES:
            self._clear()
        return True

    def _cut_to_target(self, segments: Sequence[Segment]) -> None:
        ends = iter(segments)
        cut = 0
        while len(self) - cut > TARGET_SAMPLES:
            cut = next(ends).end
        later = [(at - cut, place) for at, place in self._place if at > cut]
        self._place = [(0, self._track_sample(cut)), *later]
        self._samples = self._samples[cut:]
        self._done -= cut

    def _append(self, arrived: Sequence[Run]) -> None:
        at = len(self)
        for run in arrived:
            if not at or self._track_sample(at) != run.start_sample:
                self._place.append((at, run.start_sample))
            at += len(run.samples)
        self._samples = np.concatenate([self._samples, *(run.samples for run in arrived)])

    def _track_sample(self, at: int) -> int:
        start, place = next(entry for entry in reversed(self._place) if entry[0] <= at)
        return place + at - start

    def _clear(self) -> None:
        self._samples = self._samples[:0]
        self._place = []
        self._length_before = 0
        self._done = 0
