# SPDX-License-Identifier: Apache-2.0
"""Reads the variables of a CTranslate2 Whisper model without loading the model.

A `model.bin` is an index and its data interleaved, little-endian throughout:

    u32 binary version, string spec name, u32 spec revision, u32 variable count
    per variable: string name, u8 rank, u32 × rank shape, u8 type, u32 size in bytes, data
    u32 alias count, per alias: string alias, string variable

where a string is a u16 length followed by that many bytes, the last of them NUL.
Opening a file walks its whole index, so that a foreign or cut file is refused before anything
is read from it; data are then read a few rows at a time.
"""

import io
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from callsd_worker.speech.errors import SpeechError, SpeechReason


# The layout above; every CTranslate2 since 2.0 writes it.
_BINARY_VERSION = 6
_SPEC_NAME = "WhisperSpec"
# The largest Whisper has 1,500 variables of rank ≤ 3; beyond these the file is not one.
_MAX_VARIABLES = 10_000
_MAX_RANK = 4
_DTYPES: Mapping[int, np.dtype[Any]] = MappingProxyType(
    {
        0: np.dtype("<f4"),
        1: np.dtype("i1"),
        2: np.dtype("<i2"),
        3: np.dtype("<i4"),
        4: np.dtype("<f2"),
    }
)


class ModelFormatError(SpeechError):
    """A model file is damaged, of another format, or of a kind that is not supported."""

    def __init__(self, message: str) -> None:
        super().__init__(SpeechReason.MODEL_INVALID, message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """Position, shape and type of one tensor of the file."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset_bytes: int
    size_bytes: int


class Ct2ModelFile:
    """An open `model.bin`; use as a context manager.

    Raises:
        ModelFormatError: the file is not a whole CTranslate2 Whisper model.
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO = path.open("rb")
        try:
            self._size_bytes = os.fstat(self._file.fileno()).st_size
            self.variables = MappingProxyType(self._read_index())
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def variable(self, name: str) -> Variable:
        """The variable of that name, or ModelFormatError if the file has none."""
        try:
            return self.variables[name]
        except KeyError:
            msg = f"{self.path} has no variable {name!r}: it is not a Whisper model"
            raise ModelFormatError(msg) from None

    def scalar(self, name: str) -> int:
        """The value of an integer variable of rank 0."""
        variable = self.variable(name)
        if variable.shape != ():
            msg = f"{self.path}: {name!r} has shape {variable.shape}, a single number was expected"
            raise ModelFormatError(msg)
        return int(
            np.frombuffer(self._read_at(variable, 0, variable.size_bytes), variable.dtype)[0]
        )

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Rows [start, stop) of a tensor as float32; int8 rows are scaled."""
        variable = self.variable(name)
        values = self._raw_rows(variable, start, stop)
        if variable.dtype.kind == "f":
            return values.astype(np.float32)
        if variable.dtype != np.dtype("i1"):
            msg = f"{self.path}: {name!r} is {variable.dtype}; float32, float16 and int8 are read"
            raise ModelFormatError(msg)
        scale_variable = self.variable(f"{name}_scale")
        if math.prod(scale_variable.shape) == 1:
            scale = self._raw_rows(scale_variable, 0, 1).reshape(1)
        else:
            scale = self._raw_rows(scale_variable, start, stop)
        # CTranslate2 stores the factor by which values were multiplied: divide by it.
        return values.astype(np.float32) / scale.astype(np.float32).reshape(
            -1, *(1,) * (values.ndim - 1)
        )

    def _raw_rows(self, variable: Variable, start: int, stop: int) -> NDArray[Any]:
        row_count = variable.shape[0] if variable.shape else 1
        if not 0 <= start <= stop <= row_count:
            msg = f"{self.path}: {variable.name!r} has {row_count} rows, not {start}:{stop}"
            raise ModelFormatError(msg)
        row_bytes = variable.size_bytes // row_count
        data = self._read_at(variable, start * row_bytes, (stop - start) * row_bytes)
        return np.frombuffer(data, variable.dtype).reshape(stop - start, *variable.shape[1:])

    def _read_at(self, variable: Variable, offset_bytes: int, size_bytes: int) -> bytes:
        self._file.seek(variable.offset_bytes + offset_bytes)
        return self._exactly(size_bytes)

    def _read_index(self) -> dict[str, Variable]:
        version = self._number("<I")
        if version != _BINARY_VERSION:
            msg = f"{self.path} is not a CTranslate2 model of binary version {_BINARY_VERSION}"
            raise ModelFormatError(msg)
        spec = self._string()
        if spec != _SPEC_NAME:
            msg = f"{self.path} holds a {spec!r}, not a Whisper model"
            raise ModelFormatError(msg)
        self._number("<I")
        count = self._number("<I")
        if count > _MAX_VARIABLES:
            msg = f"{self.path} announces {count} variables: it is damaged"
            raise ModelFormatError(msg)
        variables = [self._variable() for _ in range(count)]
        index = {variable.name: variable for variable in variables}
        for _ in range(min(self._number("<I"), _MAX_VARIABLES)):
            alias = self._string()
            target = self._string()
            if target not in index:
                msg = f"{self.path}: alias {alias!r} points at nothing: the file is damaged"
                raise ModelFormatError(msg)
            index[alias] = index[target]
        if self._file.tell() != self._size_bytes:
            msg = f"{self.path} goes on for {self._size_bytes - self._file.tell()} bytes too many"
            raise ModelFormatError(msg)
        return index

    def _variable(self) -> Variable:
        name = self._string()
        rank = self._number("<B")
        if rank > _MAX_RANK:
            msg = f"{self.path}: {name!r} has rank {rank}: the file is damaged"
            raise ModelFormatError(msg)
        shape = tuple(self._number("<I") for _ in range(rank))
        type_code = self._number("<B")
        size_bytes = self._number("<I")
        dtype = _DTYPES.get(type_code)
        if dtype is None:
            msg = f"{self.path}: {name!r} is of type {type_code}, which this program cannot read"
            raise ModelFormatError(msg)
        if size_bytes != math.prod(shape) * dtype.itemsize or size_bytes == 0:
            msg = (
                f"{self.path}: {name!r} is said to be {size_bytes} bytes of shape {shape}: damaged"
            )
            raise ModelFormatError(msg)
        variable = Variable(
            name=name,
            shape=shape,
            dtype=dtype,
            offset_bytes=self._file.tell(),
            size_bytes=size_bytes,
        )
        if variable.offset_bytes + size_bytes > self._size_bytes:
            msg = f"{self.path} is cut short: it ends within {name!r}"
            raise ModelFormatError(msg)
        self._file.seek(size_bytes, io.SEEK_CUR)
        return variable

    def _string(self) -> str:
        raw = self._exactly(self._number("<H"))
        if not raw.endswith(b"\0"):
            msg = f"{self.path} is not a CTranslate2 model, or is damaged"
            raise ModelFormatError(msg)
        return raw[:-1].decode("utf-8", errors="replace")

    def _number(self, layout: str) -> int:
        (value,) = struct.unpack(layout, self._exactly(struct.calcsize(layout)))
        return int(value)

    def _exactly(self, size_bytes: int) -> bytes:
        data = self._file.read(size_bytes)
        if len(data) != size_bytes:
            msg = f"{self.path} is cut short: it ends at byte {self._size_bytes}"
            raise ModelFormatError(msg)
        return data
