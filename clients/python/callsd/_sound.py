# SPDX-License-Identifier: Apache-2.0
"""Sound on its way into chunks: whole samples, on the grid that the server counts by."""

from collections.abc import Iterator
from dataclasses import dataclass

import grpc

from callsd._errors import InvalidRequestError
from callsd.v1.caption_pb2 import AUDIO_ENCODING_OPUS, AudioEncoding


SAMPLE_RATE_HZ = 16_000
"""Positions are samples at this rate, however the sound is coded."""

MAX_CHUNK_BYTES = 32 << 10
"""The most that the API takes in one chunk."""

_SAMPLE_BYTES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """Some sound of one speaker."""

    speaker: str
    data: bytes
    """s16le: whole samples, of any length; Opus: one packet."""
    start_offset_seconds: float
    """When it was made, from the start of the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Sound of at most one chunk's size, and the samples that it lasts."""

    speaker: str
    data: bytes
    start_sample: int
    samples: int


def pieces(sound: Sound, encoding: AudioEncoding.ValueType) -> Iterator[Piece]:
    """Cut sound to the size of chunks.

    Raises:
        InvalidRequestError: It is not what its encoding says.
    """
    start_sample = round(sound.start_offset_seconds * SAMPLE_RATE_HZ)
    if encoding == AUDIO_ENCODING_OPUS:
        yield Piece(
            speaker=sound.speaker,
            data=sound.data,
            start_sample=start_sample,
            samples=_opus_samples(sound.data),
        )
        return
    if len(sound.data) % _SAMPLE_BYTES:
        raise _invalid(f"{len(sound.data)} bytes of s16le end within a sample")
    for offset in range(0, len(sound.data), MAX_CHUNK_BYTES):
        data = sound.data[offset : offset + MAX_CHUNK_BYTES]
        yield Piece(
            speaker=sound.speaker,
            data=data,
            start_sample=start_sample + offset // _SAMPLE_BYTES,
            samples=len(data) // _SAMPLE_BYTES,
        )


def _opus_samples(packet: bytes) -> int:
    """How long an Opus packet lasts. Source: RFC 6716, section 3.1."""
    if not packet or (packet[0] & 3 == 3 and len(packet) < 2):  # noqa: PLR2004 - the RFC's layout
        raise _invalid("an empty or cut Opus packet")
    mode, code = packet[0] >> 3, packet[0] & 3
    if mode < 12:  # noqa: PLR2004 - SILK
        milliseconds = (10.0, 20.0, 40.0, 60.0)[mode & 3]
    elif mode < 16:  # noqa: PLR2004 - hybrid
        milliseconds = (10.0, 20.0)[mode & 1]
    else:
        milliseconds = (2.5, 5.0, 10.0, 20.0)[mode & 3]
    frames = (1, 2, 2)[code] if code < 3 else packet[1] & 0x3F  # noqa: PLR2004 - the RFC's layout
    if not frames:
        raise _invalid("an Opus packet without a frame")
    return round(frames * milliseconds * SAMPLE_RATE_HZ / 1000)


def _invalid(message: str) -> InvalidRequestError:
    return InvalidRequestError(
        message, code=grpc.StatusCode.INVALID_ARGUMENT, reason="FIELD_INVALID"
    )
