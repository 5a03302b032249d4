# SPDX-License-Identifier: Apache-2.0
"""Converts models and tries them out: one JSON request on stdin, one JSON result on stdout.

    {"action": "convert", "directory": D}
        → writes D/ggml/{f16,q8_0}.bin from D/ctranslate2
    {"action": "rebuild", "directory": D}
        → writes D/onnx/{encoder,decoder}.onnx from D/onnx/{encoder,decoder}.ort
    {"action": "transcribe", "directory": D, "engine": "ctranslate2"} or "onnx"
    {"action": "transcribe", "directory": D, "engine": "whispercpp", "file": "ggml/q8_0.bin"}
        → {"text", "words_right" (0 to 1), "cpu_seconds", "is_multilingual"}

A failure with a known cause is {"reason", "message"}. A damaged model may crash this process: for
the caller that is an answer, too.
"""

import difflib
import errno
import importlib.util
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from callsd_worker.media.decode import SAMPLE_RATE_HZ, AudioStream
from callsd_worker.speech.engine import DecodeOptions, Engine
from callsd_worker.speech.engines.ggml import Precision, convert
from callsd_worker.speech.engines.moonshine_rebuild import rebuild
from callsd_worker.speech.errors import SpeechError, SpeechReason
from callsd_worker.speech.loading import load_onnx


SAMPLE = Path(__file__).with_name("smoke.flac")
SAMPLE_TEXT = Path(__file__).with_name("smoke.txt")


def main() -> None:
    """Answer the request on stdin."""
    request = json.loads(sys.stdin.buffer.read())
    # The engines' libraries print to stdout: send that to stderr, and keep stdout for the answer.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answer:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        try:
            result = _perform(request)
        except SpeechError as error:
            result = {"reason": error.reason.value, "message": error.message}
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            result = {"reason": "DISK_FULL", "message": f"the disk is full: {error.filename}"}
        json.dump(result, answer)
    # Without cleanup: a crash of a native library at exit says nothing about the model.
    os._exit(0)


def share_of_words_right(recognised: str, expected: str) -> float:
    """Share of the longer text's words that both have, in the same order, 0 to 1.

    Missing and invented words count alike: a model that loops is not usable either.
    """
    got, wanted = _words(recognised), _words(expected)
    matcher = difflib.SequenceMatcher(a=got, b=wanted, autojunk=False)
    return sum(block.size for block in matcher.get_matching_blocks()) / max(len(got), len(wanted))


def _perform(request: Mapping[str, str]) -> dict[str, Any]:
    directory = Path(request["directory"])
    match request["action"]:
        case "convert":
            (directory / "ggml").mkdir(exist_ok=True)
            for precision in Precision:
                destination = directory / "ggml" / f"{precision.value}.bin"
                convert(directory / "ctranslate2", destination, precision=precision)
            return {}
        case "rebuild":
            rebuild(directory / "onnx")
            return {}
        case "transcribe":
            return _transcribe(_load(request["engine"], directory, request.get("file", "")))
        case action:
            raise ValueError(f"unknown action {action!r}")


def _load(name: str, directory: Path, file: str) -> Engine:
    if name == "ctranslate2":
        from callsd_worker.speech.engines.ct2 import CTranslate2Engine

        return CTranslate2Engine(directory / "ctranslate2", threads=1, compute_type="int8")
    if name == "onnx":
        return load_onnx(directory, threads=1)
    if importlib.util.find_spec("_pywhispercpp") is None:
        raise SpeechError(SpeechReason.ENGINE_UNAVAILABLE, "pywhispercpp is not installed")
    from callsd_worker.speech.engines.whispercpp import WhisperCppEngine

    return WhisperCppEngine(directory / file, threads=1)


def _transcribe(engine: Engine) -> dict[str, Any]:
    with AudioStream(SAMPLE) as stream:
        samples = np.concatenate([block.samples for block in stream.blocks()])
    started = time.process_time()
    options = DecodeOptions(language="en", is_word_timed=False)
    padded_seconds = engine.padded_seconds(samples.size / SAMPLE_RATE_HZ)
    encoded = engine.encode(samples, padded_seconds=padded_seconds)
    (recognised,) = engine.recognise([encoded], options)
    return {
        "text": recognised.text,
        "words_right": share_of_words_right(recognised.text, SAMPLE_TEXT.read_text()),
        "cpu_seconds": time.process_time() - started,
        "is_multilingual": engine.is_multilingual,
    }


def _words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())


if __name__ == "__main__":
    main()
