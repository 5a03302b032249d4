# SPDX-License-Identifier: Apache-2.0
"""A stretch of one speaker's speech on its way to final words."""

from callsd_worker.captioner.agreement import Agreement
from callsd_worker.speech.engine import TimedWord
from callsd_worker.speech.mel import Samples
from callsd_worker.speech.vad import FRAME_SAMPLES, FRAME_SECONDS, SAMPLE_RATE_HZ


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
        """Its sound, once it has ended."""
        self.is_end_of_utterance = False
        self.closed_seconds = 0.0
        self.trail: list[float] = []
        """Probability of voice in each frame."""
        self.voiced_frames = 0
        self.silence_start_sample: int | None = None
        """Since when the speaker has been silent."""
        self._arrivals: list[float] = []
        """When each frame came."""
        self._begin_probability = begin_probability
        self._min_voiced_seconds = min_voiced_seconds
        self.taken_sample = start_sample
        """Sound before this is in a pass that was or is being made."""
        self.agreement = Agreement()
        self.is_doubted = False
        """Whether what its last pass gave was not believed."""
        self.word_times: tuple[TimedWord, ...] = ()
        """When the words of `agreement` were said, if that is known; from `start_sample` on."""
        self.revision = 0
        self.heard_sample = start_sample
        """Sound before this has been recognised."""
        self.drafted_sample = start_sample
        """Sound before this has been recognised as carefully as final words are."""

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
        """What a pass must reach to have heard all."""
        if self.silence_start_sample is not None:
            return self.silence_start_sample
        return self.window_end_sample

    @property
    def is_click(self) -> bool:
        """Whether it is too short for speech, so far."""
        return self.voiced_seconds < self._min_voiced_seconds and not self.agreement.words

    @property
    def is_drafted(self) -> bool:
        """Whether the words are of final quality for all that was said."""
        return self.voiced_frames > 0 and self.drafted_sample >= self.voice_end_sample

    @property
    def is_complete(self) -> bool:
        """Whether the words will not change any more."""
        return self.end_sample is not None and self.is_drafted

    @property
    def unheard_since_seconds(self) -> float | None:
        """When the oldest voice came that is in no pass; None if there is none."""
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
        """Nothing more comes: `samples` are the window."""
        self.samples = samples
        self.end_sample = self.start_sample + samples.size
        self.is_end_of_utterance = is_end_of_utterance
        self.closed_seconds = now_seconds

    def split(self, frame: int) -> "Segment":
        """Take away what comes from a frame on, as a segment that goes on; close this one then."""
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
        # A pass that is being made for the whole will be of no use to the rest.
        rest.taken_sample = rest.heard_sample = max(self.heard_sample, cut_sample)
        self.trail = self.trail[:frame]
        self._arrivals = self._arrivals[:frame]
        self.voiced_frames -= rest.voiced_frames
        self.silence_start_sample = None
        return rest
