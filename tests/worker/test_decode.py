# SPDX-License-Identifier: Apache-2.0

import itertools
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from callsd_worker.media.decode import (
    BLOCK_SECONDS,
    SAMPLE_RATE_HZ,
    AudioStream,
    MediaError,
)

from .conftest import SAMPLE_CALL, Samples, decode


WriteWav = Callable[..., Path]


def tone(seconds: float, *, hz: float = 440.0, rate_hz: int = SAMPLE_RATE_HZ) -> Samples:
    """A sine."""
    moments = np.arange(int(seconds * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * hz * moments)).astype(np.float32)


def wav_header(
    *, rate_hz: int, channels: int, data_bytes: int, code: int = 1, bits: int = 16
) -> bytes:
    """The 44 bytes before the samples."""
    frame_bytes = channels * bits // 8
    return (
        b"RIFF"
        + struct.pack("<I", 36 + data_bytes)
        + b"WAVEfmt "
        + struct.pack(
            "<IHHIIHH", 16, code, channels, rate_hz, rate_hz * frame_bytes, frame_bytes, bits
        )
        + b"data"
        + struct.pack("<I", data_bytes)
    )


def encode(path: Path, samples: Samples, *, codec: str, rate_hz: int, layout: str = "mono") -> None:
    """Write samples with any codec."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        assert isinstance(stream, av.AudioStream)
        size = 960
        for first in range(0, samples.size - size, size):
            data = np.repeat(samples[first : first + size], 2 if layout == "stereo" else 1)
            frame = av.AudioFrame.from_ndarray(data[None], format="flt", layout=layout)
            frame.sample_rate = rate_hz
            frame.pts = first
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)


class TestFormats:
    """What can be read."""

    @pytest.mark.parametrize(
        ("name", "codec", "rate_hz", "layout"),
        [
            ("a.wav", "pcm_s16le", 44100, "stereo"),
            ("a.flac", "flac", 48000, "mono"),
            ("a.ogg", "libopus", 48000, "mono"),
            ("a.mp4", "aac", 48000, "stereo"),
            ("a.mkv", "libopus", 48000, "stereo"),
        ],
        ids=str,
    )
    def test_any_container_becomes_16_khz_mono(
        self, tmp_path: Path, name: str, codec: str, rate_hz: int, layout: str
    ) -> None:
        """Length and pitch survive whatever the container, codec, rate and channels."""
        encode(
            tmp_path / name, tone(3, rate_hz=rate_hz), codec=codec, rate_hz=rate_hz, layout=layout
        )

        samples = decode(tmp_path / name)

        assert samples.dtype == np.float32
        assert abs(samples.size / SAMPLE_RATE_HZ - 3) < 0.1
        spectrum = np.abs(np.fft.rfft(samples))
        assert abs(np.argmax(spectrum) * SAMPLE_RATE_HZ / samples.size - 440) < 2

    def test_blocks_are_small_and_in_order(self, write_wav: WriteWav) -> None:
        """A long file comes in bounded blocks that follow one another."""
        with AudioStream(write_wav(tone(35))) as stream:
            blocks = list(stream.blocks())

        assert max(block.samples.size for block in blocks) < (BLOCK_SECONDS + 1) * SAMPLE_RATE_HZ
        assert blocks[-1].start_sample + blocks[-1].samples.size == 35 * SAMPLE_RATE_HZ
        for left, right in itertools.pairwise(blocks):
            assert right.start_sample == left.start_sample + left.samples.size

    def test_a_hole_in_the_clock_stays_a_hole(self, tmp_path: Path) -> None:
        """Sound after packets that were never sent keeps its place, and silence is not made up."""
        path = tmp_path / "holes.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libopus", rate=48000, layout="mono")
            samples = tone(4, rate_hz=48000)
            for first in range(0, samples.size, 960):
                frame = av.AudioFrame.from_ndarray(
                    samples[None, first : first + 960], format="flt", layout="mono"
                )
                frame.sample_rate = 48000
                frame.pts = first
                for packet in stream.encode(frame):
                    late_seconds = 60 if first >= samples.size // 2 else 0
                    packet.pts = (packet.pts or 0) + int(late_seconds / packet.time_base)
                    packet.dts = packet.pts
                    container.mux(packet)

        with AudioStream(path) as track:
            blocks = list(track.blocks())

        assert len(blocks) == 2
        assert abs(blocks[1].start_sample / SAMPLE_RATE_HZ - 62) < 0.1
        assert sum(block.samples.size for block in blocks) < 4.2 * SAMPLE_RATE_HZ

    def test_rate_may_change_in_mid_file(self, tmp_path: Path) -> None:
        """Two recordings put end to end are one track, though their form differs."""
        encode(tmp_path / "a.ogg", tone(3, rate_hz=48000), codec="flac", rate_hz=48000)
        encode(tmp_path / "b.ogg", tone(3, rate_hz=24000), codec="flac", rate_hz=24000)
        chained = (tmp_path / "a.ogg").read_bytes() + (tmp_path / "b.ogg").read_bytes()
        (tmp_path / "both.ogg").write_bytes(chained)

        samples = decode(tmp_path / "both.ogg")

        assert abs(samples.size / SAMPLE_RATE_HZ - 6) < 0.3


def test_descriptor(write_wav: WriteWav) -> None:
    """A descriptor is read from its file's beginning, as often as one likes, and stays open."""
    path = write_wav(tone(1.0))
    descriptor = os.open(path, os.O_RDONLY)
    path.unlink()
    os.lseek(descriptor, 1000, os.SEEK_SET)
    for _ in range(2):
        with AudioStream(descriptor) as stream:
            assert sum(block.samples.size for block in stream.blocks()) == SAMPLE_RATE_HZ
    os.close(descriptor)


