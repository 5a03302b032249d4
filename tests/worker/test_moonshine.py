# SPDX-License-Identifier: Apache-2.0

import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.engine import TRAINED_SECONDS, DecodeOptions, Recognised
from callsd_worker.speech.engines.moonshine import FILES, GUESS_LOG_PROBABILITY, MoonshineEngine
from callsd_worker.speech.engines.moonshine_rebuild import rebuild
from callsd_worker.speech.errors import SpeechError, SpeechReason
from callsd_worker.speech.evidence.choice import choose
from tests.helpers.syllables import murmur


ENGLISH = DecodeOptions(language="en")


@pytest.fixture(scope="module")
def engine(model_dir: Callable[[str], Path]) -> MoonshineEngine:
    """With real weights."""
    return MoonshineEngine(model_dir("moonshine-base") / "onnx", threads=1)


def hear(engine: MoonshineEngine, window: Samples, options: DecodeOptions = ENGLISH) -> Recognised:
    """One window."""
    (heard,) = engine.recognise([engine.encode(window, padded_seconds=0)], options)
    return heard


class TestEngine:
    """What is this engine's own; what all promise is in test_engines."""

    def test_threads_share_it(self, engine: MoonshineEngine, speech: Samples) -> None:
        """Two threads that use one engine at once hear what each would hear alone."""
        windows = [speech, speech[: 3 * SAMPLE_RATE_HZ]]
        alone = [hear(engine, window).text for window in windows]

        with ThreadPoolExecutor(2) as pool:
            together = list(pool.map(lambda window: hear(engine, window).text, windows * 2))

        assert together == alone * 2

    def test_sampling_is_repeatable(self, engine: MoonshineEngine, speech: Samples) -> None:
        """Sampling is a second try: other words, the same ones each time, less probable ones."""
        hot = DecodeOptions(language="en", temperature=2.0)

        first, second = hear(engine, speech, hot), hear(engine, speech, hot)

        assert first == second
        assert first.text != hear(engine, speech).text
        assert first.average_log_probability < hear(engine, speech).average_log_probability

    def test_repetition_can_be_made_costly(self, engine: MoonshineEngine, speech: Samples) -> None:
        """With a high penalty no token comes twice."""
        heard = hear(engine, speech, DecodeOptions(language="en", repetition_penalty=1e6))

        words = [word.strip(".,").casefold() for word in heard.text.split()]
        assert len(words) > 3
        assert len(set(words)) == len(words)

    def test_limit_of_tokens(self, engine: MoonshineEngine, speech: Samples) -> None:
        """No window gets more tokens than it is allowed, nor more than speech of its length has."""
        assert hear(engine, speech, DecodeOptions(language="en", max_tokens=5)).token_count == 5
        noise = np.random.default_rng(1).normal(0, 0.1, SAMPLE_RATE_HZ).astype(np.float32)
        assert hear(engine, noise).token_count <= 13

    def test_what_is_made_of_no_words_is_not_believed(
        self, engine: MoonshineEngine, speech: Samples
    ) -> None:
        """Of words that nobody said the engine is much less sure; below its limit none is kept."""
        said, guessed = hear(engine, speech), hear(engine, speech[::-1])

        assert choose([said], peaks=None) == said
        assert guessed.text
        # Its distance to the limit, some hundredths, is smaller than what processors differ by.
        assert guessed.average_log_probability < said.average_log_probability - 0.3
        assert guessed.guess_log_probability == GUESS_LOG_PROBABILITY
        below = replace(guessed, average_log_probability=GUESS_LOG_PROBABILITY - 0.01)
        assert choose([below], peaks=None) is None

    def test_it_has_to_be_surer_of_a_crowd(self, engine: MoonshineEngine) -> None:
        """Where nobody stands out more is taken for noise."""
        heard = hear(engine, murmur(20, seconds=5.0))

        assert heard.guess_log_probability > GUESS_LOG_PROBABILITY

    def test_a_window_can_be_heard_in_another_way(
        self, engine: MoonshineEngine, speech: Samples
    ) -> None:
        """With the longest padding the silence around a voice does not count, however long."""
        options = DecodeOptions(language="en")
        quiet = np.zeros(2 * SAMPLE_RATE_HZ, dtype=np.float32)
        around = np.concatenate([quiet, speech, quiet])

        one, other = (
            engine.recognise([engine.encode(window, padded_seconds=TRAINED_SECONDS)], options)[0]
            for window in (speech, around)
        )

        assert one.text == other.text
        assert one.average_log_probability == pytest.approx(other.average_log_probability, abs=0.05)
        assert one.average_log_probability != hear(engine, speech).average_log_probability

    @pytest.mark.parametrize("samples", [0, 1, 100])
    def test_next_to_nothing(self, engine: MoonshineEngine, samples: int) -> None:
        """A window of no length to speak of is no error."""
        heard = hear(engine, np.zeros(samples, dtype=np.float32))

        assert len(heard.words) == len(heard.text.split())
        assert all(word.end_seconds <= samples / SAMPLE_RATE_HZ for word in heard.words)

    def test_a_run_that_fails_is_a_runtime_error(
        self, engine: MoonshineEngine, speech: Samples
    ) -> None:
        """As of the other engines: who listens live survives it, whatever class it had."""
        with pytest.raises(RuntimeError, match="cannot be run"):
            engine.encode(np.stack([speech, speech]), padded_seconds=0)
        encoded = engine.encode(speech, padded_seconds=0)
        wrong = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((1, 1, 1), np.float32))
        with pytest.raises(RuntimeError, match="cannot be run"):
            engine.recognise(
                [replace(encoded, payload=replace(encoded.payload, states=wrong))], ENGLISH
            )


