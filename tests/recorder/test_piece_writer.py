# SPDX-License-Identifier: Apache-2.0

from dataclasses import replace
from pathlib import Path

import av
import pytest

from callsd_worker.recorder.joining import join
from callsd_worker.recorder.piece_writer import PieceWriter, add_video
from callsd_worker.recorder.pieces import Piece
from callsd_worker.recorder.quality import Quality
from callsd_worker.recorder.sound_reader import BLOCK_BYTES, BLOCK_SAMPLES


SMALL = Quality(width=320, height=180, fps=10, video_kbps=200, audio_kbps=64)
SOUND = replace(SMALL, has_video=False)


def picture(brightness: int) -> av.VideoFrame:
    """A picture of one grey."""
    frame = av.VideoFrame(SMALL.width, SMALL.height, "yuv420p")
    for plane, value in zip(frame.planes, (brightness, 128, 128), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    return frame


def write(writer: PieceWriter, *, seconds: int) -> None:
    """Write so much sound, and pictures where the quality has them."""
    for tenth in range(seconds * 10):
        if writer._video is not None:
            writer.put_picture(picture(16 + tenth % 200), tenth)
        writer.put_sound(bytes(BLOCK_BYTES), tenth * BLOCK_SAMPLES)


def found_in(path: Path) -> dict[str, tuple[int, float]]:
    """Number of frames and where they end, of each stream."""
    found: dict[str, tuple[int, float]] = {}
    with av.open(str(path)) as source:
        for stream in source.streams:
            source.seek(0)
            times = [
                frame.time or 0.0
                for frame in source.decode(stream)
                if isinstance(frame, av.VideoFrame | av.AudioFrame)
            ]
            found[stream.type] = (len(times), max(times))
    return found


def test_a_piece_has_what_was_put_into_it(tmp_path: Path) -> None:
    """All pictures and all sound are in the file, each at its time."""
    path = tmp_path / "piece.mkv"
    writer = PieceWriter(path, SMALL)
    write(writer, seconds=3)
    assert writer.frame_count == 30
    assert writer.seconds == pytest.approx(3.0)
    writer.close()
    found = found_in(path)
    assert found["video"][0] == 30
    assert found["video"][1] == pytest.approx(2.9, abs=0.03)
    assert found["audio"][1] == pytest.approx(3.0, abs=0.05)


def test_sound_alone_has_no_picture(tmp_path: Path) -> None:
    """Where only sound is wanted there is only sound."""
    path = tmp_path / "piece.mkv"
    writer = PieceWriter(path, SOUND)
    write(writer, seconds=1)
    writer.close()
    assert list(found_in(path)) == ["audio"]


def test_pictures_that_are_missing_leave_the_others_where_they_are(tmp_path: Path) -> None:
    """A picture that was not grabbed in time does not move those behind it."""
    path = tmp_path / "piece.mkv"
    writer = PieceWriter(path, SMALL)
    for number in (0, 1, 2, 9):
        writer.put_picture(picture(100 + number), number)
    writer.put_sound(bytes(BLOCK_BYTES * 10), 0)
    writer.close()
    count, end_seconds = found_in(path)["video"]
    assert count == 4
    assert end_seconds == pytest.approx(0.9, abs=0.03)


def test_what_was_written_can_be_read_without_an_end(tmp_path: Path) -> None:
    """All but the last second or two is in the file while it is still being written."""
    path = tmp_path / "piece.mkv"
    writer = PieceWriter(path, SMALL)
    write(writer, seconds=6)
    torn = tmp_path / "torn.mkv"
    torn.write_bytes(path.read_bytes())
    writer.close()
    assert found_in(torn)["video"][1] > 4


@pytest.mark.parametrize(
    ("size", "fps", "expected"),
    [
        ((1280, 720), 15, "subme=0:ref=1:aq-mode=0"),
        ((1280, 720), 20, "subme=0:ref=3:aq-mode=2"),
        ((1920, 1080), 20, "subme=1:ref=1:aq-mode=2"),
    ],
    ids=["low", "medium", "high"],
)
def test_effort_goes_by_the_number_of_pixels(
    size: tuple[int, int], fps: int, expected: str, tmp_path: Path
) -> None:
    """Each profile has its own effort, and its rates bound the bits."""
    quality = Quality(width=size[0], height=size[1], fps=fps, video_kbps=1500, audio_kbps=64)
    with av.open(str(tmp_path / "nothing.mkv"), "w") as container:
        options = add_video(container, quality).codec_context.options
    assert options["x264-params"].endswith(expected)
    assert (options["maxrate"], options["bufsize"]) == ("2250k", "4500k")
    assert options["g"] == str(5 * fps)


def test_beginning_is_told(tmp_path: Path) -> None:
    """What the beginning of a piece shows is dated in it, and so in the file that is joined.

    The name has the time at which the piece was made: it counts only where there is no date.
    """
    made, began = 1_764_120_000.0, 1_764_120_000.273125
    joined = []
    for number, is_dated in enumerate((True, False)):
        path = tmp_path / f"{number}.mkv"
        writer = PieceWriter(path, SOUND)
        if is_dated:
            writer.begin(began)
        write(writer, seconds=1)
        writer.close()
        piece = Piece(number=1, start_seconds=made, path=path)
        joined.append(join([piece], tmp_path / f"{number}.mp4").start_seconds)
    assert joined == [pytest.approx(began, abs=1e-5), made]
