# SPDX-License-Identifier: Apache-2.0
"""Files with more in them than sound: what that costs, measured in a process of its own."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from callsd_worker.media.container import MAX_STREAMS
from callsd_worker.media.decode import AudioStream, MediaError
from callsd_worker.media.files import MAX_PARTS, MediaFile


SIDE_PIXELS = 15_000
"""Of the picture: 2 MB of file, 1.8 GB of memory."""

MANY_STREAMS = 900
"""As many as the library writes without a word."""

MAX_EXTRA_BYTES = 150 * 1024**2
MAX_SECONDS = 1.0

MEASURE = """
import json, resource, sys, time
from pathlib import Path
from callsd_worker.media.decode import AudioStream, MediaError
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, began, samples, refusal = peak(), time.process_time(), 0, ""
try:
    with AudioStream(Path(sys.argv[1])) as stream:
        samples = sum(block.samples.size for block in stream.blocks())
except MediaError as error:
    refusal = str(error)
print(json.dumps([samples, refusal, peak() - before, time.process_time() - began]))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What became of a file, and what it took."""

    samples: int
    refusal: str
    extra_bytes: int
    seconds: float

    @property
    def is_small(self) -> bool:
        """Whether nobody else would have noticed."""
        return self.extra_bytes < MAX_EXTRA_BYTES and self.seconds < MAX_SECONDS


def measure(path: Path) -> Cost:
    """Decode a file in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], check=True, capture_output=True, timeout=60
    )
    samples, refusal, extra_bytes, seconds = json.loads(done.stdout)
    return Cost(samples=samples, refusal=refusal, extra_bytes=extra_bytes, seconds=seconds)


