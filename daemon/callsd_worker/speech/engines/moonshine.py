# SPDX-License-Identifier: Apache-2.0
"""Moonshine on onnxruntime: English, quick, and no longer work than there is speech.

    encoder.onnx: input_values [1, samples] → states
    decoder.onnx: input_ids, encoder_hidden_states, use_cache_branch, past_key_values.* → logits,
        present.*
    tokenizer.bin: for each token its length (a byte, or two from 128 on) and its bytes

The model hears the sound itself: no spectrum is made, and a window is not filled up with silence,
with which it hears less.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.engine import (
    TRAINED_SECONDS,
    DecodeOptions,
    Encoded,
    Recognised,
    TimedWord,
)
from callsd_worker.speech.engines.onnx_session import (
    PROVIDERS,
    at_least,
    one_error,
    session_options,
)
from callsd_worker.speech.engines.spread import FRAME_SECONDS, loud_frames, spread
from callsd_worker.speech.engines.tokens import group_words
from callsd_worker.speech.errors import SpeechError, SpeechReason, require_file
from callsd_worker.speech.evidence.crowd import SURE_LOG_PROBABILITY, is_crowd


FILES = ("encoder.onnx", "decoder.onnx", "tokenizer.bin")

TOKENS_PER_SECOND = 6.5
"""Limit for the decoder, by the model's makers: what goes on longer is a loop."""
_SPARE_TOKENS = 6

GUESS_LOG_PROBABILITY = -0.7
"""Of 2500 words heard across a room, or 5 dB above other voices, 17 are in windows with less, and
16 of these wrong. What is made of several distant voices at once has -0.73 to -1.43."""

MIN_WINDOW_SECONDS = 0.1
"""Less the encoder's convolutions do not take."""

_CLOSE_SECONDS = 0.15
"""Silence on either side of a voice that is heard closely."""

VOCABULARY_TOKENS = 32_000
_MAX_VOCABULARY_BYTES = 4 << 20

_START, _END = 1, 2
_SPACE = b"\xe2\x96\x81"
_PAST, _PRESENT = "past_key_values.", "present."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heard:
    """What is encoded, and the sound, over which the words are spread later."""

    states: Any
    samples: Samples


class MoonshineEngine:
    """See `callsd_worker.speech.engine.Engine`. Any number of threads may use one engine.

    Of the options it knows the sampling, the penalty and the limit of tokens. It has no beam and
    takes no hints. Its words have no times of their own, see `spread`.
    """

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
        self._pieces = _read_vocabulary(directory / "tokenizer.bin")
        self._encoder = _load(directory / "encoder.onnx", threads=threads)
        self._decoder = _load(directory / "decoder.onnx", threads=threads)
        self._outputs = [value.name for value in self._decoder.get_outputs()]
        past = {
            value.name: value.shape
            for value in self._decoder.get_inputs()
            if value.name.startswith(_PAST)
        }
        sound = [value.name for value in self._encoder.get_inputs()]
        if sound != ["input_values"] or self._outputs[:1] != ["logits"] or not past:
            raise SpeechError(
                SpeechReason.MODEL_INVALID,
                f"{directory} does not hold Moonshine's encoder and decoder; pull the model again",
            )
        self._empty_past = {
            name: _value(np.zeros((1, shape[1], 0, shape[3]), np.float32))
            for name, shape in past.items()
        }

    def padded_seconds(self, window_seconds: float) -> float:
        return window_seconds

    def encode(self, window: Samples, *, padded_seconds: float) -> Encoded:
        """The window as it is, or, asked for the longest padding, with hardly any silence around.

        Who asks for that wants to hear it in another way. Of four to seven times "okay" the model
        hears nothing between pauses of a third of a second, and all without them.
        """
        heard = _closely(window) if padded_seconds >= TRAINED_SECONDS else window
        samples = at_least(heard, seconds=MIN_WINDOW_SECONDS)
        sound = {"input_values": _value(np.ascontiguousarray(samples[None], dtype=np.float32))}
        with one_error():
            (states,) = self._encoder.run_with_ort_values(None, sound)
        return Encoded(
            payload=_Heard(states=states, samples=window), seconds=window.size / SAMPLE_RATE_HZ
        )

    def detect_language(self, encoded: Sequence[Encoded]) -> list[dict[str, float]]:
        return [{"en": 1.0} for _ in encoded]

    def recognise(self, encoded: Sequence[Encoded], options: DecodeOptions) -> list[Recognised]:
        return [self._recognise(item, options) for item in encoded]

    def _recognise(self, item: Encoded, options: DecodeOptions) -> Recognised:
        usual = math.ceil(item.seconds * TOKENS_PER_SECOND) + _SPARE_TOKENS
        decoded = self._decode(item.payload.states, options.max_tokens or usual, options)
        spoken = [
            (self._pieces[token].replace(_SPACE, b" "), log_probability)
            for token, log_probability in decoded
            if _END < token < VOCABULARY_TOKENS
        ]
        pieces = [piece for piece, _ in spoken]
        return Recognised(
            text=b"".join(pieces).decode("utf-8", errors="replace").strip(),
            words=self._words(item, spoken) if options.is_word_timed else (),
            token_count=len(spoken),
            average_log_probability=sum(log for _, log in decoded) / max(len(decoded), 1),
            # The model has no token for that nobody speaks.
            no_speech_probability=0.0,
            guess_log_probability=(
                SURE_LOG_PROBABILITY if is_crowd(item.payload.samples) else GUESS_LOG_PROBABILITY
            ),
            is_aligned=False,
        )

    def _decode(
        self, states: Any, max_tokens: int, options: DecodeOptions
    ) -> list[tuple[int, float]]:
        """The tokens with their log probabilities, the end among them unless the limit came first.

        The keys and values of the encoder are computed with the first token and kept, those of the
        decoder grow with each.
        """
        # Sampling is random, and the same input must still give the same transcript.
        random = np.random.default_rng(1)
        feed = {**self._empty_past, "encoder_hidden_states": states}
        decoded: list[tuple[int, float]] = []
        token = _START
        while token != _END and len(decoded) < max_tokens:
            is_first = not decoded
            feed["input_ids"] = _value(np.array([[token]], np.int64))
            feed["use_cache_branch"] = _value(np.array([not is_first]))
            with one_error():
                values = self._decoder.run_with_ort_values(None, feed)
            logits = values[0].numpy()[0, -1]
            token = _choose(logits, [earlier for earlier, _ in decoded], options, random)
            decoded.append((token, _log_probability(logits, token)))
            for name, value in zip(self._outputs[1:], values[1:], strict=True):
                if is_first or ".decoder." in name:
                    feed[_PAST + name.removeprefix(_PRESENT)] = value
        return decoded

    def _words(self, item: Encoded, spoken: Sequence[tuple[bytes, float]]) -> tuple[TimedWord, ...]:
        words = group_words([piece for piece, _ in spoken], language="en")
        times = spread([text for text, _, _ in words], item.payload.samples)
        return tuple(
            TimedWord(
                text=text,
                start_seconds=start,
                end_seconds=end,
                probability=math.exp(sum(log for _, log in spoken[first:after]) / (after - first)),
            )
            for (text, first, after), (start, end) in zip(words, times, strict=True)
        )


