# SPDX-License-Identifier: Apache-2.0
"""Choosing and loading the engine that a job asks for."""

import importlib.util
import os

from callsd_worker.speech.engine import Engine
from callsd_worker.speech.errors import Reason, SpeechError
from callsd_worker.transcriber.types import Settings


ENGINES = ("auto", "ctranslate2", "whispercpp")


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def clamp_threads(threads: int) -> tuple[int, list[tuple[str, str]]]:
    """The nearest possible number of threads, and a notice if it is another one."""
    possible = min(max(threads, 1), processors())
    if possible == threads:
        return threads, []
    message = f"{threads} threads asked for, {possible} used: 1 to {processors()} are possible here"
    return possible, [("THREADS_CLAMPED", message)]


def load_engine(settings: Settings, *, threads: int) -> Engine:
    """Raises SpeechError: ENGINE_UNAVAILABLE, MODEL_MISSING, MODEL_INVALID."""
    match _choose(settings):
        case "ctranslate2":
            # Imported here: an engine costs memory, and only one of them is used.
            from callsd_worker.speech.ct2 import CTranslate2Engine

            return CTranslate2Engine(
                settings.model.directory / "ctranslate2",
                threads=threads,
                compute_type=settings.compute_type,
            )
        case _:
            from callsd_worker.speech.whispercpp import WhisperCppEngine

            return WhisperCppEngine(
                settings.model.directory / "ggml" / f"{settings.ggml_type}.bin", threads=threads
            )


def _choose(settings: Settings) -> str:
    if settings.engine not in ENGINES:
        raise SpeechError(
            Reason.ENGINE_UNAVAILABLE,
            f"unknown engine {settings.engine!r}; choose one of {', '.join(ENGINES)}",
        )
    has_whispercpp = importlib.util.find_spec("_pywhispercpp") is not None
    if settings.engine == "whispercpp" and not has_whispercpp:
        raise SpeechError(
            Reason.ENGINE_UNAVAILABLE,
            "pywhispercpp is not installed; install callsd[whispercpp] or use engine ctranslate2",
        )
    if settings.engine != "auto":
        return settings.engine
    directory = settings.model.directory
    if (directory / "ctranslate2" / "model.bin").is_file():
        return "ctranslate2"
    if (directory / "ggml" / f"{settings.ggml_type}.bin").is_file():
        if has_whispercpp:
            return "whispercpp"
        raise SpeechError(
            Reason.ENGINE_UNAVAILABLE,
            f"model {settings.model.name} is there for whispercpp only, which is not installed; "
            "install callsd[whispercpp] or pull the model for ctranslate2",
        )
    raise SpeechError(
        Reason.MODEL_MISSING,
        f"{directory}: no files of model {settings.model.name}; pull it first",
    )