class TestBrokenModels:
    """Files that are not the model they should be."""

    def refusal(self, directory: Path) -> SpeechError:
        with pytest.raises(SpeechError) as caught:
            MoonshineEngine(directory, threads=1)
        return caught.value

    def test_missing(self, tmp_path: Path) -> None:
        """No files: the path is named."""
        error = self.refusal(tmp_path)

        assert error.reason == SpeechReason.MODEL_MISSING
        assert str(tmp_path) in error.message

    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("share", [0.0, 0.00001, 0.5, 0.999], ids=str)
    def test_cut_short(
        self, model_dir: Callable[[str], Path], tmp_path: Path, name: str, share: float
    ) -> None:
        """A file that ends anywhere before its end is refused."""
        source = model_dir("moonshine-base") / "onnx"
        for other in FILES:
            (tmp_path / other).symlink_to(source / other)
        (tmp_path / name).unlink()
        with (source / name).open("rb") as file:
            (tmp_path / name).write_bytes(file.read(int((source / name).stat().st_size * share)))

        assert self.refusal(tmp_path).reason == SpeechReason.MODEL_INVALID

    @pytest.mark.parametrize(("name", "other"), [("decoder", "encoder"), ("encoder", "decoder")])
    def test_exchanged(
        self, model_dir: Callable[[str], Path], tmp_path: Path, name: str, other: str
    ) -> None:
        """A whole file in the place of another is refused."""
        source = model_dir("moonshine-base") / "onnx"
        (tmp_path / "tokenizer.bin").symlink_to(source / "tokenizer.bin")
        for place in ("decoder", "encoder"):
            (tmp_path / f"{place}.onnx").symlink_to(source / f"{other}.onnx")

        assert self.refusal(tmp_path).reason == SpeechReason.MODEL_INVALID


TABLE = np.arange(-12, 12, dtype=np.int8).reshape(6, 4)
SCALE, OFFSET = 0.25, 0.75


