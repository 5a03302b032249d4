# SPDX-License-Identifier: Apache-2.0
"""Makes Moonshine's ONNX files from the runtime files that its makers publish.

In these each weight is 8-bit and is expanded to 32-bit, all of it, for each token: Cast, Mul (by
the scale), Add (of the offset, a whole number of scales). Here the products are computed with the
8-bit weights themselves, which is exact for the weights; what they are multiplied by is quantised
as it comes. Of the vocabulary's table only the row that is needed is expanded.

Attention scales queries and keys. All keys of a window would be scaled and transposed again for
each token: with their scale moved to the query, the runtime reads them as they are.

The same input gives the same bytes, with onnxruntime 1.20 to 1.32 and onnx 1.17 to 1.23.
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from callsd_worker.speech.errors import SpeechError, SpeechReason


_OPSET = 14
_IR_VERSION = 8
_FLOAT = 1


def rebuild(directory: Path) -> None:
    """Write encoder.onnx and decoder.onnx from encoder.ort and decoder.ort, which are removed.

    Raises SpeechError: ENGINE_UNAVAILABLE (the package onnx is missing), MODEL_INVALID.
    """
    if importlib.util.find_spec("onnx") is None:
        raise SpeechError(
            SpeechReason.ENGINE_UNAVAILABLE,
            "the package onnx is not installed, which builds this model: "
            "install callsd[moonshine], or import the model from another machine",
        )
    import onnx

    for name in ("encoder", "decoder"):
        source = directory / f"{name}.ort"
        written = directory / f"{name}.onnx"
        _export(source, written)
        model = onnx.load(str(written))
        onnx.save(_Rebuilding(onnx, model.graph).model(), str(written))
        source.unlink()


def _export(source: Path, destination: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(destination)
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - the library's errors have no class in common
        raise SpeechError(
            SpeechReason.MODEL_INVALID, f"{source} is no model of onnxruntime: {error}"
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weight:
    """Names of an 8-bit weight, of its scale and of its offset."""

    quantised: str
    scale: str
    offset: str


class _Rebuilding:
    """One graph, with those inside of it, on its way."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        self._onnx = onnx
        self._graph = graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._weights = self._find_weights()

    def model(self) -> Any:
        self._rewrite(self._graph)
        used = _drop_unused(self._graph)
        # In the order of their names: the library's own order changes with its version.
        tensors = [self._constants[name] for name in sorted(used & self._constants.keys())]
        _replace(self._graph.initializer, tensors)
        _put_in_order(self._graph, "main")
        return self._onnx.helper.make_model(
            self._graph,
            opset_imports=[self._onnx.helper.make_opsetid("", _OPSET)],
            ir_version=_IR_VERSION,
        )

    def _find_weights(self) -> dict[str, _Weight]:
        made_by = {node.output[0]: node for node in self._graph.node}
        weights = {}
        for add in self._graph.node:
            multiply = made_by.get(add.input[0]) if add.op_type == "Add" else None
            if multiply is None:
                continue
            cast = made_by.get(multiply.input[0])
            if cast is not None and cast.op_type == "Cast" and cast.input[0] in self._constants:
                weights[add.output[0]] = _Weight(
                    quantised=cast.input[0], scale=multiply.input[1], offset=add.input[1]
                )
        return weights

    def _rewrite(self, graph: Any) -> None:
        turned = {
            node.output[0]: node.input[0]
            for node in graph.node
            if node.op_type == "Transpose" and node.input[0] in self._weights
        }
        scaled = _scaled_keys(graph)
        quantised_inputs: dict[str, list[str]] = {}
        nodes: list[Any] = []
        for node in graph.node:
            for inner in _graphs_of(node):
                self._rewrite(inner)
            last = node.input[-1] if node.input else ""
            if node.op_type == "MatMul" and (last in self._weights or last in turned):
                nodes += self._product(node, turned, quantised_inputs)
            elif node.op_type == "Gather" and node.input[0] in self._weights:
                nodes += self._row(node)
            elif node.op_type == "MatMul" and last in scaled:
                nodes += self._attention(node, *scaled[last])
            else:
                nodes.append(node)
        _replace(graph.node, nodes)

    def _product(
        self, node: Any, turned: dict[str, str], quantised_inputs: dict[str, list[str]]
    ) -> Iterator[Any]:
        sound, weight_name = node.input
        weight = self._weights[turned.get(weight_name, weight_name)]
        quantised = weight.quantised
        if weight_name in turned:
            quantised = self._constant(
                f"{weight.quantised}_turned", np.ascontiguousarray(self._array(quantised).T)
            )
        make = self._onnx.helper.make_node
        if sound not in quantised_inputs:
            quantised_inputs[sound] = [f"{sound}_{part}" for part in ("u8", "scale", "zero")]
            yield make("DynamicQuantizeLinear", [sound], quantised_inputs[sound])
        inputs, scale, zero = quantised_inputs[sound]
        result = node.output[0]
        yield make(
            "MatMulInteger", [inputs, quantised, zero, self._zero(weight)], [f"{result}_i32"]
        )
        yield make("Cast", [f"{result}_i32"], [f"{result}_f32"], to=_FLOAT)
        yield make("Mul", [scale, weight.scale], [f"{result}_scale"])
        yield make("Mul", [f"{result}_f32", f"{result}_scale"], [result])

    def _attention(self, node: Any, keys: str, scale: str) -> Iterator[Any]:
        query, result = node.input[0], node.output[0]
        make = self._onnx.helper.make_node
        yield make("Mul", [query, scale], [f"{result}_query"])
        yield make("MatMul", [f"{result}_query", keys], [result])

    def _row(self, node: Any) -> Iterator[Any]:
        weight = self._weights[node.input[0]]
        result = node.output[0]
        make = self._onnx.helper.make_node
        yield make("Gather", [weight.quantised, node.input[1]], [f"{result}_i8"])
        yield make("Cast", [f"{result}_i8"], [f"{result}_f32"], to=_FLOAT)
        yield make("Mul", [f"{result}_f32", weight.scale], [f"{result}_scaled"])
        yield make("Add", [f"{result}_scaled", weight.offset], [result])

    def _zero(self, weight: _Weight) -> str:
        """The 8-bit number that stands for zero."""
        offset, scale = self._array(weight.offset), self._array(weight.scale)
        zero = -round(float(offset.item()) / float(scale.item()))
        return self._constant(f"{weight.quantised}_zero", np.array(zero, np.int8))

    def _array(self, name: str) -> Any:
        return self._onnx.numpy_helper.to_array(self._constants[name])

    def _constant(self, name: str, value: Any) -> str:
        self._constants.setdefault(name, self._onnx.numpy_helper.from_array(value, name))
        return name


