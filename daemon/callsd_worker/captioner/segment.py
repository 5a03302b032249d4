# SPDX-License-Identifier: Apache-2.0
"""A stretch of one speaker's speech on its way to final words."""

from callsd_worker.captioner.agreement import Agreement
from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.engine import TimedWord
from callsd_worker.speech.voice.vad import FRAME_SAMPLES, FRAME_SECONDS


class Segment:
    """Grows frame by frame while it is open, then waits for its final words."""

    def __init__(
        self,
        *,
        start_sample: int,
        voice_start_sample: int,
        begin_probability: float,
        min_voiced_seconds: float,
    ) -> None:
        """`start_sample` is where the window begins; voice, and frames, begin a little later.

        Frames of at least `begin_probability` are voice; less than `min_voiced_seconds` of them are
        a click.
        """
        self.start_sample = start_sample
        self.voice_start_sample = voice_start_sample
        self.end_sample: int | None = None
        """Where the window ends; None while it grows."""
        self.samples: Samples | None = None
        """Its audio, once it has ended."""
        self.is_end_of_utterance = False
        self.closed_seconds = 0.0
        self.trail: list[float] = []
        """Probability of voice in each frame."""
        self.voiced_frames = 0
        self.silence_start_sample: int | None = None
        """Where the silence at the end begins; None while the speaker talks."""
        self._arrivals: list[float] = []
        """When each frame arrived."""
        self._begin_probability = begin_probability
        self._min_voiced_seconds = min_voiced_seconds
        self.taken_sample = start_sample
        """Audio before this is in a pass that is done or under way."""
        self.agreement = Agreement()
        self.was_rejected = False
        """Whether the result of its last pass was rejected."""
        self.heard: tuple[TimedWord, ...] = ()
        """Words of its last pass that timed them, from `start_sample` on. What `agreement` shows
        may be others."""
        self.revision = 0
        self.recognised_sample = start_sample
        """Audio before this has been recognised."""
        self.drafted_sample = start_sample
        """Audio before this has been recognised with the care that final words get."""

    @property
    def judged_sample(self) -> int:
        """Where the frames end."""
        return self.voice_start_sample + len(self.trail) * FRAME_SAMPLES

    @property
    def window_end_sample(self) -> int:
        """Where the window ends, for now or for good."""
        return self.judged_sample if self.end_sample is None else self.end_sample

    @property
    def seconds(self) -> float:
        return (self.window_end_sample - self.start_sample) / SAMPLE_RATE_HZ

    @property
    def voiced_seconds(self) -> float:
        return self.voiced_frames * FRAME_SECONDS

    @property
    def silence_seconds(self) -> float:
        if self.silence_start_sample is None:
            return 0.0
        return (self.judged_sample - self.silence_start_sample) / SAMPLE_RATE_HZ

    @property
    def voice_end_sample(self) -> int:
        """Where voice ends: a pass that reaches this has recognised all of it."""
        if self.silence_start_sample is not None:
            return self.silence_start_sample
        return self.window_end_sample

    @property
    def is_click(self) -> bool:
        """Whether it is too short to be speech, so far."""
        return self.voiced_seconds < self._min_voiced_seconds and not self.agreement.words

    @property
    def is_cut(self) -> bool:
        """Whether it has ended while the speaker goes on."""
        return self.end_sample is not None and not self.is_end_of_utterance

    @property
    def is_drafted(self) -> bool:
        """Whether all voice has been recognised in final quality."""
        return self.voiced_frames > 0 and self.drafted_sample >= self.voice_end_sample

    @property
    def is_complete(self) -> bool:
        """Whether it has ended and its words will not change any more."""
        return self.end_sample is not None and self.is_drafted

    @property
    def unrecognised_since_seconds(self) -> float | None:
        """When the oldest voice that is in no pass arrived; None if there is none."""
        first = max(self.taken_sample - self.voice_start_sample, 0) // FRAME_SAMPLES
        return next(
            (
                self._arrivals[index]
                for index in range(first, len(self.trail))
                if self.trail[index] >= self._begin_probability
            ),
            None,
        )

    def add_frame(self, probability: float, end_probability: float, now_seconds: float) -> None:
        """Take the next frame's probability of voice; below `end_probability` it is silence."""
        frame_start = self.judged_sample
        self.trail.append(probability)
        self._arrivals.append(now_seconds)
        if probability >= self._begin_probability:
            self.voiced_frames += 1
            self.silence_start_sample = None
        elif probability < end_probability and self.silence_start_sample is None:
            self.silence_start_sample = frame_start

    def close(self, *, samples: Samples, is_end_of_utterance: bool, now_seconds: float) -> None:
        """End the segment; `samples` are its window."""
        self.samples = samples
        self.end_sample = self.start_sample + samples.size
        self.is_end_of_utterance = is_end_of_utterance
        self.closed_seconds = now_seconds

    def split(self, frame: int) -> "Segment":
        """Move what comes from a frame on into a new segment. The caller then closes this one."""
        cut_sample = self.voice_start_sample + frame * FRAME_SAMPLES
        rest = Segment(
            start_sample=cut_sample,
            voice_start_sample=cut_sample,
            begin_probability=self._begin_probability,
            min_voiced_seconds=self._min_voiced_seconds,
        )
        rest.trail = self.trail[frame:]
        rest._arrivals = self._arrivals[frame:]
        rest.voiced_frames = sum(item >= self._begin_probability for item in rest.trail)
        rest.silence_start_sample = self.silence_start_sample
        # The result of a pass under way over the whole segment is not used for the rest.
        rest.taken_sample = rest.recognised_sample = max(self.recognised_sample, cut_sample)
        self.trail = self.trail[:frame]
        self._arrivals = self._arrivals[:frame]
        self.voiced_frames -= rest.voiced_frames
        self.silence_start_sample = None
        return rest
