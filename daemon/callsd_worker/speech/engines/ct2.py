# SPDX-License-Identifier: Apache-2.0
"""Whisper on CTranslate2: batched, quantised, its encoder sized to the audio."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import numpy.typing as npt

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.engine import DecodeOptions, Encoded, Recognised, TimedWord
from callsd_worker.speech.engines.ct2_model import Ct2ModelFile
from callsd_worker.speech.engines.mel import FRAMES_PER_SECOND, MAX_FRAMES, MelFilter
from callsd_worker.speech.engines.tokens import Tokens
from callsd_worker.speech.errors import SpeechError, SpeechReason, require_file


MIN_WINDOW_SECONDS = 10.24
"""Below 512 encoder positions the decoder tends to loop; padding to so many nearly prevents it."""

MAX_WINDOW_SECONDS = 30.0

TAIL_SECONDS = 1.0
"""Silence after the last word: without it the decoder is unsure that speech has ended."""

TOKENS_PER_SECOND = 12
"""Limit for the decoder: fast speech has 5 in English, 10 in scripts that are cut into bytes."""

_POSITION_SECONDS = 0.02
_FRAME_STEP = 16
_MAX_NEW_TOKENS = 224


class CTranslate2Engine:
    """See `callsd_worker.speech.engine.Engine`.

    Any number of threads may use one engine: as many as it has `workers` run in parallel on one
    copy of the weights, more wait.
    """

    name = "ctranslate2"
    # Three beams share one run over the weights: a tenth more time, a tenth fewer errors in noise.
    detects_from_encoding = True
    usual_beam_size = 3
    # Eight would be 2 % faster and take 150 MB more for the decoder's state.
    batch_windows = 4

    def __init__(
        self, directory: Path, *, threads: int, compute_type: str, workers: int = 1
    ) -> None:
        """Load the model in `directory` (model.bin, config.json, tokenizer.json, vocabulary).

        `workers` callers run in parallel, each with `threads` threads of its own.

        Raises SpeechError: MODEL_MISSING, MODEL_INVALID, ENGINE_UNAVAILABLE (type unsupported).
        """
        _check_files(directory)
        # Retries use random sampling; the same input must still give the same transcript.
        ctranslate2.set_random_seed(1)
        self._tokens = _load_tokens(directory / "tokenizer.json")
        supported = ctranslate2.get_supported_compute_types("cpu")
        if compute_type not in supported:
            raise SpeechError(
                SpeechReason.ENGINE_UNAVAILABLE,
                f"compute type {compute_type!r} is not supported by this processor; "
                f"choose one of {', '.join(sorted(supported))}",
            )
        try:
            self._model = ctranslate2.models.Whisper(
                str(directory),
                device="cpu",
                compute_type=compute_type,
                inter_threads=workers,
                intra_threads=threads,
            )
        except (RuntimeError, ValueError) as error:
            raise SpeechError(
                SpeechReason.MODEL_INVALID,
                f"{directory}: the model cannot be loaded ({error}); pull it again",
            ) from None
        self.is_multilingual: bool = self._model.is_multilingual
        self._mel = MelFilter(self._model.n_mels)
        self.languages = self._tokens.languages if self.is_multilingual else frozenset({"en"})

    def padded_seconds(self, window_seconds: float) -> float:
        return min(max(window_seconds + TAIL_SECONDS, MIN_WINDOW_SECONDS), MAX_WINDOW_SECONDS)

    def encode(self, window: Samples, *, padded_seconds: float) -> Encoded:
        # One by one: the activations of one window fit into the cache, those of a batch do not.
        steps = -(-int(padded_seconds * FRAMES_PER_SECOND) // _FRAME_STEP)
        features = self._mel(window, frames=min(steps * _FRAME_STEP, MAX_FRAMES))
        output = self._model.encode(ctranslate2.StorageView.from_array(features[None]), to_cpu=True)
        return Encoded(payload=np.array(output), seconds=window.size / SAMPLE_RATE_HZ)

    def detect_language(self, encoded: Sequence[Encoded]) -> list[dict[str, float]]:
        return [
            {token[2:-2]: probability for token, probability in ranked}
            for ranked in self._model.detect_language(_together(encoded))
        ]

    def recognise(self, encoded: Sequence[Encoded], options: DecodeOptions) -> list[Recognised]:
        prompt = self._tokens.prompt(
            language=options.language,
            task=options.task,
            hints=options.hints,
            is_multilingual=self.is_multilingual,
        )
        longest_seconds = max(item.seconds for item in encoded)
        new_tokens = options.max_tokens or int(longest_seconds * TOKENS_PER_SECOND) + 16
        new_tokens = min(new_tokens, _MAX_NEW_TOKENS)
        is_sampling = options.temperature > 0.0
        results = self._model.generate(
            _together(encoded),
            [prompt] * len(encoded),
            beam_size=1 if is_sampling else options.beam_size,
            # Of this the library allows half for the text, or what the prompt leaves.
            max_length=max(2 * new_tokens, new_tokens + len(prompt)),
            return_scores=True,
            return_no_speech_prob=True,
            sampling_topk=0 if is_sampling else 1,
            sampling_temperature=options.temperature if is_sampling else 1.0,
            repetition_penalty=options.repetition_penalty,
        )
        recognised = []
        for item, result in zip(encoded, results, strict=True):
            tokens = [token for token in result.sequences_ids[0] if token < self._tokens.end]
            is_timed = options.is_word_timed and bool(tokens)
            recognised.append(
                Recognised(
                    text=self._tokens.text(tokens).strip(),
                    words=self._align(item, tokens, options.language) if is_timed else (),
                    token_count=len(tokens),
                    average_log_probability=result.scores[0],
                    no_speech_probability=result.no_speech_prob,
                )
            )
        return recognised

    def _align(self, item: Encoded, tokens: list[int], language: str) -> tuple[TimedWord, ...]:
        """Word times, from the decoder's attention over the audio."""
        start = self._tokens.prompt(
            language=language, task="transcribe", hints="", is_multilingual=self.is_multilingual
        )[:-1]
        frames = max(int(item.seconds * FRAMES_PER_SECOND), 2)
        aligned = self._model.align(_together((item,)), start, [tokens], frames)[0]
        if not aligned.alignments:
            # Without times words would be lost: each token gets its share, and no trust.
            shares = np.linspace(0.0, item.seconds, len(tokens) + 1)
            return self._words(tokens, shares, [0.0] * len(tokens), language)
        path = np.array(aligned.alignments)
        # The time at which the path first reaches each token, and the end of the last.
        _, first = np.unique(path[:, 0], return_index=True)
        reached = path[first, 1] * _POSITION_SECONDS
        end = float(path[-1, 1]) * _POSITION_SECONDS
        reached = np.append(reached, [end] * (len(tokens) + 1 - len(reached)))
        return self._words(tokens, reached, aligned.text_token_probs, language)

    def _words(
        self,
        tokens: list[int],
        reached: npt.NDArray[np.floating[Any]],
        probabilities: Sequence[float],
        language: str,
    ) -> tuple[TimedWord, ...]:
        return tuple(
            TimedWord(
                text=text,
                start_seconds=float(reached[begin]),
                end_seconds=float(reached[after]),
                probability=float(np.mean(probabilities[begin:after])),
            )
            for text, begin, after in self._tokens.words(tokens, language=language)
        )


def _together(encoded: Sequence[Encoded]) -> ctranslate2.StorageView:
    payloads = [item.payload for item in encoded]
    return ctranslate2.StorageView.from_array(
        np.concatenate(payloads) if len(payloads) > 1 else payloads[0]
    )


def _check_files(directory: Path) -> None:
    for name in ("model.bin", "config.json", "tokenizer.json"):
        require_file(directory / name)
    # Reads the whole index: a cut file is refused here, before the library allocates by it.
    with Ct2ModelFile(directory / "model.bin"):
        pass


def _load_tokens(path: Path) -> Tokens:
    try:
        return Tokens(path)
    except ValueError as error:
        raise SpeechError(SpeechReason.MODEL_INVALID, f"{error}; pull the model again") from None
