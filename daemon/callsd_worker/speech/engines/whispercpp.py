# SPDX-License-Identifier: Apache-2.0
"""Whisper on whisper.cpp through pywhispercpp's low-level functions.

The high-level wrapper is not used: it drops the return code, so that failure looks like silence,
and keeps parameters from one use to the next. A wrong model file that passes the checks here
crashes the process; that is why recognition runs in a worker.
"""

import math
import weakref
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _pywhispercpp as native
import numpy as np

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.engine import DecodeOptions, Encoded, Recognised, TimedWord
from callsd_worker.speech.engines.ggml_file import GgmlFileError, GgmlHeader, check_ggml_file
from callsd_worker.speech.engines.tokens import group_words
from callsd_worker.speech.errors import SpeechError, SpeechReason, require_file


MIN_WINDOW_SECONDS = 10.24
"""Below 512 encoder positions the decoder tends to loop."""

TAIL_SECONDS = 1.0
MAX_WINDOW_SECONDS = 30.0

TOKENS_PER_SECOND = 12
_POSITIONS_PER_SECOND = 50
_MAX_POSITIONS = 1500
_MAX_NEW_TOKENS = 224
_LOG_LINES = 20

# Which attention heads follow the audio, by the number of decoder layers, which differs by size.
_ALIGNMENT_HEADS = {
    (4, False): native.WHISPER_AHEADS_TINY_EN,
    (4, True): native.WHISPER_AHEADS_TINY,
    (6, False): native.WHISPER_AHEADS_BASE_EN,
    (6, True): native.WHISPER_AHEADS_BASE,
    (12, False): native.WHISPER_AHEADS_SMALL_EN,
    (12, True): native.WHISPER_AHEADS_SMALL,
}


