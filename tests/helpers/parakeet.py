# SPDX-License-Identifier: Apache-2.0
"""A model with the parts of Parakeet and random weights: it hears, but understands nothing."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


MELS, WIDTH = 128, 16
TOKENS = ("\u2581a", "\u2581be", "\u2581see", "d", "ing", "\u2581you", ",", "<blk>")
DURATIONS = 16
_OPSET = 14


def write_parakeet(directory: Path, *, pause_frames: int = 2) -> None:
    """Write its four files; after each token it goes on by so many frames of 80 ms."""
    directory.mkdir(parents=True)
    random = np.random.default_rng(1)
    config = {"model_type": "nemo-conformer-tdt", "features_size": MELS, "subsampling_factor": 8}
    (directory / "config.json").write_text(json.dumps(config))
    vocabulary = "".join(f"{token} {number}\n" for number, token in enumerate(TOKENS))
    (directory / "vocab.txt").write_text(vocabulary)
    _write_encoder(directory / "encoder-model.int8.onnx", random)
    _write_decoder(directory / "decoder_joint-model.int8.onnx", random, pause_frames)


def _write_encoder(path: Path, random: np.random.Generator) -> None:
    weights = {
        "w": random.normal(size=(WIDTH, MELS, 8)).astype(np.float32) / 10,
        "eight": np.array(8, np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["audio_signal", "w"], ["outputs"], strides=[8]),
        helper.make_node("Div", ["length", "eight"], ["encoded_lengths"]),
    ]
    inputs = [("audio_signal", TensorProto.FLOAT, 3), ("length", TensorProto.INT64, 1)]
    outputs = [("outputs", TensorProto.FLOAT, 3), ("encoded_lengths", TensorProto.INT64, 1)]
    _save(path, nodes, inputs, outputs, weights)


def _write_decoder(path: Path, random: np.random.Generator, pause_frames: int) -> None:
    durations = np.zeros(DURATIONS, np.float32)
    durations[pause_frames] = 100.0
    weights = {
        "table": random.normal(size=(len(TOKENS), WIDTH)).astype(np.float32),
        "w": random.normal(size=(WIDTH, len(TOKENS))).astype(np.float32),
        "durations": durations[None, None, :],
        "perm_axes": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Transpose", ["encoder_outputs"], ["frames"], perm=[0, 2, 1]),
        helper.make_node("Gather", ["table", "targets"], ["before"]),
        helper.make_node("Add", ["frames", "before"], ["joint"]),
        helper.make_node("MatMul", ["joint", "w"], ["logits"]),
        helper.make_node("Concat", ["logits", "durations"], ["all"], axis=-1),
        helper.make_node("Unsqueeze", ["all", "perm_axes"], ["outputs"]),
        helper.make_node("Identity", ["input_states_1"], ["output_states_1"]),
        helper.make_node("Identity", ["input_states_2"], ["output_states_2"]),
        helper.make_node("Identity", ["target_length"], ["prednet_lengths"]),
    ]
    inputs = [
        ("encoder_outputs", TensorProto.FLOAT, 3),
        ("targets", TensorProto.INT32, 2),
        ("target_length", TensorProto.INT32, 1),
        ("input_states_1", TensorProto.FLOAT, [2, None, 4]),
        ("input_states_2", TensorProto.FLOAT, [2, None, 4]),
    ]
    outputs = [
        ("outputs", TensorProto.FLOAT, 4),
        ("prednet_lengths", TensorProto.INT32, 1),
        ("output_states_1", TensorProto.FLOAT, [2, None, 4]),
        ("output_states_2", TensorProto.FLOAT, [2, None, 4]),
    ]
    _save(path, nodes, inputs, outputs, weights)


def _save(
    path: Path,
    nodes: Sequence[Any],
    inputs: Sequence[tuple[str, int, Any]],
    outputs: Sequence[tuple[str, int, Any]],
    weights: dict[str, Any],
) -> None:
    def described(values: Sequence[tuple[str, int, Any]]) -> list[Any]:
        return [
            helper.make_tensor_value_info(
                name, kind, [None] * shape if isinstance(shape, int) else shape
            )
            for name, kind, shape in values
        ]

    graph = helper.make_graph(
        nodes,
        "random",
        described(inputs),
        described(outputs),
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
