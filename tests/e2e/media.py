# SPDX-License-Identifier: Apache-2.0
"""Files that are not what they should be."""

import math
import struct
from collections.abc import Callable
from pathlib import Path

from tests.helpers.daemon import SAMPLE_CALL


GOOD = SAMPLE_CALL / "joe.ogg"

RATE_HZ = 16_000

PCM, FLOAT = 1, 3


def wav(
    path: Path,
    data: bytes,
    *,
    code: int = PCM,
    channels: int = 1,
    rate_hz: int = RATE_HZ,
    bits: int = 16,
    data_bytes: int | None = None,
) -> Path:
    """Write a WAV file that says of itself what it is told to say."""
    frame = channels * bits // 8
    size = len(data) if data_bytes is None else data_bytes
    head = struct.pack("<HHIIHH", code, channels, rate_hz, rate_hz * frame, frame, bits)
    riff = b"RIFF" + struct.pack("<I", min(36 + size, 2**32 - 1)) + b"WAVE"
    chunks = b"fmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", size)
    path.write_bytes(riff + chunks + data)
    return path


def tone(seconds: float) -> bytes:
    """A sound that nobody takes for speech."""
    samples = (int(8000 * math.sin(at / 7)) for at in range(int(seconds * RATE_HZ)))
    return b"".join(struct.pack("<h", sample) for sample in samples)


def silence(path: Path, hours: float) -> Path:
    """Silence, of which the disk holds nothing."""
    size = int(hours * 3600 * RATE_HZ * 2)
    wav(path, b"", data_bytes=size)
    with path.open("ab") as file:
        file.truncate(path.stat().st_size + size)
    return path


def _png(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40)


def _scrambled(path: Path) -> None:
    content = bytearray(GOOD.read_bytes())
    content[64:] = bytes(byte ^ 0x5A for byte in content[64:])
    path.write_bytes(content)


UNUSABLE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("This is no sound.\n" * 100),
    "picture": _png,
    "playlist": lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"),
    "concatenation": lambda path: path.write_text("ffconcat version 1.0\nfile /etc/passwd\n"),
    "scrambled": _scrambled,
    "header only": lambda path: path.write_bytes(GOOD.read_bytes()[:40]),
    "no samples": lambda path: wav(path, b""),
    "0 Hz": lambda path: wav(path, tone(1), rate_hz=0),
    "64 channels": lambda path: wav(path, tone(1) * 64, channels=64),
    "all NaN": lambda path: wav(path, struct.pack("<f", math.nan) * RATE_HZ, code=FLOAT, bits=32),
}
"""By kind: what writes a file of which nothing can be used."""
