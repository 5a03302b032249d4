# SPDX-License-Identifier: Apache-2.0
"""The file of a track: opened once, and read in parts where several files were put end to end."""

import itertools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


Source = Path | int
"""A file: its path, or a descriptor that is open for reading and stays so."""

MAX_PARTS = 10_000
"""More than two days of songs put end to end; what follows is one part. A file of nothing but
headers would be millions."""

_RIFF_UNKNOWN_BYTES = 0x7FFF_0000

_MAX_CHUNKS = 1000
"""Of a WAV file; it has some ten."""

_TAGS = (b"ID3", b"TAG", b"APETAGEX")
"""What players put behind a file."""

_MIN_BOX_BYTES = 8
MAX_BOXES = 1_000_000
"""Of MP4; two days in fragments of half a second have fewer. What is behind is one part."""

_HEAD_BYTES = {
    b"fLaC": 8,
    b"FLV\1": 13,
    b"TTA1": 14,
    b"riff": 16,  # Wave64
    b"caff": 20,
    b"\x30\x26\xb2\x75": 16,  # ASF
}
"""Length of what each file of this kind and form begins with, and sound never has."""

_OGG_HEAD_BYTES = 27
_OGG_IS_FIRST = 0x02
_SEARCH_BYTES = 64 * 1024


class MediaError(Exception):
    """A file that cannot be used; the message says why, where in it, and what to do.

    It does not name the file: the caller does, as uploads have no names.
    """


@dataclass(slots=True)
class Section:
    """A part of a file, for a library that reads files. Each has a position of its own."""

    descriptor: int
    start: int
    end: int
    position: int = 0

    @property
    def size_bytes(self) -> int:
        return self.end - self.start

    def read(self, size: int) -> bytes:
        size = max(0, min(size, self.size_bytes - self.position))
        data = os.pread(self.descriptor, size, self.start + self.position)
        self.position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size_bytes}[whence]
        self.position = max(0, base + offset)
        return self.position

    def tell(self) -> int:
        return self.position


class MediaFile:
    """A regular file that is open for reading.

    It is opened once, so that the file that is checked is the one that is decoded.

    Raises:
        MediaError: it cannot be opened, is empty, or is no regular file.
    """

    def __init__(self, source: Source) -> None:
        self._is_ours = not isinstance(source, int)
        try:
            # Opening a pipe without a writer would block.
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            self.descriptor = source if isinstance(source, int) else os.open(source, flags)
        except OSError as error:
            raise MediaError(
                f"cannot be read ({error.strerror}); check the path and its permissions"
            ) from None
        except ValueError:
            raise MediaError("the path contains a NUL byte; send a plain file path") from None
        status = os.fstat(self.descriptor)
        self.size_bytes = status.st_size
        if stat.S_ISREG(status.st_mode) and status.st_size:
            return
        self.close()
        if stat.S_ISREG(status.st_mode):
            raise MediaError("empty (0 bytes); send the file again")
        raise MediaError("not a regular file; give the path of a media file")

    def close(self) -> None:
        if self._is_ours:
            os.close(self.descriptor)

    def parts(self) -> list[Section]:
        """The files of which this one was put together, in order; mostly it is one itself.

        The library takes no notice of where a chained Ogg file (RFC 3533, section 4) goes on in
        another form, and gives up there; of most other files it reads the first.
        """
        links = itertools.chain(
            _ogg_links(self.descriptor, self.size_bytes),
            _chunk_links(self.descriptor),
            _mp4_links(self.descriptor, self.size_bytes),
            _head_links(self.descriptor, self.size_bytes),
        )
        starts = [0, *itertools.islice(links, MAX_PARTS - 1), self.size_bytes]
        return [Section(self.descriptor, start, end) for start, end in itertools.pairwise(starts)]

    def riff_missing_bytes(self) -> int:
        """How many bytes a WAV file lacks by its own header, which the library does not report."""
        head = os.pread(self.descriptor, 8, 0)
        claimed_bytes = int.from_bytes(head[4:], "little")
        # Writers that do not know the length in advance write zero or (nearly) all ones.
        if head[:4] != b"RIFF" or not 0 < claimed_bytes < _RIFF_UNKNOWN_BYTES:
            return 0
        return max(0, claimed_bytes + 8 - self.size_bytes)

    def riff_surplus_bytes(self) -> int:
        """How many bytes are behind all that the last WAV file's headers name: nobody reads them.

        Padding and tags are none; neither is what is behind sound of unknown length, as that goes
        on to the end of the file.
        """
        start = max(itertools.islice(_chunk_links(self.descriptor), MAX_PARTS - 1), default=0)
        head = os.pread(self.descriptor, 12, start)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return 0
        at = start + 12
        for _ in range(_MAX_CHUNKS):
            rest = os.pread(self.descriptor, _SEARCH_BYTES, at)
            name, length = rest[:4], int.from_bytes(rest[4:8], "little")
            if name == b"data" and not 0 < length < _RIFF_UNKNOWN_BYTES:
                return 0
            if rest.startswith(_TAGS) or not any(rest):
                return 0
            if not name.isascii() or not name.decode().isprintable():
                break
            at += 8 + length + length % 2
        return max(0, self.size_bytes - at)


