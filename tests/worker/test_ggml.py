# SPDX-License-Identifier: Apache-2.0

import json
import math
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from callsd_worker.speech.engines.ct2_model import Ct2ModelFile, ModelFormatError
from callsd_worker.speech.engines.ggml import Precision, convert, quantise_q8_0
from callsd_worker.speech.engines.mel import mel_filters
from callsd_worker.speech.model_tool import SAMPLE, SAMPLE_TEXT
from tests.weights import MODELS_DIRECTORY


TINY_EN = MODELS_DIRECTORY / "tiny.en" / "ctranslate2"

# Runs by itself, because whisper.cpp kills its process when a file is not to its liking.
TRANSCRIBE = """
import sys
import numpy as np
from faster_whisper.audio import decode_audio
from pywhispercpp.model import Model

model = Model(sys.argv[1], n_threads=1, print_progress=False, redirect_whispercpp_logs_to=None)
audio = np.ascontiguousarray(decode_audio(sys.argv[2]), dtype=np.float32)
print(" ".join(segment.text for segment in model.transcribe(audio)))
"""

WIDTH = 64
TYPE_CODES = {"float32": 0, "int8": 1, "int16": 2, "float16": 4}


def ct2_bytes(variables: dict[str, NDArray[Any]], *, spec: bytes = b"WhisperSpec\0") -> bytes:
    """A model.bin holding these variables."""
    parts = [struct.pack("<IH", 6, len(spec)), spec, struct.pack("<II", 3, len(variables))]
    for name, value in variables.items():
        raw = name.encode() + b"\0"
        parts += [struct.pack("<H", len(raw)), raw, struct.pack("<B", value.ndim)]
        parts += [struct.pack(f"<{value.ndim}I", *value.shape)]
        parts += [struct.pack("<BI", TYPE_CODES[value.dtype.name], value.nbytes), value.tobytes()]
    alias, target = b"decoder/projection/weight\0", b"decoder/embeddings/weight\0"
    parts += [struct.pack("<IH", 1, len(alias)), alias, struct.pack("<H", len(target)), target]
    return b"".join(parts)


def small_model() -> dict[str, NDArray[Any]]:
    """The variables of a Whisper with one layer a side, 64 wide, with random weights."""
    random = np.random.default_rng(7)

    def floats(*shape: int) -> NDArray[Any]:
        return random.normal(size=shape).astype(np.float16)

    model: dict[str, NDArray[Any]] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        model[f"{name}/weight"] = floats(rows, columns)
        model[f"{name}/bias"] = floats(rows)

    def norm(name: str) -> None:
        model[f"{name}/gamma"] = floats(WIDTH)
        model[f"{name}/beta"] = floats(WIDTH)

    for side, positions in (("encoder", 20), ("decoder", 12)):
        model[f"{side}/num_heads"] = np.array(2, np.int16)
        model[f"{side}/position_encodings/encodings"] = floats(positions, WIDTH)
        norm(f"{side}/layer_norm")
        norm(f"{side}/layer_0/self_attention/layer_norm")
        linear(f"{side}/layer_0/self_attention/linear_0", 3 * WIDTH, WIDTH)
        linear(f"{side}/layer_0/self_attention/linear_1", WIDTH, WIDTH)
        norm(f"{side}/layer_0/ffn/layer_norm")
        linear(f"{side}/layer_0/ffn/linear_0", 4 * WIDTH, WIDTH)
        linear(f"{side}/layer_0/ffn/linear_1", WIDTH, 4 * WIDTH)
    norm("decoder/layer_0/attention/layer_norm")
    linear("decoder/layer_0/attention/linear_0", WIDTH, WIDTH)
    linear("decoder/layer_0/attention/linear_1", 2 * WIDTH, WIDTH)
    linear("decoder/layer_0/attention/linear_2", WIDTH, WIDTH)
    for index, channels in ((1, 80), (2, WIDTH)):
        model[f"encoder/conv{index}/weight"] = floats(WIDTH, channels, 3)
        model[f"encoder/conv{index}/bias"] = floats(WIDTH)
    model["decoder/embeddings/weight"] = floats(5, WIDTH)
    return model


