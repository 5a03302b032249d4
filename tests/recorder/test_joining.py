# SPDX-License-Identifier: Apache-2.0

import hashlib
import itertools
import shutil
import subprocess
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

import av
import pytest

from callsd_ipc.names import PIECES
from callsd_worker.recorder.errors import Reason, RecordingError
from callsd_worker.recorder.joining import THUMBNAIL_WIDTH, join, thumbnail
from callsd_worker.recorder.pieces import Piece, find_pieces


START = 1_764_120_000.0
FPS = 30


def ffmpeg(*arguments: str) -> None:
    """Run ffmpeg."""
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-y", *arguments]
    subprocess.run(command, check=True, timeout=60)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A piece of 3 s as the encoder writes it: a test picture and a tone."""
    path = tmp_path_factory.mktemp("film") / "film.mkv"
    ffmpeg(
        *("-f", "lavfi", "-i", f"testsrc=size=640x360:rate={FPS}:duration=3"),
        *("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000:duration=3"),
        *("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "20"),
        *("-bf", "0", "-c:a", "aac", "-b:a", "64k"),
        *("-f", "matroska", "-cluster_time_limit", "500", "-flush_packets", "1", str(path)),
    )
    return path


@pytest.fixture(scope="module")
def tone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A piece of 2 s of sound alone."""
    path = tmp_path_factory.mktemp("tone") / "tone.mkv"
    ffmpeg(
        *("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000:duration=2"),
        *("-c:a", "aac", "-b:a", "64k", "-f", "matroska", str(path)),
    )
    return path


class Job:
    """A directory with pieces."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.target = directory / "recording.mp4"
        (directory / PIECES).mkdir()

    def add(self, source: Path | bytes, *, at: float) -> Path:
        """Lay down a piece that began so many seconds after the first."""
        number = len(find_pieces(self.directory)) + 1
        name = f"{number:04d}-{round((START + at) * 1000):013d}.mkv"
        path = self.directory / PIECES / name
        path.write_bytes(source if isinstance(source, bytes) else source.read_bytes())
        return path

    @property
    def pieces(self) -> list[Piece]:
        """All of them."""
        return find_pieces(self.directory)

    def names(self) -> list[str]:
        """What lies beside the pieces, hidden or not."""
        return sorted(path.name for path in self.directory.iterdir() if path.name != PIECES)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job without pieces."""
    return Job(tmp_path)


def boxes(path: Path) -> list[str]:
    """Names of the boxes of an MP4 file, in their order."""
    data = path.read_bytes()
    found, position = [], 0
    while position < len(data):
        found.append(data[position + 4 : position + 8].decode())
        position += int.from_bytes(data[position : position + 4], "big")
    return found


def timestamps(path: Path) -> dict[str, list[float]]:
    """Seconds at which each packet is decoded, by kind of stream."""
    found: dict[str, list[float]] = defaultdict(list)
    with av.open(str(path)) as source:
        for packet in source.demux():
            if packet.dts is not None and packet.time_base is not None:
                found[packet.stream.type].append(float(packet.dts * packet.time_base))
    return found


def frame_times(path: Path) -> list[float]:
    """Seconds at which each picture is shown."""
    with av.open(str(path)) as source:
        return [frame.time for frame in source.decode(video=0)]


def assert_plays(path: Path) -> None:
    """Each packet of the file is decoded without complaint, and time never runs backwards."""
    with av.open(str(path)) as source:
        for stream in source.streams:
            assert isinstance(stream, av.VideoStream | av.AudioStream)
            stream.codec_context.options = {"err_detect": "explode"}
        assert len(list(source.decode())) > 0
    for kind, times in timestamps(path).items():
        assert all(a < b for a, b in itertools.pairwise(times)), kind


