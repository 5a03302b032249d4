# SPDX-License-Identifier: Apache-2.0
"""Parakeet by onnx-asr: a transducer, which says of each token when it begins.

It goes through the sound once and emits what it hears, so that it neither loops nor is prompted:
of the options for decoding it knows none.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import onnx_asr
from onnx_asr.asr import TimestampedResult

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.engine import DecodeOptions, Encoded, Recognised, TimedWord
from callsd_worker.speech.engines.onnx_session import (
    PROVIDERS,
    at_least,
    one_error,
    session_options,
)
from callsd_worker.speech.engines.tokens import group_words
from callsd_worker.speech.errors import SpeechError, SpeechReason, require_file


FILES = ("config.json", "decoder_joint-model.int8.onnx", "encoder-model.int8.onnx", "vocab.txt")

MIN_WINDOW_SECONDS = 0.2
"""Of less there is no spectrum worth the name."""

MAX_TOKEN_SECONDS = 0.5
"""A word's last token is over by then, though the next word may begin much later."""


class ParakeetEngine:
    """See `callsd_worker.speech.engine.Engine`. Any number of threads may use one engine."""

    name = "onnx"
    is_multilingual = False
    languages = frozenset({"en"})
    detects_from_encoding = False
    usual_beam_size = 1
    batch_windows = 1

    def __init__(self, directory: Path, *, threads: int) -> None:
        """Load the model in `directory`. Raises SpeechError: MODEL_MISSING, MODEL_INVALID."""
        for name in FILES:
            require_file(directory / name)
        try:
            model = onnx_asr.load_model(
                "nemo-conformer-tdt",
                directory,
                quantization="int8",
                sess_options=session_options(threads=threads),
                providers=PROVIDERS,
            )
        except Exception as error:  # noqa: BLE001 - the libraries' errors have no class in common
            raise SpeechError(
                SpeechReason.MODEL_INVALID,
                f"{directory}: the model cannot be loaded ({error}); pull it again",
            ) from None
        self._model = model.with_timestamps()

    def padded_seconds(self, window_seconds: float) -> float:
        return max(window_seconds, MIN_WINDOW_SECONDS)

    def encode(self, window: Samples, *, padded_seconds: float) -> Encoded:  # noqa: ARG002 - it takes any length
        """Only make it long enough: the library encodes and decodes in one function."""
        samples = at_least(window, seconds=MIN_WINDOW_SECONDS)
        return Encoded(payload=samples, seconds=window.size / SAMPLE_RATE_HZ)

    def detect_language(self, encoded: Sequence[Encoded]) -> list[dict[str, float]]:
        return [{"en": 1.0} for _ in encoded]

    def recognise(self, encoded: Sequence[Encoded], options: DecodeOptions) -> list[Recognised]:
        return [
            _recognised(
                self._hear(item.payload),
                seconds=item.seconds,
                is_word_timed=options.is_word_timed,
            )
            for item in encoded
        ]

    def _hear(self, samples: Samples) -> TimestampedResult:
        with one_error():
            return self._model.recognize(samples)  # 16 kHz is what it expects


def _recognised(heard: TimestampedResult, *, seconds: float, is_word_timed: bool) -> Recognised:
    tokens, starts, logs = heard.tokens or [], heard.timestamps or [], heard.logprobs or []
    return Recognised(
        text=heard.text.strip(),
        words=_words(tokens, starts, logs, seconds=seconds) if is_word_timed else (),
        token_count=len(tokens),
        average_log_probability=sum(logs) / max(len(logs), 1),
        # It hears nothing instead.
        no_speech_probability=0.0,
    )


def _words(
    tokens: Sequence[str], starts: Sequence[float], logs: Sequence[float], *, seconds: float
) -> tuple[TimedWord, ...]:
    edges = [min(start, seconds) for start in (*starts, seconds)]
    ends = [min(after, start + MAX_TOKEN_SECONDS) for start, after in pairwise(edges)]
    return tuple(
        TimedWord(
            text=text,
            start_seconds=edges[first],
            end_seconds=ends[after - 1],
            probability=math.exp(sum(logs[first:after]) / (after - first)),
        )
        for text, first, after in group_words([token.encode() for token in tokens], language="en")
    )
