# SPDX-License-Identifier: Apache-2.0
"""Writes a CTranslate2 Whisper model as the single GGML file that whisper.cpp loads.

The weights stay the same, under other names; projections that CTranslate2 stacks are split again.
The file is written as a stream, so that memory does not grow with the model.

    u32 magic, 11 × i32 dimensions, mel filters, base vocabulary as raw bytes,
    per tensor: i32 rank, i32 name length, i32 type, i32 × rank shape reversed, name, data

Vectors, convolution biases and positions are float32 as whisper.cpp wants them; convolution
weights are float16; all other matrices are float16 or Q8_0 (blocks of 32 int8 values under one
float16 scale), which halves the file.
"""

import contextlib
import enum
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from callsd_worker.speech.engines.ct2_model import Ct2ModelFile, ModelFormatError
from callsd_worker.speech.engines.ggml_file import MAGIC
from callsd_worker.speech.engines.mel import mel_filters
from callsd_worker.speech.engines.tokens import byte_alphabet


_Q8_0_BLOCK: Final = 32
_FFT_BINS: Final = 201
# Limits the memory of a conversion: at most so many float32 values at once.
_CHUNK_VALUES: Final = 1 << 20


class Precision(enum.Enum):
    """How matrices are stored."""

    F16 = "f16"
    Q8_0 = "q8_0"


class _TensorType(enum.IntEnum):
    F32 = 0
    F16 = 1
    Q8_0 = 8


# The file type in the header; that of Q8_0 includes version 2 of the quantisation format.
_FILE_TYPES: Final = {Precision.F16: 1, Precision.Q8_0: 7 + 2 * 1000}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    """Rows [start, stop) of a CTranslate2 variable, with their name in whisper.cpp."""

    name: str
    source: str
    start: int
    stop: int
    shape: tuple[int, ...]
    type: _TensorType


def convert(model_directory: Path, destination: Path, *, precision: Precision) -> None:
    """Convert `model_directory/{model.bin,tokenizer.json}` into one GGML file.

    The destination is written whole or not at all: to a draft beside it, synced and renamed.

    Raises:
        ModelFormatError: the source is damaged, cut short, or of another format.
        OSError: a file cannot be read or written; ENOSPC when the disk is full.
    """
    vocabulary = _base_vocabulary(model_directory / "tokenizer.json")
    with (
        Ct2ModelFile(model_directory / "model.bin") as model,
        _atomic_writer(destination) as out,
    ):
        tensors = list(_tensors(model, precision))
        _write_header(out, model, vocabulary, precision)
        for tensor in tensors:
            _write_tensor(out, model, tensor)