class TestOnePiece:
    """A recording in which nothing died."""

    def test_it_plays_while_it_is_fetched(self, job: Job, film: Path) -> None:
        """The index is before the media, and the file decodes."""
        job.add(film, at=0)
        join(job.pieces, job.target)
        found = boxes(job.target)
        assert found[0] == "ftyp"
        assert found.index("moov") < found.index("mdat")
        assert_plays(job.target)

    def test_it_is_what_was_recorded(self, job: Job, film: Path) -> None:
        """Length, size, rate, bytes and digest are told as they are; every picture is there."""
        job.add(film, at=0)
        joined = join(job.pieces, job.target)
        assert joined.duration_seconds == pytest.approx(3.0, abs=0.06)
        assert (joined.width, joined.height, joined.frame_rate) == (640, 360, FPS)
        assert (joined.piece_count, joined.gap_seconds) == (1, 0.0)
        assert joined.size_bytes == job.target.stat().st_size
        assert joined.sha256 == hashlib.sha256(job.target.read_bytes()).hexdigest()
        assert len(frame_times(job.target)) == 3 * FPS
        with av.open(str(job.target)) as source:
            assert (source.duration or 0) / av.time_base == pytest.approx(3.0, abs=0.06)

    @pytest.mark.parametrize(
        ("kind", "exact"), [("video", Fraction(1, FPS)), ("audio", Fraction(1024, 48_000))]
    )
    def test_each_packet_follows_the_one_before_exactly(
        self, job: Job, film: Path, kind: str, exact: Fraction
    ) -> None:
        """Times that a piece has rounded to milliseconds are whole frames and samples again."""
        job.add(film, at=0)
        job.add(film, at=5.001)
        join(job.pieces, job.target)
        with av.open(str(job.target)) as source:
            times = [
                packet.dts * packet.time_base
                for packet in source.demux(**{kind: 0})
                if packet.dts is not None
            ]
        lengths = [b - a for a, b in itertools.pairwise(times)]
        gap = max(lengths)
        assert 1.9 < gap < 2.1
        assert set(lengths) == {exact, gap}
        assert lengths.count(gap) == 1

    def test_nothing_is_coded_anew(self, job: Job, film: Path) -> None:
        """The coded pictures are those of the piece, byte by byte."""
        job.add(film, at=0)
        join(job.pieces, job.target)

        def sizes(path: Path) -> list[int]:
            with av.open(str(path)) as source:
                return [packet.size for packet in source.demux(video=0) if packet.size]

        assert sizes(job.target) == sizes(film)

    def test_progress_is_told(self, job: Job, film: Path) -> None:
        """Who waits is told how many seconds are done after each piece."""
        for at in (0, 3.5):
            job.add(film, at=at)
        done: list[float] = []
        join(job.pieces, job.target, on_progress=done.append)
        assert done == [pytest.approx(3.0, abs=0.06), pytest.approx(6.5, abs=0.06)]


class TestSeveralPieces:
    """A recording in which something died."""

    def test_each_is_placed_by_the_clock(self, job: Job, film: Path) -> None:
        """What was recorded 5 s after the beginning is there in the file; the gap is told."""
        job.add(film, at=0)
        job.add(film, at=5)
        joined = join(job.pieces, job.target)
        assert joined.piece_count == 2
        assert joined.gap_seconds == pytest.approx(2.0, abs=0.06)
        assert joined.duration_seconds == pytest.approx(8.0, abs=0.06)
        times = frame_times(job.target)
        assert len(times) == 6 * FPS
        assert times[3 * FPS] - times[0] == pytest.approx(5.0, abs=0.06)
        sound = timestamps(job.target)["audio"]
        first_of_second = next(one for one in sound if one > 4)
        assert first_of_second == pytest.approx(5.0, abs=0.06)
        assert_plays(job.target)

    def test_gaps_are_added_up(self, job: Job, film: Path) -> None:
        """Three pieces have two gaps."""
        for at in (0, 4, 9):
            job.add(film, at=at)
        joined = join(job.pieces, job.target)
        assert joined.gap_seconds == pytest.approx(3.0, abs=0.12)
        assert joined.duration_seconds == pytest.approx(12.0, abs=0.06)
        assert_plays(job.target)

    def test_a_clock_that_was_set_back(self, job: Job, film: Path) -> None:
        """Time never runs backwards: a piece that began 'earlier' follows the one before."""
        job.add(film, at=0)
        job.add(film, at=-3600)
        joined = join(job.pieces, job.target)
        assert joined.gap_seconds == 0.0
        assert joined.duration_seconds == pytest.approx(6.0, abs=0.1)
        assert len(frame_times(job.target)) == 6 * FPS
        assert_plays(job.target)

    def test_pieces_that_overlap_a_little(self, job: Job, film: Path) -> None:
        """A piece that began before the end of the one before follows it, without a loss."""
        job.add(film, at=0)
        job.add(film, at=2.9)
        joined = join(job.pieces, job.target)
        assert joined.gap_seconds == 0.0
        assert len(frame_times(job.target)) == 6 * FPS
        assert_plays(job.target)


