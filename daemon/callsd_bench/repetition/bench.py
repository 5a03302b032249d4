# SPDX-License-Identifier: Apache-2.0
"""`callsd bench repetition`: true repetitions beside loops that noise provokes.

A loop is provoked by giving the decoder the sound without the padding that prevents most loops, and
noise behind what is said; only sound of which the plain decoder does loop is used. What is judged
is the way of a transcript and that of final captions, from the detection of voice on.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from callsd_bench.repetition.sound import Utterance, repeated, said_once
from callsd_bench.shared.errors import BenchError
from callsd_bench.shared.weights import engine_of
from callsd_worker.captioner.decoding import DecodeWindow
from callsd_worker.captioner.recognise import recognise as recognise_live
from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.engine import (
    TRAINED_SECONDS,
    DecodeOptions,
    Encoded,
    Engine,
    Recognised,
)
from callsd_worker.speech.errors import SpeechError
from callsd_worker.speech.evidence.phrases import bare
from callsd_worker.speech.loading import ModelFiles, load_engine
from callsd_worker.speech.voice.utterances import Utterance as Found
from callsd_worker.speech.voice.utterances import UtteranceFinder
from callsd_worker.speech.voice.vad import VoiceDetector
from callsd_worker.speech.voice.windows import WindowPacker
from callsd_worker.transcriber.reading import WINDOW_SECONDS
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
        files = ModelFiles(name=model.name, directory=model)
        loaded = load_engine(files, engine=engine_of(model, engine), threads=1)
    except SpeechError as error:
        raise BenchError(error.message) from error
    detector = VoiceDetector()

    def find(utterance: Utterance) -> list[Found]:
        finder = UtteranceFinder(detector)
        return [*finder.feed(0, utterance.samples), *finder.finish()]

    hearings = (_in_transcript, _in_captions)
    kept, added, said = [0, 0], [0, 0], 0
    for number in range(utterances):
        utterance = repeated(number)
        found = find(utterance)
        said += utterance.times
        for at, hear in enumerate(hearings):
            times = times_in(hear(loaded, found), phrase_words=utterance.phrase_words)
            kept[at] += min(times, utterance.times)
            added[at] += max(times - utterance.times, 0)
    provoking = _Unpadded(loaded)
    shown = [0, 0]
    for found, phrase_words in _provoked(provoking, find, utterances):
        for at, hear in enumerate(hearings):
            shown[at] += times_in(hear(provoking, found), phrase_words=phrase_words) > 1
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


def _provoked(
    engine: Engine, find: Callable[[Utterance], list[Found]], wanted: int
) -> list[tuple[list[Found], int]]:
    """What is found of utterances of which the plain decoder says the phrase again.

    With each the number of words of its phrase.
    """
    provoked: list[tuple[list[Found], int]] = []
    options = DecodeOptions(language=_LANGUAGE, is_word_timed=False)
    for seed in count():
        if len(provoked) == wanted:
            return provoked
        if seed >= _TRIES_PER_LOOP * wanted:
            raise BenchError(
                f"only {len(provoked)} loops in {seed} utterances: nothing to judge by"
            )
        utterance = said_once(seed)
        found = find(utterance)
        encoded = [engine.encode(part.samples, padded_seconds=0.0) for part in found]
        heard = [engine.recognise([part], options)[0].text for part in encoded]
        if times_in(" ".join(heard), phrase_words=utterance.phrase_words) > 1:
            provoked.append((found, utterance.phrase_words))
    raise AssertionError


def times_in(text: str, *, phrase_words: int) -> int:
    """How often the phrase is there, by the number of words.

    A phrase that is misheard may have more or fewer of them, but has them each time.
    """
    words = [bare(word) for word in text.split()]
    lengths = range(1, len(words) // 2 + 1)
    length = next((size for size in lengths if words[size:] == words[:-size]), phrase_words)
    return round(len(words) / length)


def _in_transcript(engine: Engine, found: Sequence[Found]) -> str:
    packer = WindowPacker(target_seconds=WINDOW_SECONDS)
    windows = [window for utterance in found for window in packer.add(utterance)]
    windows += packer.finish()
    options = DecodeOptions(language=_LANGUAGE, beam_size=engine.usual_beam_size)
    texts = []
    for window in windows:
        padded_seconds = engine.padded_seconds(window.seconds)
        encoded = engine.encode(window.samples, padded_seconds=padded_seconds)
        (heard,) = recognise(engine, [window], [encoded], options, lambda: None)
        texts += [result.text for _, result in heard]
    return " ".join(texts)


def _in_captions(engine: Engine, found: Sequence[Found]) -> str:
    windows = [
        DecodeWindow(
            samples=utterance.samples,
            start_sample=utterance.start_sample,
            end_sample=utterance.end_sample,
            voiced_seconds=utterance.voiced_seconds,
            is_final=True,
            language=_LANGUAGE,
            needs_language=False,
        )
        for utterance in found
    ]
    heard = [result for window in windows for result in recognise_live(engine, [window])]
    return " ".join(result.recognised.text for result in heard if result.recognised)
