# SPDX-License-Identifier: Apache-2.0

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.engine import DecodeOptions, Encoded, Recognised
from callsd_worker.speech.engines.parakeet import FILES, MAX_TOKEN_SECONDS, ParakeetEngine
from callsd_worker.speech.errors import SpeechError, SpeechReason
from callsd_worker.speech.loading import load_onnx
from tests.helpers.parakeet import write_parakeet


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Files of a model with Parakeet's parts and random weights."""
    write_parakeet(tmp_path / "onnx")
    return tmp_path


def hear(directory: Path, window: Samples) -> Recognised:
    """One window."""
    engine = load_onnx(directory, threads=1)
    assert isinstance(engine, ParakeetEngine)
    padded_seconds = engine.padded_seconds(window.size / SAMPLE_RATE_HZ)
    encoded = engine.encode(window, padded_seconds=padded_seconds)
    (heard,) = engine.recognise([encoded], DecodeOptions(language="en"))
    return heard


def test_words_and_their_times(model: Path, speech: Samples) -> None:
    """Words are the text, their times are in order, and say when they were emitted."""
    heard = hear(model, speech)

    assert heard.token_count >= len(heard.words) > 3
    assert "".join(word.text for word in heard.words).split() == heard.text.split()
    moments = [t for word in heard.words for t in (word.start_seconds, word.end_seconds)]
    assert moments == sorted(moments)
    assert moments[-1] <= speech.size / SAMPLE_RATE_HZ
    assert any(word.start_seconds > 1.0 for word in heard.words)
    assert heard.average_log_probability < 0.0
    assert all(0.0 < word.probability <= 1.0 for word in heard.words)


def test_a_word_ends_though_nobody_goes_on(tmp_path: Path, speech: Samples) -> None:
    """After the last token of a word there is a pause, not a longer word."""
    write_parakeet(tmp_path / "onnx", pause_frames=12)

    heard = hear(tmp_path, speech)

    pauses = [after.start_seconds - word.end_seconds for word, after in pairwise(heard.words)]
    assert len(pauses) > 1
    assert min(pauses) > 0.9 - MAX_TOKEN_SECONDS


@pytest.mark.parametrize("samples", [0, 1, 1000])
def test_next_to_nothing(model: Path, samples: int) -> None:
    """A window of no length to speak of is no error."""
    heard = hear(model, np.zeros(samples, dtype=np.float32))

    assert len(heard.words) == len(heard.text.split())
    assert all(word.end_seconds <= samples / SAMPLE_RATE_HZ for word in heard.words)


def test_a_run_that_fails_is_a_runtime_error(model: Path, speech: Samples) -> None:
    """As of the other engines: who listens live survives it, whatever class it had."""
    engine = load_onnx(model, threads=1)
    encoded = Encoded(payload=np.stack([speech, speech, speech]), seconds=1.0)

    with pytest.raises(RuntimeError, match="cannot be run"):
        engine.recognise([encoded], DecodeOptions(language="en"))


@pytest.mark.parametrize("name", [name for name in FILES if name != "vocab.txt"])
def test_missing(model: Path, name: str) -> None:
    """The file that is not there is named."""
    (model / "onnx" / name).unlink()

    with pytest.raises(SpeechError, match=name) as caught:
        load_onnx(model, threads=1)

    assert caught.value.reason is SpeechReason.MODEL_MISSING


@pytest.mark.parametrize("name", FILES)
def test_foreign(model: Path, name: str) -> None:
    """Any of the files replaced by something else is refused."""
    (model / "onnx" / name).write_bytes(b"something else " * 1000)

    with pytest.raises(SpeechError) as caught:
        load_onnx(model, threads=1)

    assert caught.value.reason is SpeechReason.MODEL_INVALID
