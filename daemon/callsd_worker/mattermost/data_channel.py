# SPDX-License-Identifier: Apache-2.0
"""Messages of the data channel, and session descriptions as they are sent: zlib over JSON."""

import zlib
from dataclasses import dataclass

import msgspec


LABEL = "calls-dc"

_DESCRIPTION = 3
_UINT8 = 0xCC

MAX_DESCRIPTION_BYTES = 1024**2
"""Of an offer; a call of hundreds fits in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A session description, as both ways of signalling carry it."""

    type: str
    sdp: str


def pack(description: Description) -> bytes:
    """Encode a description for either way."""
    return zlib.compress(msgspec.json.encode(description), 9)


def unpack(data: bytes) -> Description | None:
    """Decode what `pack` makes; None when it is something else, or too large."""
    decompressor = zlib.decompressobj()
    try:
        plain = decompressor.decompress(data, MAX_DESCRIPTION_BYTES)
        if not decompressor.eof:
            return None
        return msgspec.json.decode(plain, type=Description)
    except (zlib.error, ValueError):
        return None


def description_message(description: Description) -> bytes:
    """Encode a message that holds a description."""
    # The type is an explicit uint8: the short form of small numbers is not what the peer expects.
    return bytes((_UINT8, _DESCRIPTION)) + msgspec.msgpack.encode(pack(description))


def description_in(message: bytes | str) -> Description | None:
    """The description in a message; None for messages of all other types."""
    if not isinstance(message, bytes) or len(message) < 2:  # noqa: PLR2004 - no payload
        return None
    start = 1 if message[0] == _UINT8 else 0
    if message[start] != _DESCRIPTION:
        return None
    try:
        data = msgspec.msgpack.decode(memoryview(message)[start + 1 :], type=bytes)
    except (ValueError, IndexError):
        return None
    return unpack(data)