class WhisperCppEngine:
    """See `callsd_worker.speech.engine.Engine`."""

    name = "whispercpp"
    detects_from_encoding = False
    usual_beam_size = 1
    batch_windows = 1

    def __init__(self, path: Path, *, threads: int) -> None:
        """Load a GGML file. Raises SpeechError: MODEL_MISSING, MODEL_INVALID."""
        require_file(path)
        try:
            header = check_ggml_file(path)
        except GgmlFileError as error:
            raise SpeechError(
                SpeechReason.MODEL_INVALID, f"{path}: {error}; pull the model again"
            ) from None
        self._context = _load(path, header)
        # The binding frees nothing itself. Not at exit, when the system frees everything.
        weakref.finalize(self, native.whisper_free, self._context).atexit = False
        self._threads = threads
        self._end = native.whisper_token_eot(self._context)
        self.is_multilingual = bool(native.whisper_is_multilingual(self._context))
        self._codes = [
            native.whisper_lang_str(number) for number in range(native.whisper_lang_max_id() + 1)
        ]
        self.languages = frozenset(self._codes) if self.is_multilingual else frozenset({"en"})

    def padded_seconds(self, window_seconds: float) -> float:
        return min(max(window_seconds + TAIL_SECONDS, MIN_WINDOW_SECONDS), MAX_WINDOW_SECONDS)

    def encode(self, window: Samples, *, padded_seconds: float) -> Encoded:
        """Only pad: the library encodes and decodes in one function."""
        length = min(math.ceil(padded_seconds * SAMPLE_RATE_HZ), _MAX_POSITIONS * 320)
        samples = np.zeros(length, dtype=np.float32)
        used = min(window.size, length)
        samples[:used] = window[:used]
        return Encoded(payload=samples, seconds=window.size / SAMPLE_RATE_HZ)

    def detect_language(self, encoded: Sequence[Encoded]) -> list[dict[str, float]]:
        detected = []
        for item in encoded:
            samples = item.payload
            self._must_succeed(
                native.whisper_pcm_to_mel(self._context, samples, samples.size, self._threads)
            )
            probabilities = np.zeros(len(self._codes), dtype=np.float32)
            code = native.whisper_lang_auto_detect(self._context, 0, self._threads, probabilities)
            self._must_succeed(min(code, 0))
            detected.append(dict(zip(self._codes, probabilities.tolist(), strict=True)))
        return detected

    def recognise(self, encoded: Sequence[Encoded], options: DecodeOptions) -> list[Recognised]:
        return [self._recognise(item, options) for item in encoded]

    def _recognise(self, item: Encoded, options: DecodeOptions) -> Recognised:
        samples = item.payload
        parameters = self._parameters(item, options)
        self._must_succeed(native.whisper_full(self._context, parameters, samples, samples.size))
        tokens = [
            native.whisper_full_get_token_data(self._context, segment, index)
            for segment in range(native.whisper_full_n_segments(self._context))
            for index in range(native.whisper_full_n_tokens(self._context, segment))
        ]
        tokens = [token for token in tokens if token.id < self._end]
        pieces = [native.whisper_token_to_bytes(self._context, token.id) for token in tokens]
        words = self._words(tokens, pieces, item.seconds, options)
        return Recognised(
            text=b"".join(pieces).decode("utf-8", errors="replace").strip(),
            words=words,
            token_count=len(tokens),
            average_log_probability=(
                sum(token.plog for token in tokens) / len(tokens) if tokens else 0.0
            ),
            # The library applies its own no-speech rule and does not return the probability.
            no_speech_probability=0.0,
        )

    def _parameters(self, item: Encoded, options: DecodeOptions) -> Any:
        # Made anew each time, so that nothing is left from the last.
        is_beam = options.beam_size > 1 and options.temperature == 0.0
        strategy = native.whisper_sampling_strategy
        parameters = native.whisper_full_default_params(
            strategy.WHISPER_SAMPLING_BEAM_SEARCH if is_beam else strategy.WHISPER_SAMPLING_GREEDY
        )
        if is_beam:
            parameters.beam_search = {"beam_size": options.beam_size, "patience": -1.0}
        else:
            parameters.greedy = {"best_of": 1}
        parameters.n_threads = self._threads
        parameters.language = options.language if self.is_multilingual else "en"
        parameters.translate = options.task == "translate"
        parameters.temperature = options.temperature
        # No retries at higher temperatures inside the library: the caller decides on retries.
        parameters.temperature_inc = 0.0
        parameters.no_context = True
        parameters.no_timestamps = True
        parameters.single_segment = True
        parameters.suppress_nst = True
        parameters.print_progress = False
        parameters.print_timestamps = False
        parameters.audio_ctx = min(
            math.ceil(item.payload.size / SAMPLE_RATE_HZ * _POSITIONS_PER_SECOND), _MAX_POSITIONS
        )
        max_tokens = options.max_tokens or int(item.seconds * TOKENS_PER_SECOND) + 16
        parameters.max_tokens = min(max_tokens, _MAX_NEW_TOKENS)
        if options.hints:
            parameters.initial_prompt = options.hints
        return parameters

    def _words(
        self, tokens: Sequence[Any], pieces: Sequence[bytes], seconds: float, options: DecodeOptions
    ) -> tuple[TimedWord, ...]:
        if not tokens or not options.is_word_timed:
            return ()
        # `t_dtw` is where attention leaves a token: its end, and the start of the next.
        ends = np.maximum.accumulate([token.t_dtw / 100 for token in tokens])
        edges: list[float] = [0.0, *np.clip(ends, 0.0, seconds).tolist()]
        return tuple(
            TimedWord(
                text=text,
                start_seconds=edges[first],
                end_seconds=edges[after],
                probability=float(np.mean([token.p for token in tokens[first:after]])),
            )
            for text, first, after in group_words(pieces, language=options.language)
        )

    def _must_succeed(self, code: int) -> None:
        if code != 0:
            raise SpeechError(
                SpeechReason.MODEL_INVALID,
                f"whisper.cpp failed with code {code}; verify the model",
            )


def _load(path: Path, header: GgmlHeader) -> Any:
    parameters = native.whisper_context_default_params()
    parameters.use_gpu = False
    # With flash attention an encoder sized to the audio reads rows of the previous window.
    parameters.flash_attn = False
    parameters.dtw_token_timestamps = True
    heads = _ALIGNMENT_HEADS.get((header.text_layers, header.is_multilingual))
    if heads is not None:
        parameters.dtw_aheads_preset = heads
    else:
        parameters.dtw_aheads_preset = native.WHISPER_AHEADS_N_TOP_MOST
        parameters.dtw_n_top = header.text_layers // 2
    log: deque[str] = deque(maxlen=_LOG_LINES)
    native.whisper_log_set(lambda *entry: log.append(str(entry[-1]).strip()))
    try:
        context = native.whisper_init_from_file_with_params(str(path), parameters)
    finally:
        # A callback that is still set when the interpreter ends crashes it.
        native.whisper_log_set(None)
    # A context is returned even if loading has failed; only the log says so.
    if any("failed" in line for line in log):
        raise SpeechError(
            SpeechReason.MODEL_INVALID, f"{path}: {' '.join(log)}; pull the model again"
        )
    return context
