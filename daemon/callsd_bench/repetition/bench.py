# SPDX-License-Identifier: Apache-2.0
"""`callsd bench repetition`: true repetitions beside loops that noise provokes.

Both are counted in words. A loop is provoked by giving the decoder the sound without the padding
that prevents most loops, and noise behind what is said; only sound of which the plain decoder does
loop is used. What is judged is the way of a transcript and that of final captions.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from callsd_bench.repetition.sound import Utterance, repeated, said_once
from callsd_bench.shared.errors import BenchError
from callsd_worker.captioner.decoding import DecodeWindow
from callsd_worker.captioner.recognise import recognise as recognise_live
from callsd_worker.speech.engine import (
    TRAINED_SECONDS,
    DecodeOptions,
    Encoded,
    Engine,
    Recognised,
)
from callsd_worker.speech.errors import SpeechError
from callsd_worker.speech.level import amplified
from callsd_worker.speech.loading import ModelFiles, load_engine
from callsd_worker.speech.mel import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.windows import Piece, Window
from callsd_worker.transcriber.recognition import recognise


_LANGUAGE = "en"
_TRIES_PER_LOOP = 50
"""An engine that loops less often has nothing to be judged by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Shares from 0 to 1."""

    model: str
    engine: str
    repeated: int
    """Utterances with a repeated phrase."""
    kept_in_transcripts: float
    kept_in_captions: float
    """How many of the times that a phrase was said are there."""
    added_to_transcripts: float
    added_to_captions: float
    """How many more are there than were said, as a share of those that were."""
    provoked: int
    """Utterances of which the plain decoder loops."""
    shown_in_transcripts: float
    shown_in_captions: float
    """How many of these loops are there."""

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def bench_repetition(model: Path, *, engine: str, utterances: int) -> Report:
    """Judge one model in as many utterances of each kind.

    Raises BenchError: it cannot be loaded, or cannot be made to loop.
    """
    try:
        loaded = load_engine(ModelFiles(name=model.name, directory=model), engine=engine, threads=1)
    except SpeechError as error:
        raise BenchError(error.message) from error
    hearings = (_in_transcript, _in_captions)
    kept, added, said = [0, 0], [0, 0], 0
    for number in range(utterances):
        utterance = repeated(number)
        said += utterance.times
        for at, hear in enumerate(hearings):
            times = _times(utterance, hear(loaded, utterance))
            kept[at] += min(times, utterance.times)
            added[at] += max(times - utterance.times, 0)
    provoking = _Unpadded(loaded)
    shown = [0, 0]
    for utterance in _provoked(provoking, utterances):
        for at, hear in enumerate(hearings):
            shown[at] += _times(utterance, hear(provoking, utterance)) > 1
    return Report(
        model=model.name,
        engine=loaded.name,
        repeated=utterances,
        kept_in_transcripts=round(kept[0] / said, 4),
        kept_in_captions=round(kept[1] / said, 4),
        added_to_transcripts=round(added[0] / said, 4),
        added_to_captions=round(added[1] / said, 4),
        provoked=utterances,
        shown_in_transcripts=round(shown[0] / utterances, 4),
        shown_in_captions=round(shown[1] / utterances, 4),
    )


class _Unpadded:
    """An engine whose first attempt has no padding, which is what prevents most loops."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name = engine.name
        self.is_multilingual = engine.is_multilingual
        self.languages = engine.languages
        self.detects_from_encoding = engine.detects_from_encoding
        self.usual_beam_size = engine.usual_beam_size
        self.batch_windows = engine.batch_windows

    def padded_seconds(self, window_seconds: float) -> float:
        return window_seconds + 0.1

    def encode(self, window: Samples, *, padded_seconds: float) -> Encoded:
        if padded_seconds < TRAINED_SECONDS:
            padded_seconds = self.padded_seconds(window.size / SAMPLE_RATE_HZ)
        return self._engine.encode(window, padded_seconds=padded_seconds)

    def detect_language(self, encoded: Sequence[Encoded]) -> list[dict[str, float]]:
        return self._engine.detect_language(encoded)

    def recognise(self, encoded: Sequence[Encoded], options: DecodeOptions) -> list[Recognised]:
        return self._engine.recognise(encoded, options)


def _provoked(engine: Engine, wanted: int) -> list[Utterance]:
    """Utterances of which the plain decoder says the phrase again."""
    found: list[Utterance] = []
    options = DecodeOptions(language=_LANGUAGE, is_word_timed=False)
    for seed in count():
        if len(found) == wanted:
            return found
        if seed >= _TRIES_PER_LOOP * wanted:
            raise BenchError(f"only {len(found)} loops in {seed} utterances: nothing to judge by")
        utterance = said_once(seed)
        encoded = engine.encode(amplified(utterance.samples), padded_seconds=0.0)
        if _times(utterance, engine.recognise([encoded], options)[0].text) > 1:
            found.append(utterance)
    raise AssertionError


def _times(utterance: Utterance, text: str) -> int:
    """How often the phrase is there, by the number of words."""
    return round(len(text.split()) / utterance.phrase_words)


def _in_transcript(engine: Engine, utterance: Utterance) -> str:
    samples = amplified(utterance.samples)
    window = Window(
        samples=samples,
        pieces=(
            Piece(
                track_start_sample=0,
                window_start_sample=0,
                length_samples=samples.size,
                voiced_seconds=utterance.spoken_seconds,
            ),
        ),
    )
    encoded = engine.encode(samples, padded_seconds=engine.padded_seconds(window.seconds))
    options = DecodeOptions(language=_LANGUAGE, beam_size=engine.usual_beam_size)
    (heard,) = recognise(engine, [window], [encoded], options, lambda: None)
    return " ".join(result.text for _, result in heard)


def _in_captions(engine: Engine, utterance: Utterance) -> str:
    samples = amplified(utterance.samples)
    window = DecodeWindow(
        samples=samples,
        start_sample=0,
        end_sample=samples.size,
        voiced_seconds=utterance.spoken_seconds,
        is_final=True,
        language=_LANGUAGE,
        needs_language=False,
    )
    (result,) = recognise_live(engine, [window])
    return result.recognised.text if result.recognised else ""