def png(side_pixels: int) -> bytes:
    """A PNG file with the largest ratio of pixels to bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    # All pixels are zero. So that this takes no time, a row is packed once and repeated: what a
    # full flush has ended stands for itself, and the checksum of zeros is known.
    length = side_pixels * (1 + side_pixels * 8)
    packer = zlib.compressobj(9, wbits=-15)
    row = packer.compress(bytes(1 + side_pixels * 8)) + packer.flush(zlib.Z_FULL_FLUSH)
    data = b"\x78\xda" + row * side_pixels + b"\3\0" + struct.pack(">HH", length % 65_521, 1)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side_pixels, side_pixels, 16, 6, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def picture() -> bytes:
    """The picture."""
    return png(SIDE_PIXELS)


def add_sound(container: av.container.OutputContainer, codec: str) -> Callable[[], None]:
    """A stream of two seconds of sound, which the returned function writes."""
    stream = container.add_stream(codec, rate=48_000, layout="mono")
    assert isinstance(stream, av.AudioStream)

    def write() -> None:
        size = stream.codec_context.frame_size or 960
        hum = np.float32(0.3) * np.sin(np.arange(96_000, dtype=np.float32) / 17)
        for at in range(0, hum.size - size, size):
            frame = av.AudioFrame.from_ndarray(
                hum[None, at : at + size], format="flt", layout="mono"
            )
            frame.sample_rate, frame.pts = 48_000, at
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

    return write


def plain(path: Path, codec: str) -> bytes:
    """The bytes of a file with sound only."""
    with av.open(str(path), "w") as container:
        add_sound(container, codec)()
    return path.read_bytes()


def mp3_with(picture: bytes, path: Path) -> None:
    """An ID3 tag with the picture as a cover, and sound."""

    def synchsafe(number: int) -> bytes:
        return bytes(number >> shift & 127 for shift in (21, 14, 7, 0))

    cover = b"\0image/png\0\3\0" + picture
    frame = b"APIC" + synchsafe(len(cover)) + b"\0\0" + cover
    path.write_bytes(b"ID3\4\0\0" + synchsafe(len(frame)) + frame + plain(path, "mp3"))


def flac_with(picture: bytes, path: Path) -> None:
    """A PICTURE block behind the first block, and sound."""
    sound = plain(path, "flac")
    block = struct.pack(">II", 3, 9) + b"image/png" + bytes(4)
    block += struct.pack(">5I", SIDE_PIXELS, SIDE_PIXELS, 64, 0, len(picture)) + picture
    head = sound[:4] + bytes([sound[4] & 127]) + sound[5:42]
    path.write_bytes(head + b"\6" + len(block).to_bytes(3, "big") + block + sound[42:])


def mkv_with(picture: bytes, path: Path) -> None:
    """An attachment that is a cover, and sound."""
    with av.open(str(path), "w") as container:
        write_sound = add_sound(container, "libopus")
        container.add_attachment("cover.png", "image/png", picture)
        write_sound()


def video_with(picture: bytes, path: Path, *, codec: str = "aac") -> None:
    """A video track whose one frame is the picture, and sound."""
    with (
        # The header says less than the picture does: it is the picture that would be decoded.
        av.open(io.BytesIO(png(64)), format="png_pipe") as small,
        av.open(str(path), "w") as container,
    ):
        write_sound = add_sound(container, codec)
        video = container.add_stream_from_template(small.streams.video[0], opaque=True)
        packet = av.Packet(picture)
        packet.stream, packet.pts, packet.dts = video, 0, 0
        packet.time_base, packet.is_keyframe = Fraction(1), True
        container.mux(packet)
        write_sound()


class TestPictures:
    """A picture of a few bytes and many pixels beside the sound."""

    @pytest.mark.parametrize(
        ("name", "write"),
        [
            ("a.mp3", mp3_with),
            ("a.flac", flac_with),
            ("a.mkv", mkv_with),
            ("a.mov", video_with),
            ("a.avi", lambda picture, path: video_with(picture, path, codec="pcm_s16le")),
        ],
        ids=["mp3", "flac", "mkv", "mov", "avi"],
    )
    def test_it_is_not_looked_at(
        self, name: str, write: Callable[[bytes, Path], None], picture: bytes, tmp_path: Path
    ) -> None:
        """The sound is there, and nothing is spent on the picture."""
        write(picture, tmp_path / name)

        cost = measure(tmp_path / name)

        assert 1.8 < cost.samples / 16_000 < 2.2, cost
        assert cost.is_small, cost


class TestVideo:
    """A recording of a call with video."""

    @pytest.mark.parametrize(
        ("name", "sound", "picture"),
        [("a.mp4", "aac", "libx264"), ("a.webm", "libopus", "libvpx"), ("a.ts", "aac", "libx264")],
        ids=["mp4", "webm", "ts"],
    )
    def test_its_sound_is_read(self, name: str, sound: str, picture: str, tmp_path: Path) -> None:
        """All of the sound is there, in its place, and the video is not decoded."""
        with av.open(str(tmp_path / name), "w") as container:
            write_sound = add_sound(container, sound)
            video = container.add_stream(picture, rate=25)
            assert isinstance(video, av.VideoStream)
            video.width, video.height, video.pix_fmt = 320, 180, "yuv420p"
            for number in range(50):
                frame = av.VideoFrame(320, 180, "yuv420p")
                frame.pts = number
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
            write_sound()

        cost = measure(tmp_path / name)

        assert 1.8 < cost.samples / 16_000 < 2.2, cost
        assert cost.is_small, cost


class TestStreams:
    """Files of hundreds of streams."""

    @pytest.mark.parametrize(("name", "is_refused"), [("a.mov", True), ("a.mkv", False)])
    def test_a_file_of_many_streams_costs_nothing(
        self, name: str, tmp_path: Path, *, is_refused: bool
    ) -> None:
        """Only so many are looked at; a format that insists on all of them is told so."""
        with av.open(str(tmp_path / name), "w") as container:
            streams = [
                container.add_stream("pcm_s16le", rate=8_000, layout="mono")
                for _ in range(MANY_STREAMS)
            ]
            container.start_encoding()
            for stream in streams:
                assert isinstance(stream, av.AudioStream)
                frame = av.AudioFrame.from_ndarray(
                    np.zeros((1, 800), np.int16), format="s16", layout="mono"
                )
                frame.sample_rate, frame.pts = 8_000, 0
                container.mux(stream.encode(frame))

        cost = measure(tmp_path / name)

        assert (f"more than {MAX_STREAMS} streams" in cost.refusal) is is_refused, cost
        assert (cost.samples == 0) is is_refused, cost
        assert cost.is_small, cost


@pytest.mark.parametrize(
    "header",
    [
        b"RIFF\4\0\0\0WAVE",
        b"".join(b"OggS\0" + flag + b"\0" * 21 for flag in (b"\2", b"\0")),
    ],
    ids=["wav", "ogg"],
)
def test_a_file_of_headers_costs_little(
    header: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many recordings the rest is one part, and is not read to find any more."""
    reads = 0

    def counted(*arguments: int) -> bytes:
        nonlocal reads
        reads += 1
        return pread(*arguments)

    path = tmp_path / "a"
    path.write_bytes(header * 10 * MAX_PARTS)
    file = MediaFile(path)
    pread = os.pread
    monkeypatch.setattr(os, "pread", counted)

    parts = file.parts()

    file.close()
    assert len(parts) == MAX_PARTS
    assert (parts[0].start, parts[-1].end) == (0, path.stat().st_size)
    assert reads <= 3 * MAX_PARTS


class TestErrors:
    """Whatever a file makes a library raise."""

    @pytest.mark.parametrize(
        "error", [ZeroDivisionError("1/0"), OSError(5, "I/O error"), KeyError()]
    )
    @pytest.mark.parametrize("place", ["decode.SoundTrack", "mixing.Mixer.feed"])
    def test_it_is_the_files_error(
        self, error: Exception, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is told of that track, and is no bug that ends the whole job."""

        def fail(*_: object, **__: object) -> None:
            raise error

        path = tmp_path / "a.flac"
        plain(path, "flac")
        monkeypatch.setattr(f"callsd_worker.media.{place}", fail)

        with pytest.raises(MediaError, match="export the track again"), AudioStream(path) as stream:
            list(stream.blocks())

    def test_our_own_want_of_memory_is_not_the_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A job without memory has no memory; no file is blamed."""

        def fail(*_: object, **__: object) -> None:
            raise MemoryError

        plain(tmp_path / "a.flac", "flac")
        monkeypatch.setattr("callsd_worker.media.mixing.Mixer.feed", fail)

        with pytest.raises(MemoryError), AudioStream(tmp_path / "a.flac") as stream:
            list(stream.blocks())
