# SPDX-License-Identifier: Apache-2.0

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from callsd_worker.speech.model_tool import share_of_words_right
from tests.weights import MODELS_DIRECTORY


TINY_EN = MODELS_DIRECTORY / "tiny.en"
MOONSHINE = MODELS_DIRECTORY / "moonshine-base"


def ask(**request: str) -> Any:
    """What the tool answers to a request."""
    result = subprocess.run(
        [sys.executable, "-m", "callsd_worker.speech.model_tool"],
        input=json.dumps(request).encode(),
        capture_output=True,
        check=True,
        timeout=60,
    )
    return json.loads(result.stdout)


class TestTranscribe:
    """Trying a model."""

    @pytest.mark.parametrize(
        ("engine", "directory", "file"),
        [
            ("ctranslate2", TINY_EN, "ctranslate2/model.bin"),
            ("whispercpp", TINY_EN, "ggml/f16.bin"),
            ("whispercpp", TINY_EN, "ggml/q8_0.bin"),
            ("onnx", MOONSHINE, "onnx/decoder.onnx"),
        ],
    )
    def test_good_model(self, engine: str, directory: Path, file: str) -> None:
        """With whole weights each engine hears the sample, and stdout holds nothing else."""
        answer = ask(action="transcribe", directory=str(directory), engine=engine, file=file)

        assert answer["words_right"] > 0.9
        assert answer["is_multilingual"] is False
        assert 0 < answer["cpu_seconds"] < 30

    @pytest.mark.parametrize("engine", ["ctranslate2", "whispercpp", "onnx"])
    def test_no_files(self, tmp_path: Path, engine: str) -> None:
        """A model that is not there is a reason, not a crash."""
        answer = ask(
            action="transcribe", directory=str(tmp_path), engine=engine, file="ggml/f16.bin"
        )

        assert answer["reason"] == "MODEL_MISSING"


class TestConvert:
    """Converting on request."""

    def test_makes_both_forms(self, tmp_path: Path) -> None:
        """Both GGML files appear beside the source, and nothing else."""
        shutil.copytree(TINY_EN / "ctranslate2", tmp_path / "ctranslate2")

        assert ask(action="convert", directory=str(tmp_path)) == {}

        assert sorted(path.name for path in (tmp_path / "ggml").iterdir()) == [
            "f16.bin",
            "q8_0.bin",
        ]

    def test_damaged_source(self, tmp_path: Path) -> None:
        """A cut source is a reason that names the file, and leaves no file behind."""
        shutil.copytree(TINY_EN / "ctranslate2", tmp_path / "ctranslate2")
        with (tmp_path / "ctranslate2" / "model.bin").open("r+b") as file:
            file.truncate(1 << 20)

        answer = ask(action="convert", directory=str(tmp_path))

        assert answer["reason"] == "MODEL_INVALID"
        assert "model.bin is cut short" in answer["message"]
        assert list((tmp_path / "ggml").iterdir()) == []


class TestShareOfWordsRight:
    """How a trial is judged."""

    @pytest.mark.parametrize(
        ("heard", "share"),
        [
            ("Can somebody take notes?", 1.0),
            ("can SOMEBODY take notes", 1.0),
            ("can somebody make notes", 0.75),
            ("notes take somebody can", 0.25),
            ("can somebody take notes " * 4, 0.25),
            ("", 0.0),
        ],
    )
    def test_counts_words_in_order(self, heard: str, share: float) -> None:
        """Case and punctuation do not count; words, their order and repetition do."""
        assert share_of_words_right(heard, "Can somebody take notes?") == share