def published() -> Any:
    """A model of the makers' kind: an 8-bit weight, expanded for a row of it and for a product.

    Beside it is attention, in which queries and keys are scaled.
    """
    shared = [
        helper.make_node("Cast", ["w_q"], ["w_cast"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["w_cast", "w_scale"], ["w_scaled"]),
        helper.make_node("Add", ["w_scaled", "w_offset"], ["w"]),
    ]
    branch = helper.make_graph(
        [
            helper.make_node("Gather", ["w", "ids"], ["row"]),
            helper.make_node("Transpose", ["w"], ["w_turned"], perm=[1, 0]),
            helper.make_node("MatMul", ["row", "w_turned"], ["out"]),
        ],
        "branch",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
    )
    choice = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
    attention = [
        helper.make_node("Sqrt", ["square"], ["root"]),
        helper.make_node("Mul", ["query", "root"], ["query_scaled"]),
        helper.make_node("Transpose", ["keys"], ["keys_turned"], perm=[1, 0]),
        helper.make_node("Mul", ["keys_turned", "root"], ["keys_scaled"]),
        helper.make_node("MatMul", ["query_scaled", "keys_scaled"], ["scores"]),
    ]
    graph = helper.make_graph(
        [*shared, choice, *attention],
        "published",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, [1]),
            helper.make_tensor_value_info("yes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("query", TensorProto.FLOAT, [1, 4]),
            helper.make_tensor_value_info("keys", TensorProto.FLOAT, [6, 4]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 6]),
        ],
        [
            numpy_helper.from_array(TABLE, "w_q"),
            numpy_helper.from_array(np.array([SCALE], np.float32), "w_scale"),
            numpy_helper.from_array(np.array([OFFSET], np.float32), "w_offset"),
            numpy_helper.from_array(np.array([SCALE], np.float32), "square"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


@pytest.fixture
def published_dir(tmp_path: Path) -> Path:
    """With it as encoder and as decoder, in the runtime's format."""
    for name in ("encoder", "decoder"):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.optimized_model_filepath = str(tmp_path / f"{name}.ort")
        onnxruntime.InferenceSession(
            published().SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    return tmp_path


class TestRebuild:
    """From the published files to ours."""

    def test_results_are_the_same(self, published_dir: Path) -> None:
        """What is computed stays, weights stay 8-bit, and only the new files are left."""
        rebuild(published_dir)

        assert sorted(path.name for path in published_dir.iterdir()) == [
            "decoder.onnx",
            "encoder.onnx",
        ]
        session = onnxruntime.InferenceSession(
            str(published_dir / "decoder.onnx"), providers=["CPUExecutionProvider"]
        )
        weight = TABLE * SCALE + OFFSET
        keys = TABLE.astype(np.float32)
        for row in range(6):
            for branch in (True, False):
                y, scores = session.run(
                    None,
                    {
                        "ids": np.array([row], np.int64),
                        "yes": np.array(branch),
                        "query": keys[[row]],
                        "keys": keys,
                    },
                )
                np.testing.assert_allclose(scores[0], SCALE * keys @ keys[row])
                # Half a step of what the row is quantised to, for each of its four numbers.
                step = (max(weight[row].max(), 0) - min(weight[row].min(), 0)) / 255
                tolerance = step / 2 * np.abs(weight).sum(axis=1).max()
                np.testing.assert_allclose(y[0], weight[row] @ weight.T, atol=tolerance)
        model = onnx.load(str(published_dir / "decoder.onnx"))
        types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        assert types["w_q"] == types["w_q_turned"] == TensorProto.INT8
        (choice,) = [node for node in model.graph.node if node.op_type == "If"]
        inner = choice.attribute[0].g.node
        assert "MatMulInteger" in [node.op_type for node in inner]
        assert "MatMul" not in [node.op_type for node in inner]

    def test_keys_are_read_as_they_are(self, published_dir: Path) -> None:
        """Of all keys that a window has nothing is computed before they meet a query."""
        rebuild(published_dir)

        nodes = onnx.load(str(published_dir / "decoder.onnx")).graph.node
        assert [node.op_type for node in nodes if "keys_turned" in node.input] == ["MatMul"]

    def test_no_model(self, published_dir: Path) -> None:
        """What is no model is refused by its name."""
        (published_dir / "encoder.ort").write_bytes(b"something else " * 1000)

        with pytest.raises(SpeechError, match=r"encoder\.ort") as caught:
            rebuild(published_dir)

        assert caught.value.reason is SpeechReason.MODEL_INVALID

    def test_without_the_package(
        self, published_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without the package that writes such files the error says how to get it."""
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

        with pytest.raises(SpeechError, match=r"callsd\[moonshine\]") as caught:
            rebuild(published_dir)

        assert caught.value.reason is SpeechReason.ENGINE_UNAVAILABLE
