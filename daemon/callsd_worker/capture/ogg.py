# SPDX-License-Identifier: Apache-2.0
"""Writes Opus packets at their places into an Ogg file (RFC 3533, RFC 7845)."""

import struct
import zlib
from enum import IntFlag
from typing import BinaryIO

from callsd_ipc.opus import OPUS_RATE_HZ
from callsd_worker.capture.timeline import STEP_SAMPLES, PlacedPacket
from callsd_worker.media.opus_packet import is_stereo


PRE_SKIP_SAMPLES = 312
"""Sound leaves Opus so much later than it went in: 6.5 ms, as encoders of calls are set up. What
players skip at the beginning of a file; so sound is where the microphone had it."""

PAGE_SAMPLES = OPUS_RATE_HZ
"""Players seek to pages: a second is close enough."""

VENDOR = b"callsd"

_MAX_SEGMENTS = 255
_SEGMENT_BYTES = 255

_PAGE = struct.Struct("<4sBBqIIIB")
_CHECKSUM_AT = 22
_OPUS_HEAD = struct.Struct("<8sBBHIhB")


class _Flag(IntFlag):
    NONE = 0
    BEGIN = 2
    END = 4


# Bits of each byte in reverse. Ogg's checksum is that of zlib with all bits in the other order, and
# no inversions: this way it is computed in C.
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_ONES = 0xFFFF_FFFF


def page_checksum(page: bytes) -> int:
    """Of a page whose own checksum is 0, as it stands in the file."""
    found = zlib.crc32(page.translate(_REVERSED), _ONES) ^ _ONES
    return int.from_bytes(found.to_bytes(4, "little").translate(_REVERSED), "big")


# A frame of CELT that says it is silent, fullband (RFC 6716, 4.3: the first bit decoded).
_SILENT_FRAME = b"\xff\xfe"
_STEREO, _COUNTED = 0b100, 0b11
_LENGTHS = ((31, 960), (30, 480), (29, 240), (28, 120))
"""Configurations of fullband CELT, and length of a frame of each."""
_LONG_FRAMES = 6
_LONG_SAMPLES = _LONG_FRAMES * _LENGTHS[0][1]
"""120 ms, the longest packet."""


def _silent_packet(samples: int, *, stereo: bool) -> tuple[bytes, int]:
    """A packet of silence as long as can be, and its length. `samples` >= `STEP_SAMPLES`."""
    mark = _STEREO if stereo else 0
    if samples >= _LONG_SAMPLES:
        head = bytes((_LENGTHS[0][0] << 3 | mark | _COUNTED, _LONG_FRAMES))
        return head + _SILENT_FRAME * _LONG_FRAMES, _LONG_SAMPLES
    config, length = next(found for found in _LENGTHS if found[1] <= samples)
    return bytes((config << 3 | mark,)) + _SILENT_FRAME, length


class OggOpusWriter:
    """Writes one track, from its first packet on; holes become silence.

    Each hole is rounded to 2.5 ms, and the next one makes up for it.
    """

    def __init__(self, file: BinaryIO, *, serial: int) -> None:
        self._file = file
        self._serial = serial & _ONES
        self._pages = 0
        self._granule = 0
        """Samples up to the last packet."""
        self._page_granule = 0
        """Samples up to the first packet of the page that is being filled."""
        self._parts: list[bytes] = []
        self._lacing = bytearray()
        self._first: int | None = None
        self._is_stereo = False

    @property
    def samples(self) -> int:
        """Length of the track so far, silence included."""
        return self._granule

    def add(self, packet: PlacedPacket) -> None:
        """Add the next packet; raises OSError."""
        if self._first is None:
            self._first = packet.position
            self._is_stereo = is_stereo(packet.payload)
            self._write_head()
        self._fill(packet.position - self._first - self._granule)
        self._append(packet.payload, packet.samples)

    def close(self) -> None:
        """Write what is left. Without any packet there is no file to be. Raises OSError."""
        if self._first is not None:
            self._write_page(_Flag.END)

    def _fill(self, hole_samples: int) -> None:
        left = (hole_samples + STEP_SAMPLES // 2) // STEP_SAMPLES * STEP_SAMPLES
        while left > 0:
            payload, samples = _silent_packet(left, stereo=self._is_stereo)
            self._append(payload, samples)
            left -= samples

    def _append(self, payload: bytes, samples: int) -> None:
        whole, rest = divmod(len(payload), _SEGMENT_BYTES)
        is_full = (
            self._granule - self._page_granule >= PAGE_SAMPLES
            or len(self._lacing) + whole + 1 > _MAX_SEGMENTS
        )
        if is_full:
            self._write_page()
        self._lacing += b"\xff" * whole
        self._lacing.append(rest)
        self._parts.append(payload)
        self._granule += samples

    def _write_head(self) -> None:
        channels = 2 if self._is_stereo else 1
        self._parts.append(
            _OPUS_HEAD.pack(b"OpusHead", 1, channels, PRE_SKIP_SAMPLES, OPUS_RATE_HZ, 0, 0)
        )
        self._lacing.append(len(self._parts[0]))
        self._write_page(_Flag.BEGIN)
        tags = b"OpusTags" + struct.pack("<I", len(VENDOR)) + VENDOR + struct.pack("<I", 0)
        self._parts.append(tags)
        self._lacing.append(len(tags))
        self._write_page()

    def _write_page(self, flag: _Flag = _Flag.NONE) -> None:
        head = _PAGE.pack(
            b"OggS", 0, flag, self._granule, self._serial, self._pages, 0, len(self._lacing)
        )
        page = bytearray(b"".join((head, self._lacing, *self._parts)))
        struct.pack_into("<I", page, _CHECKSUM_AT, page_checksum(bytes(page)))
        self._file.write(page)
        self._pages += 1
        self._page_granule = self._granule
        self._parts.clear()
        self._lacing.clear()
