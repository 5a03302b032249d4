# SPDX-License-Identifier: Apache-2.0
"""From pieces to a film, on pieces as ffmpeg writes them and as crashes leave them."""

import subprocess
from pathlib import Path

import av
import pytest

from callsd_worker.recorder.errors import Reason, RecordingError
from callsd_worker.recorder.joining import join, thumbnail
from callsd_worker.recorder.pieces import PIECES, find_pieces, next_piece
from callsd_worker.recorder.workshop import program


START_MS = 1_700_000_000_000


def write_piece(directory: Path, number: int, *, at_ms: int, seconds: float = 2.0) -> Path:
    """A piece of a test picture with a tone, begun at this moment."""
    (directory / PIECES).mkdir(exist_ok=True)
    path = directory / PIECES / f"{number:04d}-{START_MS + at_ms:013d}.mkv"
    subprocess.run(
        [
            *(program("ffmpeg"), "-nostdin", "-loglevel", "error"),
            *("-f", "lavfi", "-i", f"testsrc=size=320x180:rate=10:duration={seconds}"),
            *("-f", "lavfi", "-i", f"sine=frequency=440:duration={seconds}"),
            *("-c:v", "libx264", "-preset", "superfast", "-bf", "0", "-c:a", "aac"),
            *("-f", "matroska", "-cluster_time_limit", "500", "-flush_packets", "1", str(path)),
        ],
        check=True,
    )
    return path


def decoded(path: Path) -> list[float]:
    """Times of all pictures, each of which has been decoded."""
    with av.open(str(path)) as source:
        return [float(frame.time or 0) for frame in source.decode(video=0)]


class TestJoin:
    """What becomes of pieces."""

    def test_one(self, tmp_path: Path) -> None:
        """A single piece becomes a film that plays while it is fetched."""
        write_piece(tmp_path, 1, at_ms=0)
        target = tmp_path / "a.mp4"
        joined = join(find_pieces(tmp_path), target)
        content = target.read_bytes()

        assert content.index(b"moov") < content.index(b"mdat")
        assert (joined.width, joined.height, joined.piece_count) == (320, 180, 1)
        assert joined.duration_seconds == pytest.approx(2.0, abs=0.1)
        assert joined.gap_seconds == 0
        assert joined.size_bytes == len(content)
        assert len(decoded(target)) == 20

    def test_by_the_clock(self, tmp_path: Path) -> None:
        """A later piece keeps its time; what is missing between is told."""
        write_piece(tmp_path, 1, at_ms=0)
        write_piece(tmp_path, 2, at_ms=5000)
        joined = join(find_pieces(tmp_path), tmp_path / "a.mp4")
        times = decoded(tmp_path / "a.mp4")

        assert joined.duration_seconds == pytest.approx(7.0, abs=0.1)
        assert joined.gap_seconds == pytest.approx(3.0, abs=0.1)
        assert times == sorted(times)
        assert times[20] == pytest.approx(5.0, abs=0.1)

    def test_clock_that_was_set_back(self, tmp_path: Path) -> None:
        """A piece that seems to begin before the last one has ended goes behind it."""
        write_piece(tmp_path, 1, at_ms=0)
        write_piece(tmp_path, 2, at_ms=-60_000)
        joined = join(find_pieces(tmp_path), tmp_path / "a.mp4")

        assert joined.gap_seconds == 0
        assert joined.duration_seconds == pytest.approx(4.0, abs=0.2)
        assert len(decoded(tmp_path / "a.mp4")) == 40

    def test_what_a_crash_leaves(self, tmp_path: Path) -> None:
        """A piece that breaks off is used up to there; empty ones and rubbish are passed over."""
        broken = write_piece(tmp_path, 1, at_ms=0, seconds=4.0)
        content = broken.read_bytes()
        broken.write_bytes(content[: len(content) // 2])
        folder = tmp_path / PIECES
        (folder / f"0002-{START_MS + 4000:013d}.mkv").touch()
        (folder / f"0003-{START_MS + 4500:013d}.mkv").write_bytes(b"\0" * 5000)
        write_piece(tmp_path, 4, at_ms=5000)
        joined = join(find_pieces(tmp_path), tmp_path / "a.mp4")

        assert joined.piece_count == 2
        assert len(decoded(tmp_path / "a.mp4")) > 25
        assert joined.duration_seconds == pytest.approx(7.0, abs=0.1)

    def test_nothing(self, tmp_path: Path) -> None:
        """Nothing becomes an error, and leaves no file."""
        with pytest.raises(RecordingError) as caught:
            join([], tmp_path / "a.mp4")

        assert caught.value.reason is Reason.RECORDING_LOST
        assert list(tmp_path.iterdir()) == []

    def test_whole_or_not_at_all(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """When joining fails in the middle there is neither a film nor a draft of one."""
        write_piece(tmp_path, 1, at_ms=0)
        monkeypatch.setattr("callsd_worker.recorder.joining.hashlib.file_digest", _no_space)
        target = tmp_path / "artifacts" / "a.mp4"
        target.parent.mkdir()
        with pytest.raises(OSError, match="No space"):
            join(find_pieces(tmp_path), target)

        assert list(target.parent.iterdir()) == []
        assert len(find_pieces(tmp_path)) == 1


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


class TestPieces:
    """Their names."""

    def test_numbers_go_on(self, tmp_path: Path) -> None:
        """A later worker counts on; files of others are left alone."""
        first = next_piece(tmp_path)
        first.path.touch()
        (tmp_path / PIECES / "notes.txt").touch()
        second = next_piece(tmp_path)

        assert (first.number, second.number) == (1, 2)
        assert find_pieces(tmp_path)[0].start_seconds == pytest.approx(
            first.start_seconds, abs=0.01
        )
        assert find_pieces(tmp_path / "nowhere") == []


def test_thumbnail(tmp_path: Path) -> None:
    """A picture of the film, 640 pixels wide."""
    write_piece(tmp_path, 1, at_ms=0)
    join(find_pieces(tmp_path), tmp_path / "a.mp4")

    assert thumbnail(tmp_path / "a.mp4", tmp_path / "a.jpg")
    with av.open(str(tmp_path / "a.jpg")) as picture:
        assert (picture.streams.video[0].width, picture.streams.video[0].height) == (640, 360)