def _closely(window: Samples) -> Samples:
    loud = loud_frames(window)
    start, end = loud[0] * FRAME_SECONDS, (loud[-1] + 1) * FRAME_SECONDS
    first = max(int((start - _CLOSE_SECONDS) * SAMPLE_RATE_HZ), 0)
    return window[first : int((end + _CLOSE_SECONDS) * SAMPLE_RATE_HZ)]


def _choose(
    logits: npt.NDArray[np.float32],
    earlier: Sequence[int],
    options: DecodeOptions,
    random: np.random.Generator,
) -> int:
    if options.repetition_penalty != 1.0 and earlier:
        logits = logits.copy()
        repeated = logits[list(earlier)]
        penalty = options.repetition_penalty
        logits[list(earlier)] = np.where(repeated > 0, repeated / penalty, repeated * penalty)
    if options.temperature > 0.0:
        # The largest of the sums with such noise is a sample of the distribution.
        noise = random.gumbel(size=logits.size)
        return int((logits / options.temperature + noise).argmax())
    return int(logits.argmax())


def _log_probability(logits: npt.NDArray[np.float32], token: int) -> float:
    highest = float(logits.max())
    return float(logits[token]) - highest - math.log(float(np.exp(logits - highest).sum()))


def _value(array: npt.NDArray[Any]) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _load(path: Path, *, threads: int) -> Any:
    try:
        return onnxruntime.InferenceSession(
            str(path), session_options(threads=threads), providers=PROVIDERS
        )
    except Exception as error:  # noqa: BLE001 - the library's errors have no class in common
        raise SpeechError(
            SpeechReason.MODEL_INVALID,
            f"{path}: the model cannot be loaded ({error}); pull it again",
        ) from None


def _read_vocabulary(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        data = file.read(_MAX_VOCABULARY_BYTES)
    pieces = []
    at = 0
    try:
        while at < len(data):
            length = data[at]
            at += 1
            if length >= 128:  # noqa: PLR2004 - see the format above
                length += (data[at] - 1) * 128
                at += 1
            pieces.append(data[at : at + length])
            at += length
    except IndexError:
        at = -1
    if at != len(data) or len(pieces) != VOCABULARY_TOKENS:
        raise SpeechError(
            SpeechReason.MODEL_INVALID, f"{path} is no vocabulary of Moonshine; pull it again"
        )
    return pieces
