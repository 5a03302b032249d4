# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from callsd_worker.captioner.recognise import recognise
from callsd_worker.captioner.rules import rules_for
from callsd_worker.captioner.track import Track as LiveTrack
from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.engine import Engine
from callsd_worker.speech.evidence.phrases import bare
from callsd_worker.speech.loading import ModelFiles, load_engine
from callsd_worker.speech.voice.vad import VoiceDetector
from callsd_worker.transcriber.pipeline import Settings, Track, transcribe
from tests.captioner.sound import cut, decoded
from tests.weights import MODELS_DIRECTORY


Model = tuple[str, str]

PAUSE = np.zeros(SAMPLE_RATE_HZ // 5, dtype=np.float32)
QUIET = np.zeros(SAMPLE_RATE_HZ, dtype=np.float32)


def again(speaker: str, seconds: tuple[float, float], times: int) -> Samples:
    """What a speaker of the sample call says, again and again."""
    return np.concatenate([QUIET, *(cut(decoded(speaker), seconds), PAUSE) * times, QUIET])


SAID = {
    "okay": (again("maya", (64.25, 64.85), 6), ["okay"] * 6),
    "measure": (
        again("maya", (39.8, 41.0), 3),
        ["what", "would", "you", "want", "to", "measure"] * 3,
    ),
}


@pytest.fixture(
    scope="module",
    params=[
        ("tiny.en", "ctranslate2"),
        ("base", "ctranslate2"),
        ("tiny.en", "whispercpp"),
        ("moonshine-base", "onnx"),
    ],
    ids=["ctranslate2", "base", "whispercpp", "onnx"],
)
def model(request: pytest.FixtureRequest) -> Model:
    """A model for each engine, and the engine."""
    chosen: Model = request.param
    return chosen


@pytest.fixture(scope="module")
def engine(model: Model) -> Engine:
    """The model, loaded."""
    return load_engine(files_of(model), engine=model[1], threads=1)


def files_of(model: Model) -> ModelFiles:
    """Where its files are."""
    return ModelFiles(name=model[0], directory=MODELS_DIRECTORY / model[0])


def plain(text: str) -> list[str]:
    """Its words without case and punctuation."""
    return [bare(word) for word in text.split()]


def transcript_of(model: Model, path: Path) -> list[str]:
    """The words of a transcript."""
    settings = Settings(model=files_of(model), engine=model[1], language="en")
    transcript = transcribe(
        [Track(source=path, speaker="ada")],
        settings,
        on_progress=lambda progress: None,
        should_stop=lambda: False,
    )
    return [word for line in transcript.segments for word in plain(line.text)]


def captions_of(model: Model, engine: Engine, samples: Samples) -> list[str]:
    """The words of final captions."""
    track = LiveTrack(VoiceDetector(), start_sample=0, language="en", rules=rules_for(model[0]))
    track.feed(0, samples, 0.0)
    track.end_speech(0.0)
    finals = []
    while track.due() is not None:
        track.settle(recognise(engine, [track.take(0.0)])[0], 0.0)
        update = track.take_update()
        assert update is not None
        finals += [final.text for final in update.finals]
    return [word for text in finals for word in plain(text)]


@pytest.mark.parametrize("said", SAID)
def test_transcripts_have_all_that_was_said(
    model: Model, said: str, write_wav: Callable[..., Path]
) -> None:
    """A word said six times, and a question asked three times, are there so many times."""
    samples, words = SAID[said]

    assert transcript_of(model, write_wav(samples)) == words


@pytest.mark.parametrize("said", SAID)
def test_captions_have_all_that_was_said(model: Model, engine: Engine, said: str) -> None:
    """So it is in final captions."""
    samples, words = SAID[said]

    assert captions_of(model, engine, samples) == words


def test_a_sentence_that_is_said_five_times_is_there_five_times(
    model: Model, engine: Engine, write_wav: Callable[..., Path]
) -> None:
    """Also where a model writes it once or twice, if it hears all of them together."""
    samples = again("joe", (7.44, 8.75), 5)

    for words in (transcript_of(model, write_wav(samples)), captions_of(model, engine, samples)):
        assert words.count("first") == 5