def _scaled_keys(graph: Any) -> dict[str, tuple[str, str]]:
    """Keys and their scale, by the name of their product. The scale is one number, a root."""
    roots = {node.output[0] for node in graph.node if node.op_type == "Sqrt"}
    return {
        node.output[0]: (node.input[0], node.input[1])
        for node in graph.node
        if node.op_type == "Mul" and node.input[1] in roots
    }


def _graphs_of(node: Any) -> list[Any]:
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def _drop_unused(graph: Any) -> set[str]:
    """Leave out nodes that nothing uses. Returns the names that are used."""
    used = {output.name for output in graph.output}
    kept: list[Any] = []
    # Backward: who uses something comes after it.
    for node in reversed(graph.node):
        if used.intersection(node.output):
            kept.insert(0, node)
            used.update(node.input)
            for inner in _graphs_of(node):
                used |= _drop_unused(inner)
    _replace(graph.node, kept)
    return used


def _put_in_order(graph: Any, name: str) -> None:
    """Leave out what is not needed, and sort what has no order, so that the bytes are the same."""
    graph.name = name
    graph.ClearField("value_info")
    for node in graph.node:
        node.ClearField("doc_string")
        _replace(node.attribute, sorted(node.attribute, key=lambda attribute: attribute.name))
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _put_in_order(attribute.g, attribute.name)


def _replace(repeated: Any, items: list[Any]) -> None:
    # Copied first: what is removed from a message is gone.
    kept = [type(item).FromString(item.SerializeToString()) for item in items]
    del repeated[:]
    repeated.extend(kept)
