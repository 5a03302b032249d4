# SPDX-License-Identifier: Apache-2.0
"""Finds speech: an energy gate, the Silero voice detector, and utterances from both.

One `UtteranceFinder` per track takes audio in blocks of any size and returns finished utterances.
Silence costs an energy sum and is not kept.
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from callsd_worker.speech.errors import SpeechError, SpeechReason


Samples = NDArray[np.float32]

SAMPLE_RATE_HZ = 16_000
FRAME_SAMPLES = 512
"""The voice detector judges 32 ms at a time …"""
CONTEXT_SAMPLES = 64
"""… and sees the 4 ms before them."""
FRAME_SECONDS = FRAME_SAMPLES / SAMPLE_RATE_HZ

_SPEECH_POWER = 10.0 ** (-20.0 / 10.0)
"""-20 dBFS: the level of speech in the training of the networks."""

_MAX_GAIN = 100.0
"""40 dB, for a microphone turned nearly off. More would turn circuit noise into speech."""

_LOUDER = 10.0
"""10 dB above the measured level a moment is no longer amplified like the rest."""

_MOMENT_FRAMES = 8
"""A quarter of a second."""

_SPEECH_OVER_NOISE = 2.5
"""4 dB: frames of noise differ by less, syllables and the pauses between them by far more."""

_LEVEL_DECAY_PER_SECOND = 0.95
"""Decay of the measured level after a loud moment: half in 13 s."""

_STATE_UNITS = 128
_BATCH_FRAMES = 512
"""Frames per run of the network: with more its activations do not fit into the cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechRules:
    """When speech begins and ends."""

    begin_probability: float = 0.35
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


class VoiceState:
    """The state of the network for one track."""

    def __init__(self) -> None:
        self.hidden = np.zeros((1, 1, _STATE_UNITS), dtype=np.float32)
        self.cell = np.zeros((1, 1, _STATE_UNITS), dtype=np.float32)


class VoiceDetector:
    """The Silero network: probability of voice for each frame. Stateless, one for all tracks."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = 1
        options.intra_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(
            str(_network_path()), sess_options=options, providers=["CPUExecutionProvider"]
        )

    def probabilities(
        self, samples: Samples, before: Samples, state: VoiceState
    ) -> NDArray[np.float32]:
        """Classify whole frames; `before` are the `CONTEXT_SAMPLES` preceding them.

        Returns shape (frames,). `state` is updated.
        """
        frames = samples.reshape(-1, FRAME_SAMPLES)
        context = np.empty((frames.shape[0], CONTEXT_SAMPLES), dtype=np.float32)
        context[0] = before
        context[1:] = frames[:-1, -CONTEXT_SAMPLES:]
        inputs = np.concatenate([context, frames], axis=1)
        judged = []
        for first in range(0, inputs.shape[0], _BATCH_FRAMES):
            probabilities, state.hidden, state.cell = self._session.run(
                None,
                {
                    "input": inputs[first : first + _BATCH_FRAMES],
                    "h": state.hidden,
                    "c": state.cell,
                },
            )
            judged.append(probabilities.reshape(-1))
        return np.concatenate(judged)


class VoiceGate:
    """The energy gate and level control of one track in front of the voice detector.

    Silence costs an energy sum; quiet speech is amplified for the network.
    """

    def __init__(
        self, detector: VoiceDetector, *, floor_dbfs: float, hangover_seconds: float
    ) -> None:
        self._detector = detector
        self._floor_power = 10.0 ** (floor_dbfs / 10.0)
        self._hangover_frames = round(hangover_seconds / FRAME_SECONDS)
        self._level_power = 0.0
        self._state = VoiceState()
        self._quiet_frames = self._hangover_frames + 1

    def restart(self) -> None:
        """Forget all but the speaker's level: the next audio does not follow the last."""
        self._state = VoiceState()
        self._quiet_frames = self._hangover_frames + 1

    def judge(self, samples: Samples, before: Samples) -> NDArray[np.float32]:
        """Probability of voice for each frame, 0 where the energy gate is closed.

        `samples` are whole frames; `before` is what precedes them, of which up to
        `CONTEXT_SAMPLES` are used.
        """
        power = frame_power(samples)
        loud = power >= self._floor_power
        self._follow_level(power[loud], power.size)
        gains = _gains(power, self._level_power)
        before_gain = gains[0]
        before = before[-CONTEXT_SAMPLES:]
        before = np.pad(before, (CONTEXT_SAMPLES - before.size, 0))
        probabilities = np.zeros(loud.size, dtype=np.float32)
        for begin, end in self._open_stretches(loud):
            if begin > 0:
                before = samples[begin * FRAME_SAMPLES - CONTEXT_SAMPLES : begin * FRAME_SAMPLES]
                before_gain = gains[begin * FRAME_SAMPLES - 1]
            within = slice(begin * FRAME_SAMPLES, end * FRAME_SAMPLES)
            probabilities[begin:end] = self._detector.probabilities(
                samples[within] * gains[within], before * before_gain, self._state
            )
        return probabilities

    def _follow_level(self, loud_power: NDArray[np.float32], frames: int) -> None:
        self._level_power *= _LEVEL_DECAY_PER_SECOND ** (frames * FRAME_SECONDS)
        if loud_power.size:
            self._level_power = max(self._level_power, _speech_level(loud_power))

    def _open_stretches(self, loud: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
        """Runs of frames, as (first, after), in which the gate is open.

        Where it opens anew the network's state is reset.
        """
        index = np.arange(loud.size)
        last_loud = np.maximum.accumulate(np.where(loud, index, -1 - self._quiet_frames))
        quiet = index - last_loud
        is_open = quiet <= self._hangover_frames
        was_open = self._quiet_frames <= self._hangover_frames
        self._quiet_frames = min(int(quiet[-1]), self._hangover_frames + 1)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], is_open, [False]]).astype(np.int8)))
        for begin, end in edges.reshape(-1, 2).tolist():
            if begin > 0 or not was_open:
                self._state = VoiceState()
            yield begin, end


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
        """Take the next audio; a `start_sample` after the end of the last means silence between."""
        found: list[Utterance] = []
        expected = self._audio_start + self._audio.size
        if start_sample > expected:
            found += self.finish()
            self._restart(start_sample)
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


