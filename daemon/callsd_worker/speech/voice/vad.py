# SPDX-License-Identifier: Apache-2.0
"""The Silero network: the probability that a short piece of sound is voice."""

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.errors import SpeechError, SpeechReason


FRAME_SAMPLES = 512
"""The voice detector judges 32 ms at a time …"""
CONTEXT_SAMPLES = 64
"""… and sees the 4 ms before them."""
FRAME_SECONDS = FRAME_SAMPLES / SAMPLE_RATE_HZ

_STATE_UNITS = 128
_BATCH_FRAMES = 512
"""Frames per run of the network: with more its activations do not fit into the cache."""


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