def _chunk_links(descriptor: int) -> Iterator[int]:
    """Where WAV or AIFF files begin, but for the first."""
    at = 0
    while True:
        head = os.pread(descriptor, 12, at)
        match head[:4], head[8:]:
            case b"RIFF", b"WAVE":
                claimed_bytes = int.from_bytes(head[4:8], "little")
            case b"FORM", b"AIFF" | b"AIFC":
                claimed_bytes = int.from_bytes(head[4:8], "big")
            case _:
                return
        if at:
            yield at
        if not 0 < claimed_bytes < _RIFF_UNKNOWN_BYTES:
            return
        at += 8 + claimed_bytes + claimed_bytes % 2


def _mp4_links(descriptor: int, size_bytes: int) -> Iterator[int]:
    """Where MP4 files begin, but for the first: at boxes of their type (ISO 14496-12)."""
    at = 0
    for _ in range(MAX_BOXES):
        head = os.pread(descriptor, 16, at)
        if head[4:8] == b"ftyp":
            if at:
                yield at
        elif not at:
            return
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if length < _MIN_BOX_BYTES or at + length >= size_bytes:
            return
        at += length


def _head_links(descriptor: int, size_bytes: int) -> Iterator[int]:
    """Where files begin that can be told by their first bytes alone, but for the first."""
    magic = os.pread(descriptor, 4, 0)
    head = os.pread(descriptor, _HEAD_BYTES.get(magic, 0), 0)
    at = len(head)
    while head and at < size_bytes:
        at = _next(descriptor, head, at, size_bytes)
        if at < size_bytes:
            yield at
        at += len(head)


def _ogg_links(descriptor: int, size_bytes: int) -> Iterator[int]:
    """Where links of an Ogg file begin, but for the first: at the first pages of new streams."""
    at = 0
    is_beginning = True
    while at < size_bytes:
        head = os.pread(descriptor, _OGG_HEAD_BYTES + 255, at)
        if len(head) < _OGG_HEAD_BYTES or head[:4] != b"OggS":
            if not at:
                return
            at = _next(descriptor, b"OggS", at + 1, size_bytes)
            continue
        is_first = bool(head[5] & _OGG_IS_FIRST)
        if is_first and not is_beginning:
            yield at
        is_beginning = is_first
        sizes = head[_OGG_HEAD_BYTES : _OGG_HEAD_BYTES + head[26]]
        at += _OGG_HEAD_BYTES + len(sizes) + sum(sizes)


def _next(descriptor: int, head: bytes, at: int, size_bytes: int) -> int:
    """Where these bytes are next; the end of the file if nowhere."""
    while at < size_bytes:
        found = os.pread(descriptor, _SEARCH_BYTES, at).find(head)
        if found >= 0:
            return at + found
        at += _SEARCH_BYTES - len(head) + 1
    return size_bytes