class TestTornPieces:
    """What a kill or a power cut leaves."""

    @pytest.mark.parametrize("share", [0.35, 0.5, 0.8])
    def test_a_truncated_one_is_used_up_to_where_it_is_whole(
        self, job: Job, film: Path, share: float
    ) -> None:
        """Of a piece that breaks off what is there is kept, and what follows keeps its place."""
        data = film.read_bytes()
        job.add(data[: round(len(data) * share)], at=0)
        job.add(film, at=4)
        joined = join(job.pieces, job.target)
        assert joined.piece_count == 2
        times = frame_times(job.target)
        first = [one for one in times if one < 3.5]
        assert len(first) >= FPS * 3 * (share - 0.3)
        assert joined.gap_seconds == pytest.approx(4 - first[-1] - 1 / FPS, abs=0.1)
        assert joined.duration_seconds == pytest.approx(7.0, abs=0.06)
        assert_plays(job.target)

    @pytest.mark.parametrize("is_first", [True, False], ids=["first", "last"])
    @pytest.mark.parametrize(
        "torn",
        [
            b"",
            b"\0" * 50_000,
            hashlib.shake_128(b"seven").digest(50_000),
            (b"\xff\xf1\x4c\x80\x2e\x7f\xfc" + bytes(364)) * 100,
            b"#EXTM3U\n#EXTINF:3,\n/etc/passwd\n",
            b"\x1a\x45\xdf\xa3",
        ],
        ids=["empty", "zeros", "garbage", "another format", "a list of files", "only a beginning"],
    )
    def test_a_piece_that_cannot_be_read_is_left_out(
        self, job: Job, film: Path, torn: bytes, *, is_first: bool
    ) -> None:
        """A piece that holds nothing does not cost the others."""
        if is_first:
            job.add(torn, at=0)
        job.add(film, at=1)
        if not is_first:
            job.add(torn, at=5)
        joined = join(job.pieces, job.target)
        assert (joined.piece_count, joined.width, joined.gap_seconds) == (1, 640, 0.0)
        assert joined.duration_seconds == pytest.approx(3.0, abs=0.06)
        assert len(frame_times(job.target)) == 3 * FPS
        assert_plays(job.target)

    def test_a_hole_of_zeros_in_the_middle(self, job: Job, film: Path) -> None:
        """Blocks that never reached the disk do not cost what is around them."""
        data = bytearray(film.read_bytes())
        middle = len(data) // 2
        data[middle : middle + 4096] = bytes(4096)
        job.add(bytes(data), at=0)
        job.add(film, at=4)
        joined = join(job.pieces, job.target)
        assert joined.piece_count == 2
        assert joined.duration_seconds == pytest.approx(7.0, abs=0.06)
        assert len(frame_times(job.target)) > 3.5 * FPS

    def test_one_with_its_head_only(self, job: Job, film: Path) -> None:
        """A piece whose writer died before the first cluster counts as none."""
        data = film.read_bytes()
        job.add(data[: data.index(b"\x1f\x43\xb6\x75")], at=0)
        job.add(film, at=2)
        assert join(job.pieces, job.target).piece_count == 1
        assert_plays(job.target)


