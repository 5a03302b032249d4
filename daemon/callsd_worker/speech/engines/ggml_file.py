# SPDX-License-Identifier: Apache-2.0
"""Checks that a GGML model file is complete, before native code reads it without checks."""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


MAGIC = 0x67676D6C
_HEADER_INTEGERS = 11
_MAX_DIMENSION = 1 << 24
_MAX_NAME_BYTES = 256
_MAX_DIMENSIONS = 4
_MULTILINGUAL_VOCABULARY = 51_865

# Tensor type → (elements per block, bytes per block).
_BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34)}


class GgmlFileError(ValueError):
    """The file is not a complete Whisper model; the message says where it is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgmlHeader:
    """The model's header."""

    text_layers: int
    is_multilingual: bool
    tensors: int


def check_ggml_file(path: Path) -> GgmlHeader:
    """Read the structure of the file, without its weights.

    Raises GgmlFileError if it is not a GGML Whisper model or does not end where it should.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        (magic,) = _integers(file, 1)
        if magic != MAGIC:
            raise GgmlFileError("not a GGML file (wrong magic at byte 0)")
        header = _integers(file, _HEADER_INTEGERS)
        mels, bins = _integers(file, 2)
        _skip(file, mels * bins * 4, size_bytes)
        (words,) = _integers(file, 1)
        for _ in range(words):
            (length,) = _integers(file, 1)
            _skip(file, length, size_bytes)
        tensors = 0
        while file.tell() < size_bytes:
            _skip_tensor(file, size_bytes)
            tensors += 1
    if not tensors:
        raise GgmlFileError(f"cut short at byte {size_bytes}: no weights")
    text_layers = header[8]
    # Every layer of encoder and decoder has at least ten tensors: with fewer the file is cut.
    if tensors < 10 * (header[4] + text_layers):
        raise GgmlFileError(f"cut short at byte {size_bytes}: only {tensors} tensors")
    return GgmlHeader(
        text_layers=text_layers,
        is_multilingual=header[0] >= _MULTILINGUAL_VOCABULARY,
        tensors=tensors,
    )


def _skip_tensor(file: BinaryIO, size_bytes: int) -> None:
    at = file.tell()
    dimensions, name_bytes, kind = _integers(file, 3)
    if (
        not 1 <= dimensions <= _MAX_DIMENSIONS
        or not 0 < name_bytes <= _MAX_NAME_BYTES
        or kind not in _BLOCKS
    ):
        raise GgmlFileError(f"damaged: no tensor at byte {at}")
    shape = _integers(file, dimensions)
    if not all(0 < length <= _MAX_DIMENSION for length in shape):
        raise GgmlFileError(f"damaged: impossible tensor shape at byte {at}")
    block_elements, block_bytes = _BLOCKS[kind]
    _skip(file, name_bytes, size_bytes)
    _skip(file, math.prod(shape) // block_elements * block_bytes, size_bytes)


def _integers(file: BinaryIO, count: int) -> tuple[int, ...]:
    at = file.tell()
    data = file.read(4 * count)
    if len(data) < 4 * count:
        raise GgmlFileError(f"cut short at byte {at + len(data)}")
    values: tuple[int, ...] = struct.unpack(f"<{count}i", data)
    return values


def _skip(file: BinaryIO, length: int, size_bytes: int) -> None:
    at = file.tell()
    if length < 0:
        raise GgmlFileError(f"damaged: negative length at byte {at}")
    if at + length > size_bytes:
        raise GgmlFileError(f"cut short at byte {size_bytes}")
    file.seek(length, 1)