def amplified(samples: Samples) -> Samples:
    """A copy, amplified to the level of ordinary speech if it is quieter."""
    whole = samples.size // FRAME_SAMPLES * FRAME_SAMPLES
    power = frame_power(samples[:whole])
    gain = _gain(float(np.percentile(power, 90))) if power.size else np.float32(1.0)
    raised: Samples = np.clip(samples * gain, -1.0, 1.0)
    return raised


def frame_power(samples: Samples) -> NDArray[np.float32]:
    """Mean power of each whole frame; 1.0 is a full-scale square wave."""
    frames = samples.reshape(-1, FRAME_SAMPLES)
    power: NDArray[np.float32] = np.einsum("ij,ij->i", frames, frames) / np.float32(FRAME_SAMPLES)
    return power


def _speech_level(power: NDArray[np.float32]) -> float:
    """The level of what may be speech in these frames; 0.0 if all is alike, as noise is.

    A short answer after a long silence is too small a part to show in a percentile.
    """
    floor, level = np.percentile(power, (10, 90)).tolist()
    if power.size <= _MOMENT_FRAMES or level > _SPEECH_OVER_NOISE * floor:
        return float(level)
    moments = np.lib.stride_tricks.sliding_window_view(power, _MOMENT_FRAMES)
    moment = float(np.percentile(moments, 70, axis=1).max())
    return moment if moment > _SPEECH_OVER_NOISE * floor else 0.0


def _gains(power: NDArray[np.float32], level_power: float) -> Samples:
    """The factor for each sample of these frames, at this level of the speaker.

    A short answer after a long silence is a small part of what the level was measured in. With the
    gain for the noise around it, it would be far too loud for the network, and not be heard.
    """
    usual = _gain(level_power)
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(power, _MOMENT_FRAMES, mode="edge"), 2 * _MOMENT_FRAMES + 1
    ).max(axis=1)
    if usual == 1.0 or not (around > _LOUDER * level_power).any():
        return np.full(power.size * FRAME_SAMPLES, usual, dtype=np.float32)
    frames = [_gain(peak) if peak > _LOUDER * level_power else usual for peak in around.tolist()]
    middles = (np.arange(power.size) + 0.5) * FRAME_SAMPLES
    return np.interp(np.arange(power.size * FRAME_SAMPLES), middles, frames).astype(np.float32)


def _gain(power: float) -> np.float32:
    if power <= 0.0:
        return np.float32(1.0)
    return np.float32(min(max((_SPEECH_POWER / power) ** 0.5, 1.0), _MAX_GAIN))


def _network_path() -> Path:
    # The network is a file of faster-whisper. That package is not imported, as it imports a
    # download client.
    spec = importlib.util.find_spec("faster_whisper")
    if spec is None or not spec.submodule_search_locations:
        raise SpeechError(
            SpeechReason.ENGINE_UNAVAILABLE,
            "the voice detector's network is not installed; install callsd[daemon]",
        )
    candidates = sorted(Path(spec.submodule_search_locations[0], "assets").glob("silero_vad*.onnx"))
    if not candidates:
        raise SpeechError(
            SpeechReason.ENGINE_UNAVAILABLE,
            "faster-whisper carries no Silero network; reinstall callsd[daemon]",
        )
    return candidates[-1]