class TestNothing:
    """When there is nothing to hand out."""

    @pytest.mark.parametrize("torn", [None, b"", b"garbage" * 5000], ids=["none", "empty", "bad"])
    def test_nothing_recorded_is_said(self, job: Job, torn: bytes | None) -> None:
        """Without a single readable piece the recording is lost, and no file appears."""
        if torn is not None:
            job.add(torn, at=0)
        with pytest.raises(RecordingError) as caught:
            join(job.pieces, job.target)
        assert caught.value.reason is Reason.RECORDING_LOST
        assert job.names() == []

    def test_a_failure_in_the_middle_leaves_nothing(self, job: Job, film: Path) -> None:
        """What is not whole never has the recording's name, and is removed."""
        for at in (0, 3):
            job.add(film, at=at)
        seen: list[list[str]] = []

        def fail(seconds: float) -> None:
            seen.append(job.names())
            if seconds > 4:
                raise OSError(28, "No space left on device")

        with pytest.raises(OSError, match="No space left"):
            join(job.pieces, job.target, on_progress=fail)
        assert seen == [[".recording.mp4.part"]] * 2
        assert job.names() == []

    def test_a_failure_at_the_very_end_leaves_nothing(
        self, job: Job, film: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A disk that fails when all is written leaves no draft either."""

        def fail(number: int) -> None:
            raise OSError(5, "Input/output error")

        job.add(film, at=0)
        monkeypatch.setattr("callsd_worker.recorder.joining.os.fsync", fail)
        with pytest.raises(OSError, match="Input/output error"):
            join(job.pieces, job.target)
        assert job.names() == []

    def test_a_second_join_replaces_what_a_first_has_left(self, job: Job, film: Path) -> None:
        """A join that is done again after a kill gives the same file, and only that."""
        job.add(film, at=0)
        first = join(job.pieces, job.target)
        (job.directory / ".recording.mp4.part").write_bytes(b"what a killed join has left")
        assert join(job.pieces, job.target) == first
        assert job.names() == ["recording.mp4"]


class TestSoundAlone:
    """A recording without a picture."""

    def test_it_has_neither_size_nor_rate(self, job: Job, tone: Path) -> None:
        """Sound alone has no width, and its pieces are placed by the clock as well."""
        job.add(tone, at=0)
        job.add(tone, at=3)
        joined = join(job.pieces, job.target)
        assert (joined.width, joined.height, joined.frame_rate) == (0, 0, 0.0)
        assert joined.piece_count == 2
        assert joined.gap_seconds == pytest.approx(1.0, abs=0.06)
        assert joined.duration_seconds == pytest.approx(5.0, abs=0.06)
        assert_plays(job.target)


class TestThumbnail:
    """The picture of a recording."""

    def test_it_is_a_small_jpeg(self, job: Job, film: Path) -> None:
        """A JPEG of 640 pixels width in the recording's proportions, of the picture itself."""
        job.add(film, at=0)
        join(job.pieces, job.target)
        picture = job.directory / "thumbnail.jpg"
        assert thumbnail(job.target, picture) is True
        assert picture.read_bytes()[:3] == b"\xff\xd8\xff"
        with av.open(str(picture)) as source:
            frame = next(source.decode(video=0))
            assert (frame.width, frame.height) == (THUMBNAIL_WIDTH, 360)
            values = frame.to_ndarray(format="gray")
            assert int(values.max()) - int(values.min()) > 150

    @pytest.mark.parametrize(
        ("size", "height"), [("1920x1080", 360), ("1024x768", 480), ("360x640", 1138)]
    )
    def test_proportions_are_kept(self, tmp_path: Path, size: str, height: int) -> None:
        """A large, a square or an upright recording keeps its shape."""
        recording, picture = tmp_path / "recording.mp4", tmp_path / "thumbnail.jpg"
        ffmpeg(
            *("-f", "lavfi", "-i", f"testsrc=size={size}:rate=5:duration=1"),
            *("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", str(recording)),
        )
        assert thumbnail(recording, picture) is True
        with av.open(str(picture)) as source:
            frame = next(source.decode(video=0))
            assert (frame.width, frame.height) == (THUMBNAIL_WIDTH, height)

    def test_one_picture_is_enough(self, job: Job, film: Path) -> None:
        """A recording that broke off after its first pictures has a thumbnail as well."""
        data = film.read_bytes()
        second = data.index(b"\x1f\x43\xb6\x75", data.index(b"\x1f\x43\xb6\x75") + 4)
        job.add(data[:second], at=0)
        join(job.pieces, job.target)
        assert thumbnail(job.target, job.directory / "thumbnail.jpg") is True

    def test_sound_alone_has_none(self, job: Job, tone: Path) -> None:
        """Without a picture there is no thumbnail, and no file."""
        job.add(tone, at=0)
        join(job.pieces, job.target)
        shutil.rmtree(job.directory / PIECES)
        assert thumbnail(job.target, job.directory / "thumbnail.jpg") is False
        assert job.names() == ["recording.mp4"]
