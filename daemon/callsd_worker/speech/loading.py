# SPDX-License-Identifier: Apache-2.0
"""Loads an engine."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from callsd_worker.speech.engine import Engine
from callsd_worker.speech.errors import SpeechError, SpeechReason


ENGINES = ("ctranslate2", "whispercpp", "onnx")

COMPUTE_TYPE = "int8"
GGML_TYPE = "q8_0"
"""For each engine the fastest quantisation without a relevant loss of accuracy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A model's directory as the catalogue lays it out; any of the files may be absent.

    `ctranslate2/{model.bin,config.json,tokenizer.json,vocabulary.*}`, `ggml/{f16,q8_0}.bin`,
    `onnx/{encoder.onnx,decoder.onnx,tokenizer.bin}` of Moonshine, or, of Parakeet,
    `onnx/{encoder-model,decoder_joint-model}.int8.onnx`, `onnx/{vocab.txt,config.json}`.
    """

    name: str
    directory: Path


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def clamp_threads(threads: int) -> tuple[int, list[tuple[str, str]]]:
    """The nearest possible number of threads, and a notice if it differs."""
    possible = min(max(threads, 1), processors())
    if possible == threads:
        return threads, []
    message = f"{threads} threads asked for, {possible} used: 1 to {processors()} are possible here"
    return possible, [("THREADS_CLAMPED", message)]


def load_engine(
    model: ModelFiles,
    *,
    engine: str,
    threads: int,
    compute_type: str = COMPUTE_TYPE,
    ggml_type: str = GGML_TYPE,
) -> Engine:
    """One engine, for one thread at a time.

    Raises SpeechError: ENGINE_UNAVAILABLE, MODEL_MISSING, MODEL_INVALID.
    """
    _require(engine)
    match engine:
        case "ctranslate2":
            return _load_ctranslate2(model, threads=threads, compute_type=compute_type, workers=1)
        case "onnx":
            return load_onnx(model.directory, threads=threads)
        case _:
            return _load_whispercpp(model, threads=threads, ggml_type=ggml_type)


def load_engines(model: ModelFiles, *, engine: str, workers: int) -> tuple[Engine, ...]:
    """An engine for each of several threads, with as few copies of the weights as possible.

    Raises SpeechError as `load_engine`.
    """
    _require(engine)
    match engine:
        case "ctranslate2":
            shared = _load_ctranslate2(model, threads=1, compute_type=COMPUTE_TYPE, workers=workers)
            return (shared,) * workers
        case "onnx":
            return (load_onnx(model.directory, threads=1),) * workers
        case _:
            return tuple(
                _load_whispercpp(model, threads=1, ggml_type=GGML_TYPE) for _ in range(workers)
            )


# The libraries are imported late: each takes memory, and only one of them is used.


def load_onnx(directory: Path, *, threads: int) -> Engine:
    """An engine for what is in `onnx/` of a model's directory: Parakeet or Moonshine."""
    files = directory / "onnx"
    if not (files / "vocab.txt").is_file():
        from callsd_worker.speech.engines.moonshine import MoonshineEngine

        return MoonshineEngine(files, threads=threads)
    if importlib.util.find_spec("onnx_asr") is None:
        raise SpeechError(
            SpeechReason.ENGINE_UNAVAILABLE,
            "onnx-asr is not installed, which runs this model; install callsd[parakeet]",
        )
    from callsd_worker.speech.engines.parakeet import ParakeetEngine

    return ParakeetEngine(files, threads=threads)


def _load_ctranslate2(
    model: ModelFiles, *, threads: int, compute_type: str, workers: int
) -> Engine:
    from callsd_worker.speech.engines.ct2 import CTranslate2Engine

    return CTranslate2Engine(
        model.directory / "ctranslate2",
        threads=threads,
        compute_type=compute_type,
        workers=workers,
    )


def _load_whispercpp(model: ModelFiles, *, threads: int, ggml_type: str) -> Engine:
    from callsd_worker.speech.engines.whispercpp import WhisperCppEngine

    return WhisperCppEngine(model.directory / "ggml" / f"{ggml_type}.bin", threads=threads)


def _require(engine: str) -> None:
    if engine not in ENGINES:
        raise SpeechError(
            SpeechReason.ENGINE_UNAVAILABLE,
            f"unknown engine {engine!r}; choose one of {', '.join(ENGINES)}",
        )
    if engine == "whispercpp" and importlib.util.find_spec("_pywhispercpp") is None:
        raise SpeechError(
            SpeechReason.ENGINE_UNAVAILABLE,
            "pywhispercpp is not installed; install callsd[whispercpp] or use engine ctranslate2",
        )