WORDS = np.random.default_rng(1).integers(-9000, 9000, 20 * 16_000).astype("<i2").tobytes()
"""20 s of sound."""


class TestBadInput:
    """What is refused, and how."""

    def refusal(self, path: Path) -> str:
        with pytest.raises(MediaError) as caught, AudioStream(path) as stream:
            for _ in stream.blocks():
                pass
        return str(caught.value)

    def test_missing(self, tmp_path: Path) -> None:
        """A path that is not there is refused, with what to check."""
        assert "cannot be read (No such file or directory); check the path" in self.refusal(
            tmp_path / "missing.wav"
        )

    def test_no_file(self, tmp_path: Path) -> None:
        """Only regular files are opened, nobody is waited for, and nothing stays open."""
        os.mkfifo(tmp_path / "pipe.wav")
        before = list(Path("/proc/self/fd").iterdir())
        for path in (tmp_path, tmp_path / "pipe.wav", Path("/dev/zero")):
            assert "not a regular file" in self.refusal(path)

        assert list(Path("/proc/self/fd").iterdir()) == before

    def test_descriptors_of_no_file(self, tmp_path: Path) -> None:
        """A descriptor of anything else is refused as well, and left to its owner."""
        (tmp_path / "a.wav").touch()
        for path, why in ((tmp_path, "not a regular file"), (tmp_path / "a.wav", "empty")):
            descriptor = os.open(path, os.O_RDONLY)
            with pytest.raises(MediaError, match=why):
                AudioStream(descriptor)
            os.close(descriptor)

    def test_nul_byte(self) -> None:
        """A NUL byte in the path is an input error, not a crash."""
        assert "NUL" in self.refusal(Path("a\0b.wav"))

    def test_empty(self, tmp_path: Path) -> None:
        """No bytes at all."""
        (tmp_path / "a.wav").write_bytes(b"")

        assert "empty (0 bytes)" in self.refusal(tmp_path / "a.wav")

    @pytest.mark.parametrize(
        "content",
        [
            b"just some text, not sound\n" * 100,
            bytes(range(256)) * 64,
            b"#EXTM3U\nfile:///etc/passwd\n",
        ],
        ids=["text", "binary", "playlist"],
    )
    def test_foreign(self, tmp_path: Path, content: bytes) -> None:
        """What is no media file is refused, playlists (which name other files) included."""
        (tmp_path / "a.ogg").write_bytes(content)

        assert "not a media file" in self.refusal(tmp_path / "a.ogg")

    def test_zero_hertz(self, tmp_path: Path) -> None:
        """A header with 0 Hz is refused."""
        header = wav_header(rate_hz=0, channels=1, data_bytes=3200)
        (tmp_path / "a.wav").write_bytes(header + bytes(3200))

        assert "not a media file that can be read" in self.refusal(tmp_path / "a.wav")

    def test_64_channels(self, tmp_path: Path) -> None:
        """More channels than a speaker's track can have are refused with the figure."""
        header = wav_header(rate_hz=16000, channels=64, data_bytes=128 * 1000)
        (tmp_path / "a.wav").write_bytes(header + bytes(128 * 1000))

        assert "64 channels" in self.refusal(tmp_path / "a.wav")

    def test_header_without_sound(self, tmp_path: Path) -> None:
        """A file cut right after its header has nothing to decode and says so."""
        (tmp_path / "a.wav").write_bytes(wav_header(rate_hz=16000, channels=1, data_bytes=32000))

        assert "no sound could be decoded" in self.refusal(tmp_path / "a.wav")

    @pytest.mark.parametrize(
        ("riff_bytes", "data_bytes", "behind", "expected"),
        [
            (64_036, 64_000, b"", "576000 bytes before"),  # written when 2 s were there
            (0, 64_000, b"", "576000 bytes before"),
            (36, 0, b"", ""),  # written before anything was there: all of it is read
            (36, 0xFFFF_FFFF, b"", ""),
            (640_036, 640_000, b"ID3\4" + bytes(range(256)) * 40, ""),
            (640_036, 640_000, b"LIST" + struct.pack("<I", 9000) + bytes(range(1, 251)) * 36, ""),
            (640_036, 640_000, bytes(100_000), ""),  # padding
        ],
    )
    def test_more_than_the_header_says_is_told(
        self, tmp_path: Path, riff_bytes: int, data_bytes: int, behind: bytes, expected: str
    ) -> None:
        """What a WAV file has behind its own end is not read, and not passed over in silence."""
        header = bytearray(wav_header(rate_hz=16_000, channels=1, data_bytes=0))
        header[4:8], header[40:] = struct.pack("<I", riff_bytes), struct.pack("<I", data_bytes)
        (tmp_path / "a.wav").write_bytes(header + WORDS + behind)

        with AudioStream(tmp_path / "a.wav") as stream:
            list(stream.blocks())
            told = [text for code, text in stream.notices if code == "INPUT_DAMAGED"]
            assert [expected in text for text in told] == [True] * bool(expected)
            assert stream.position_seconds == pytest.approx(2 if expected else 20, abs=0.1)

    def test_big_endian_wav_is_refused(self, tmp_path: Path) -> None:
        """Its samples would be heard as noise; it is said what to do."""
        header = wav_header(rate_hz=16_000, channels=1, data_bytes=32_000)
        (tmp_path / "a.wav").write_bytes(b"RIFX" + header[4:] + bytes(32_000))

        with pytest.raises(MediaError, match="RIFX"):
            AudioStream(tmp_path / "a.wav")

    def test_cut_short_beginning_is_used(self, tmp_path: Path) -> None:
        """A file that ends early gives what it has, and a notice with the moment."""
        header = wav_header(rate_hz=16000, channels=1, data_bytes=320_000)
        (tmp_path / "a.wav").write_bytes(header + bytes(96_000))

        with AudioStream(tmp_path / "a.wav") as stream:
            samples = sum(block.samples.size for block in stream.blocks())

        assert samples == 48_000
        assert [code for code, _ in stream.notices] == ["INPUT_TRUNCATED"]
        assert "ends at 3.0 s" in stream.notices[0][1]

    def test_damage_in_the_middle_is_passed_over(self, tmp_path: Path) -> None:
        """Broken packets cost their own sound only."""
        data = bytearray((SAMPLE_CALL / "joe.ogg").read_bytes())
        middle = len(data) // 2
        data[middle : middle + 600] = b"\xff" * 600
        (tmp_path / "a.ogg").write_bytes(data)

        assert abs(decode(tmp_path / "a.ogg").size - decode(SAMPLE_CALL / "joe.ogg").size) < 16_000

    def test_numbers_that_are_none_are_silenced(self, tmp_path: Path) -> None:
        """NaN and infinity never reach a recogniser; the rest of the track does."""
        samples = tone(2)
        samples[8000:8010] = np.nan
        samples[9000] = np.inf
        header = wav_header(rate_hz=16000, channels=1, data_bytes=samples.nbytes, code=3, bits=32)
        (tmp_path / "a.wav").write_bytes(header + samples.tobytes())

        with AudioStream(tmp_path / "a.wav") as stream:
            decoded = np.concatenate([block.samples for block in stream.blocks()])

        assert np.isfinite(decoded).all()
        assert decoded.size == samples.size
        assert [code for code, _ in stream.notices] == ["SAMPLES_CLEANED"]

    def test_nothing_but_nan(self, tmp_path: Path) -> None:
        """A track without a single number is refused."""
        samples = np.full(16000, np.nan, dtype=np.float32)
        header = wav_header(rate_hz=16000, channels=1, data_bytes=64000, code=3, bits=32)
        (tmp_path / "a.wav").write_bytes(header + samples.tobytes())

        assert "NaN" in self.refusal(tmp_path / "a.wav")


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    """Half an hour of sound is decoded within the memory of a few blocks."""
    path = tmp_path / "long.wav"
    data_bytes = 30 * 60 * SAMPLE_RATE_HZ * 2
    path.write_bytes(wav_header(rate_hz=16000, channels=1, data_bytes=data_bytes))
    with path.open("ab") as file:
        file.truncate(path.stat().st_size + data_bytes)

    tracemalloc.start()
    with AudioStream(path) as stream:
        for _ in stream.blocks():
            pass
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert stream.position_seconds == 30 * 60
    assert peak_bytes < 16_000_000