@pytest.fixture
def model_directory(tmp_path: Path) -> Path:
    """A directory with the small model and a tokenizer of three tokens."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "model.bin").write_bytes(ct2_bytes(small_model()))
    tokenizer = {
        "model": {"vocab": {"a": 0, "Ġb": 1, "é": 2}},
        "added_tokens": [{"content": "<|endoftext|>", "id": 3}],
    }
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    return directory


@dataclass(frozen=True, slots=True, kw_only=True)
class GgmlFile:
    """What an independent reader finds in a GGML file."""

    dimensions: tuple[int, ...]
    vocabulary: list[bytes]
    tensors: dict[str, tuple[int, tuple[int, ...], bytes]]


def read_ggml(path: Path) -> GgmlFile:
    """Read a whole file, failing on anything that is not where it should be."""
    data = path.read_bytes()
    at = 0

    def take(layout: str) -> tuple[int, ...]:
        nonlocal at
        values = struct.unpack_from(layout, data, at)
        at += struct.calcsize(layout)
        return values

    def take_bytes(count: int) -> bytes:
        nonlocal at
        at += count
        return data[at - count : at]

    assert take("<I") == (0x67676D6C,)
    dimensions = take("<11i")
    mel_bins, fft_bins = take("<2i")
    take_bytes(4 * mel_bins * fft_bins)
    vocabulary = [take_bytes(take("<I")[0]) for _ in range(take("<i")[0])]
    tensors = {}
    while at < len(data):
        rank, name_bytes, kind = take("<3i")
        shape = tuple(reversed(take(f"<{rank}i")))
        name = take_bytes(name_bytes).decode()
        values = math.prod(shape)
        size = {0: 4 * values, 1: 2 * values, 8: values // 32 * 34}[kind]
        tensors[name] = (kind, shape, take_bytes(size))
    assert at == len(data)
    return GgmlFile(dimensions=dimensions, vocabulary=vocabulary, tensors=tensors)


def words(text: str) -> list[str]:
    """The words of a text, without case and punctuation."""
    return [word.strip(".,?!").lower() for word in text.split()]


class TestConvert:
    """A CTranslate2 model becomes a GGML file."""

    @pytest.mark.parametrize(
        ("precision", "file_type"),
        [(Precision.F16, 1), (Precision.Q8_0, 2007)],
        ids=["f16", "q8_0"],
    )
    def test_header(
        self, model_directory: Path, tmp_path: Path, precision: Precision, file_type: int
    ) -> None:
        """The header carries the dimensions of the model and the vocabulary as raw bytes."""
        convert(model_directory, tmp_path / "out.bin", precision=precision)

        ggml = read_ggml(tmp_path / "out.bin")

        assert ggml.dimensions == (5, 20, 64, 2, 1, 12, 64, 2, 1, 80, file_type)
        assert ggml.vocabulary == [b"a", b" b", b"\xe9"]

    def test_f16_tensors_are_the_weights(self, model_directory: Path, tmp_path: Path) -> None:
        """Every weight arrives bit for bit, stacked projections taken apart in order."""
        convert(model_directory, tmp_path / "out.bin", precision=Precision.F16)
        source, tensors = small_model(), read_ggml(tmp_path / "out.bin").tensors
        stacked = source["decoder/layer_0/self_attention/linear_0/weight"]
        cross = source["decoder/layer_0/attention/linear_1/weight"]
        block = "decoder.blocks.0"

        for index, part in enumerate(("query", "key", "value")):
            expected = stacked[index * WIDTH : (index + 1) * WIDTH]
            assert tensors[f"{block}.attn.{part}.weight"] == (1, (64, 64), expected.tobytes())
        assert tensors[f"{block}.cross_attn.value.weight"][2] == cross[WIDTH:].tobytes()
        assert tensors["encoder.conv1.weight"][:2] == (1, (64, 80, 3))
        assert tensors["encoder.conv1.bias"][:2] == (0, (64, 1))
        assert tensors["decoder.positional_embedding"][:2] == (0, (12, 64))
        assert f"{block}.attn.key.bias" not in tensors
        assert len(tensors) == 50

    def test_q8_0_quantises_matrices_only(self, model_directory: Path, tmp_path: Path) -> None:
        """Q8_0 touches matrices; vectors, positions and convolutions stay as they are."""
        convert(model_directory, tmp_path / "out.bin", precision=Precision.Q8_0)

        kinds = {
            name: kind for name, (kind, _, _) in read_ggml(tmp_path / "out.bin").tensors.items()
        }

        assert kinds["decoder.token_embedding.weight"] == 8
        assert kinds["encoder.blocks.0.mlp.0.weight"] == 8
        assert kinds["encoder.conv2.weight"] == 1
        assert kinds["encoder.positional_embedding"] == 0
        assert kinds["encoder.blocks.0.mlp.0.bias"] == 0

    def test_int8_source(self, model_directory: Path, tmp_path: Path) -> None:
        """A model stored as int8 converts to what its rows mean, not to its raw integers."""
        variables = small_model()
        name = "decoder/layer_0/ffn/linear_1/weight"
        original = variables[name].astype(np.float32)
        scale = 127 / np.abs(original).max(axis=1)
        variables[name] = np.rint(original * scale[:, None]).astype(np.int8)
        variables[f"{name}_scale"] = scale.astype(np.float32)
        (model_directory / "model.bin").write_bytes(ct2_bytes(variables))

        convert(model_directory, tmp_path / "out.bin", precision=Precision.F16)

        raw = read_ggml(tmp_path / "out.bin").tensors["decoder.blocks.0.mlp.2.weight"][2]
        converted = np.frombuffer(raw, np.float16).reshape(original.shape).astype(np.float32)
        np.testing.assert_allclose(converted, original, atol=np.abs(original).max() / 200)

    @pytest.mark.parametrize("kept", [0.0, 0.0001, 0.3, 0.9999], ids=str)
    def test_cut_source(self, model_directory: Path, tmp_path: Path, kept: float) -> None:
        """A source cut at any point is refused as such and leaves no file behind."""
        source = model_directory / "model.bin"
        whole = source.read_bytes()
        source.write_bytes(whole[: int(len(whole) * kept)])

        with pytest.raises(ModelFormatError, match="cut short"):
            convert(model_directory, tmp_path / "out.bin", precision=Precision.F16)

        assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]

    def test_failed_conversion_keeps_the_old_file(
        self, model_directory: Path, tmp_path: Path
    ) -> None:
        """A conversion that fails halfway leaves what was there before, whole."""
        variables = small_model()
        name = "decoder/embeddings/weight"  # the last to be written
        variables[name] = variables[name].astype(np.int16)
        (model_directory / "model.bin").write_bytes(ct2_bytes(variables))
        (tmp_path / "out.bin").write_bytes(b"before")

        with pytest.raises(ModelFormatError, match="int16"):
            convert(model_directory, tmp_path / "out.bin", precision=Precision.F16)

        assert (tmp_path / "out.bin").read_bytes() == b"before"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out.bin"]

    @pytest.mark.parametrize(
        ("content", "complaint"),
        [
            (b"\x89PNG\r\n\x1a\n" + bytes(4096), "not a CTranslate2 model"),
            (ct2_bytes({}, spec=b"TransformerSpec\0"), "'TransformerSpec'"),
            (ct2_bytes({}) + b"x", "points at nothing"),
            (ct2_bytes(small_model()) + b"more", "4 bytes too many"),
        ],
        ids=["png", "another network", "empty", "trailing bytes"],
    )
    def test_foreign_source(
        self, model_directory: Path, tmp_path: Path, content: bytes, complaint: str
    ) -> None:
        """A file that is something else is refused with what it is."""
        (model_directory / "model.bin").write_bytes(content)

        with pytest.raises(ModelFormatError, match=complaint):
            convert(model_directory, tmp_path / "out.bin", precision=Precision.F16)

    def test_foreign_tokenizer(self, model_directory: Path, tmp_path: Path) -> None:
        """A tokenizer with a hole in its numbering is refused, never guessed at."""
        (model_directory / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')

        with pytest.raises(ModelFormatError, match=r"tokenizer\.json is not a Whisper tokenizer"):
            convert(model_directory, tmp_path / "out.bin", precision=Precision.F16)

    @pytest.mark.parametrize("precision", Precision, ids=lambda precision: precision.value)
    def test_whisper_cpp_transcribes_with_it(self, tmp_path: Path, precision: Precision) -> None:
        """whisper.cpp hears the right words through a converted real model."""
        destination = tmp_path / "model.bin"
        convert(TINY_EN, destination, precision=precision)

        result = subprocess.run(
            [sys.executable, "-c", TRANSCRIBE, destination, SAMPLE],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )

        assert words(result.stdout) == words(SAMPLE_TEXT.read_text())


class TestCt2ModelFile:
    """The reader of a model.bin."""

    def test_reads_rows_of_a_real_model(self) -> None:
        """Rows read in parts are the rows of the whole."""
        with Ct2ModelFile(TINY_EN / "model.bin") as model:
            whole = model.rows("encoder/conv1/weight", 0, 384)
            part = model.rows("encoder/conv1/weight", 100, 103)

        assert whole.shape == (384, 80, 3)
        np.testing.assert_array_equal(part, whole[100:103])

    def test_alias(self) -> None:
        """A variable may be read under its alias."""
        with Ct2ModelFile(TINY_EN / "model.bin") as model:
            assert model.variable("decoder/projection/weight") == model.variable(
                "decoder/embeddings/weight"
            )


class TestQ8:
    """Q8_0 blocks."""

    def test_error_is_half_a_step(self) -> None:
        """Every value comes back within half a step of its block, and zeros exactly."""
        values = np.random.default_rng(3).normal(size=(8, 64)).astype(np.float32)
        values[0] = 0
        raw = np.frombuffer(
            quantise_q8_0(values), np.dtype([("scale", "<f2"), ("values", "i1", 32)])
        )

        restored = raw["scale"].astype(np.float32)[:, None] * raw["values"]

        step = np.abs(values.reshape(-1, 32)).max(axis=1, keepdims=True) / 127
        assert (np.abs(restored - values.reshape(-1, 32)) <= step * 0.6 + 1e-9).all()
        assert (restored[:2] == 0).all()


class TestMelFilters:
    """The filters in the header."""

    @pytest.mark.parametrize("mel_bins", [80, 128])
    def test_same_as_the_other_engine(self, mel_bins: int) -> None:
        """Both engines listen through the same filters."""
        from faster_whisper.feature_extractor import FeatureExtractor

        expected = FeatureExtractor(feature_size=mel_bins).mel_filters

        np.testing.assert_allclose(mel_filters(mel_bins), expected, atol=1e-6)
