# SPDX-License-Identifier: Apache-2.0
"""Files that are read back record by record: what to play, and what has arrived."""

import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from callsd.v1.caption_pb2 import WatchCaptionsResponse


_LENGTH = struct.Struct("<I")
_HEAD = struct.Struct("<Id")


def write_record(file: BinaryIO, record: bytes) -> None:
    """Append a record."""
    file.write(_LENGTH.pack(len(record)))
    file.write(record)


def read_records(path: Path) -> Sequence[memoryview]:
    """All records of a file, which stays where it is: nothing is read before it is needed."""
    if not path.stat().st_size:
        return []
    with path.open("rb") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    records, offset = [], 0
    while offset < len(view):
        begin = offset + _LENGTH.size
        offset = begin + _LENGTH.unpack_from(view, offset)[0]
        records.append(view[begin:offset])
    return records


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """What a viewer of a call was sent, and when, in seconds from the start of that call."""

    call: int
    seconds: float
    response: WatchCaptionsResponse

    def encode(self) -> bytes:
        """As a record."""
        return _HEAD.pack(self.call, self.seconds) + self.response.SerializeToString()

    @classmethod
    def decode(cls, record: memoryview) -> Self:
        """From a record."""
        call, seconds = _HEAD.unpack_from(record)
        response = WatchCaptionsResponse.FromString(bytes(record[_HEAD.size :]))
        return cls(call=call, seconds=seconds, response=response)


def read_arrivals(path: Path) -> Iterator[Arrival]:
    """All arrivals of a file, in the order they were written."""
    return map(Arrival.decode, read_records(path))