@contextlib.contextmanager
def _atomic_writer(destination: Path) -> Iterator[BinaryIO]:
    partial = destination.with_name(f".{destination.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        partial.replace(destination)
    finally:
        partial.unlink(missing_ok=True)
    directory = os.open(destination.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _write_header(
    out: BinaryIO, model: Ct2ModelFile, vocabulary: list[bytes], precision: Precision
) -> None:
    audio_positions, audio_width = model.variable("encoder/position_encodings/encodings").shape
    text_positions, text_width = model.variable("decoder/position_encodings/encodings").shape
    mel_bins = model.variable("encoder/conv1/weight").shape[1]
    dimensions = (
        model.variable("decoder/embeddings/weight").shape[0],
        audio_positions,
        audio_width,
        model.scalar("encoder/num_heads"),
        _layer_count(model, "encoder"),
        text_positions,
        text_width,
        model.scalar("decoder/num_heads"),
        _layer_count(model, "decoder"),
        mel_bins,
        _FILE_TYPES[precision],
    )
    out.write(struct.pack("<I11i", MAGIC, *dimensions))
    out.write(struct.pack("<2i", mel_bins, _FFT_BINS))
    out.write(mel_filters(mel_bins).tobytes())
    out.write(struct.pack("<i", len(vocabulary)))
    for token in vocabulary:
        out.write(struct.pack("<I", len(token)))
        out.write(token)


def _write_tensor(out: BinaryIO, model: Ct2ModelFile, tensor: _Tensor) -> None:
    name = tensor.name.encode()
    out.write(struct.pack("<3i", len(tensor.shape), len(name), tensor.type))
    out.write(struct.pack(f"<{len(tensor.shape)}i", *reversed(tensor.shape)))
    out.write(name)
    row_values = max(1, int(np.prod(model.variable(tensor.source).shape[1:])))
    step = max(1, _CHUNK_VALUES // row_values)
    for start in range(tensor.start, tensor.stop, step):
        values = model.rows(tensor.source, start, min(start + step, tensor.stop))
        out.write(_encode(values, tensor.type))


def _encode(values: NDArray[np.float32], tensor_type: _TensorType) -> bytes:
    match tensor_type:
        case _TensorType.F32:
            return values.astype("<f4").tobytes()
        case _TensorType.F16:
            return values.astype("<f2").tobytes()
        case _TensorType.Q8_0:
            return quantise_q8_0(values)


def quantise_q8_0(values: NDArray[np.float32]) -> bytes:
    """Encode float32 values, a multiple of 32 per row, as Q8_0 blocks of 34 bytes."""
    blocks = values.reshape(-1, _Q8_0_BLOCK)
    scale = np.abs(blocks).max(axis=1) / np.float32(127)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    encoded = np.empty(len(blocks), np.dtype([("scale", "<f2"), ("values", "i1", _Q8_0_BLOCK)]))
    encoded["scale"] = scale
    encoded["values"] = np.rint(blocks * inverse[:, None])
    return encoded.tobytes()


def _base_vocabulary(path: Path) -> list[bytes]:
    """The byte strings of all tokens before `<|endoftext|>`, in the order of their numbers."""
    try:
        document = json.loads(path.read_bytes())
        numbers: dict[str, int] = document["model"]["vocab"]
        special = {token["content"]: token["id"] for token in document["added_tokens"]}
        end = special["<|endoftext|>"]
        by_number = {number: token for token, number in numbers.items() if number < end}
        alphabet = byte_alphabet()
        return [
            bytes(alphabet[character] for character in by_number[number]) for number in range(end)
        ]
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{path} is not a Whisper tokenizer: {type(error).__name__} at {error}"
        raise ModelFormatError(msg) from error


def _layer_count(model: Ct2ModelFile, side: str) -> int:
    count = 0
    while f"{side}/layer_{count}/self_attention/linear_0/weight" in model.variables:
        count += 1
    return count


def _tensors(model: Ct2ModelFile, precision: Precision) -> Iterator[_Tensor]:
    for name, source, part, parts in _names(model):
        shape = model.variable(source).shape
        if shape[0] % parts:
            msg = f"{model.path}: {source!r} of shape {shape} is not {parts} stacked matrices"
            raise ModelFormatError(msg)
        rows = shape[0] // parts
        shape = (rows, *shape[1:])
        if len(shape) == 1 or name.endswith("positional_embedding"):
            tensor_type = _TensorType.F32
        elif name.startswith("encoder.conv") or precision is Precision.F16:
            tensor_type = _TensorType.F16
        else:
            tensor_type = _TensorType.Q8_0
        if name in {"encoder.conv1.bias", "encoder.conv2.bias"}:
            shape = (rows, 1)
        if tensor_type is _TensorType.Q8_0 and shape[-1] % _Q8_0_BLOCK:
            msg = f"{model.path}: {source!r} has rows of {shape[-1]}, not a multiple of 32"
            raise ModelFormatError(msg)
        yield _Tensor(
            name=name,
            source=source,
            start=part * rows,
            stop=(part + 1) * rows,
            shape=shape,
            type=tensor_type,
        )


def _names(model: Ct2ModelFile) -> Iterator[tuple[str, str, int, int]]:
    """Yield (whisper.cpp name, CTranslate2 name, which part of the stack, parts in the stack)."""
    for side in ("encoder", "decoder"):
        yield f"{side}.positional_embedding", f"{side}/position_encodings/encodings", 0, 1
        final_norm = "encoder.ln_post" if side == "encoder" else "decoder.ln"
        yield from _norm(final_norm, f"{side}/layer_norm")
        for index in range(_layer_count(model, side)):
            block, layer = f"{side}.blocks.{index}", f"{side}/layer_{index}"
            attention = f"{layer}/self_attention"
            yield from _norm(f"{block}.attn_ln", f"{attention}/layer_norm")
            # The bias of keys is always zero: whisper.cpp has no tensor for it.
            yield from _linear(f"{block}.attn.query", f"{attention}/linear_0", 0, 3)
            yield f"{block}.attn.key.weight", f"{attention}/linear_0/weight", 1, 3
            yield from _linear(f"{block}.attn.value", f"{attention}/linear_0", 2, 3)
            yield from _linear(f"{block}.attn.out", f"{attention}/linear_1", 0, 1)
            if side == "decoder":
                cross = f"{layer}/attention"
                yield from _norm(f"{block}.cross_attn_ln", f"{cross}/layer_norm")
                yield from _linear(f"{block}.cross_attn.query", f"{cross}/linear_0", 0, 1)
                yield f"{block}.cross_attn.key.weight", f"{cross}/linear_1/weight", 0, 2
                yield from _linear(f"{block}.cross_attn.value", f"{cross}/linear_1", 1, 2)
                yield from _linear(f"{block}.cross_attn.out", f"{cross}/linear_2", 0, 1)
            yield from _norm(f"{block}.mlp_ln", f"{layer}/ffn/layer_norm")
            yield from _linear(f"{block}.mlp.0", f"{layer}/ffn/linear_0", 0, 1)
            yield from _linear(f"{block}.mlp.2", f"{layer}/ffn/linear_1", 0, 1)
    yield from _linear("encoder.conv1", "encoder/conv1", 0, 1)
    yield from _linear("encoder.conv2", "encoder/conv2", 0, 1)
    yield "decoder.token_embedding.weight", "decoder/embeddings/weight", 0, 1


def _linear(name: str, source: str, part: int, parts: int) -> Iterator[tuple[str, str, int, int]]:
    yield f"{name}.weight", f"{source}/weight", part, parts
    yield f"{name}.bias", f"{source}/bias", part, parts


def _norm(name: str, source: str) -> Iterator[tuple[str, str, int, int]]:
    yield f"{name}.weight", f"{source}/gamma", 0, 1
    yield f"{name}.bias", f"{source}/beta", 0, 1
