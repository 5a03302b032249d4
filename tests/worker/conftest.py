# SPDX-License-Identifier: Apache-2.0
"""What the worker's tests share: weights, speech, and files that are wrong in known ways."""

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import callsd_bench
from callsd_worker.media.decode import SAMPLE_RATE_HZ, AudioStream
from tests.weights import MODELS_DIRECTORY


Samples = NDArray[np.float32]

SAMPLE_CALL = Path(callsd_bench.__file__).parent / "sample_call"
SPEAKERS = ("joe", "kenji", "maya", "nina")


@pytest.fixture(scope="session")
def model_dir() -> Callable[[str], Path]:
    """Where the files of a model lie."""
    return lambda name: MODELS_DIRECTORY / name


@pytest.fixture
def write_wav(tmp_path: Path) -> Callable[..., Path]:
    """Write mono samples as a 16-bit WAV file and return its path."""

    def write(samples: Samples, *, name: str = "track.wav", rate_hz: int = SAMPLE_RATE_HZ) -> Path:
        path = tmp_path / name
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate_hz)
            file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
        return path

    return write


def decode(path: Path) -> Samples:
    """All samples of a file, holes filled with silence."""
    with AudioStream(path) as stream:
        blocks = list(stream.blocks())
    track = np.zeros(blocks[-1].start_sample + blocks[-1].samples.size, dtype=np.float32)
    for block in blocks:
        track[block.start_sample : block.start_sample + block.samples.size] = block.samples
    return track


@pytest.fixture(scope="session")
def speech() -> Samples:
    """Maya's first turn in the sample call: six seconds, one voice, two sentences."""
    return decode(SAMPLE_CALL / "maya.ogg")[int(18.2 * SAMPLE_RATE_HZ) : int(24.9 * SAMPLE_RATE_HZ)]
