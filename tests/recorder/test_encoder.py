# SPDX-License-Identifier: Apache-2.0

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from callsd_worker.recorder.encoder import (
    LEVEL_BYTES,
    PROBE_BYTES,
    Encoder,
    Listener,
    Quality,
    Written,
    _blocks_of,
    _read_progress,
    command,
)
from callsd_worker.recorder.errors import Reason, RecordingError
from callsd_worker.recorder.workshop import Workshop


VIDEO = Quality(width=1280, height=720, fps=20, video_kbps=1500, audio_kbps=64)
SOUND = Quality(width=1280, height=720, fps=20, video_kbps=1500, audio_kbps=64, has_video=False)
TARGET = Path("/job/pieces/0001-1764120000000.mkv")


def command_of(quality: Quality) -> list[str]:
    """The command line for this quality."""
    return command(quality, TARGET, display=":7", progress=11, picture=12, sound=13)


def after(flag: str, arguments: list[str]) -> list[str]:
    """All values of a flag."""
    return [arguments[i + 1] for i, one in enumerate(arguments[:-1]) if one == flag]


class TestCommand:
    """What ffmpeg is told."""

    def test_a_page_is_grabbed_as_it_is_shown(self) -> None:
        """The whole display is grabbed at the recording's rate, without the pointer."""
        arguments = command_of(VIDEO)
        assert after("-i", arguments) == [":7", "grab.monitor"]
        assert after("-framerate", arguments) == ["20"]
        assert after("-video_size", arguments) == ["1280x720"]
        assert after("-draw_mouse", arguments) == ["0"]

    def test_rates_are_those_that_were_asked_for(self) -> None:
        """Picture and sound are coded at the rates of the quality, the picture bounded."""
        arguments = command_of(VIDEO)
        assert after("-b:v", arguments) == ["1500k"]
        assert after("-maxrate", arguments) == ["2250k"]
        assert after("-b:a", arguments) == ["64k"]
        assert after("-g", arguments) == ["100"]

    def test_a_piece_can_be_read_while_it_is_written(self) -> None:
        """Pieces are Matroska in short clusters that are written out at once."""
        arguments = command_of(VIDEO)
        assert arguments[arguments.index(str(TARGET)) - 1] == "1"
        assert after("-flush_packets", arguments) == ["1"]
        assert after("-cluster_time_limit", arguments) == ["1000"]
        assert "matroska" in after("-f", arguments)

    def test_what_is_told_goes_to_the_pipes(self) -> None:
        """Progress, small pictures and sound are written to their descriptors."""
        arguments = command_of(VIDEO)
        assert after("-progress", arguments) == ["pipe:11"]
        assert [one for one in arguments if one.startswith("pipe:")] == [
            "pipe:11",
            "pipe:12",
            "pipe:13",
        ]

    def test_sound_alone_has_no_picture(self) -> None:
        """Where only sound is wanted neither display nor picture appears."""
        arguments = command_of(SOUND)
        assert after("-i", arguments) == ["grab.monitor"]
        assert after("-map", arguments) == ["[sound]", "[level]"]
        assert [one for one in arguments if one.startswith("pipe:")] == ["pipe:11", "pipe:13"]
        assert not {"x11grab", ":7", "libx264", "-isync"} & set(arguments)
        assert "[0:a]" in after("-filter_complex", arguments)[0]
        assert "[0:v]" not in after("-filter_complex", arguments)[0]


def told_by(
    read: Callable[[int, Callable[[bytes], None]], None], said: bytes, tmp_path: Path
) -> list[bytes]:
    """What a reader tells of what a program said."""
    path = tmp_path / "said"
    path.write_bytes(said)
    told: list[bytes] = []
    read(os.open(path, os.O_RDONLY), told.append)
    return told


class TestProgress:
    """What ffmpeg says of itself."""

    @staticmethod
    def written(said: str, tmp_path: Path) -> list[Written]:
        """What comes of it."""
        path = tmp_path / "progress"
        path.write_text(said, encoding="utf-8")
        told: list[Written] = []
        _read_progress(os.open(path, os.O_RDONLY), told.append)
        return told

    def test_each_block_is_told_once_it_is_whole(self, tmp_path: Path) -> None:
        """Blocks end with `progress=`; what is behind the last one is not told."""
        said = (
            "frame=20\nfps=19.5\nbitrate= 1433.6kbits/s\ntotal_size=179200\n"
            "out_time_us=1000000\nout_time_ms=1000000\nout_time=00:00:01.000000\n"
            "dup_frames=0\nspeed=   1x\nprogress=continue\n"
            "frame=40\ntotal_size=358400\nout_time_us=2000500\nprogress=end\n"
            "frame=60\n"
        )
        assert self.written(said, tmp_path) == [
            Written(frames=20, seconds=1.0, size_bytes=179_200),
            Written(frames=40, seconds=2.0005, size_bytes=358_400),
        ]

    def test_what_ffmpeg_does_not_know_counts_as_nothing(self, tmp_path: Path) -> None:
        """Before the first packet values are N/A or below zero; sound alone has no frames."""
        said = "total_size=N/A\nout_time_us=-21333\nprogress=continue\n"
        assert self.written(said, tmp_path) == [Written(frames=0, seconds=0.0, size_bytes=0)]

    def test_what_is_no_progress_does_no_harm(self, tmp_path: Path) -> None:
        """Lines without a value, and bytes that are no text, are passed over."""
        path = tmp_path / "progress"
        path.write_bytes(b"\xff\xfe\n\nnonsense\n=\nframe= 7\nprogress=continue\n")
        told: list[Written] = []
        _read_progress(os.open(path, os.O_RDONLY), told.append)
        assert told == [Written(frames=7)]


class TestBlocks:
    """Small pictures and sound, of which only whole ones are told."""

    @pytest.mark.parametrize("size", [PROBE_BYTES, LEVEL_BYTES], ids=["picture", "sound"])
    def test_whole_blocks_in_order_and_no_torn_one(self, size: int, tmp_path: Path) -> None:
        """Each block is told as it is; what ffmpeg could not end is left out."""
        blocks = [bytes([number]) * size for number in range(3)]
        said = b"".join(blocks) + b"\x09" * (size - 1)
        assert told_by(_blocks_of(size), said, tmp_path) == blocks

    def test_blocks_that_come_in_parts_are_put_together(self) -> None:
        """A pipe tears blocks; they are told whole."""
        reading, writing = os.pipe()
        for part in (b"ab", b"cdef", b"gh"):
            os.write(writing, part)
        os.close(writing)
        told: list[bytes] = []
        _blocks_of(4)(reading, told.append)
        assert told == [b"abcd", b"efgh"]


def test_an_encoder_that_cannot_be_started_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where ffmpeg is missing the error says so, and none of the pipes made for it stays."""
    workshop = Workshop()
    monkeypatch.setenv("PATH", str(tmp_path))
    before = psutil.Process().num_fds()
    with pytest.raises(RecordingError, match="apt install ffmpeg") as caught:
        Encoder(
            workshop,
            VIDEO,
            tmp_path / "piece.mkv",
            environment={"DISPLAY": ":7"},
            listener=Listener(on_written=print, on_picture=print, on_sound=print),
            log=2,
        )
    assert caught.value.reason is Reason.CAPTURE_UNAVAILABLE
    assert psutil.Process().num_fds() == before
    workshop.close()
