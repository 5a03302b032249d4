# SPDX-License-Identifier: Apache-2.0
"""The command `callsd bench recording-end`: how long a long recording takes to be handed out.

Its pieces are joined by the worker, and the file is taken over by the daemon. The baseline joins
it where it stays: what a worker did that wrote into the daemon's own directory.
"""

import asyncio
import json
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import click
import numpy as np

from callsd_bench.shared.options import json_option
from callsd_bench.shared.progress import ProgressLine
from callsd_daemon.domain.jobs import Artifact, Outcome
from callsd_daemon.files import FilePool
from callsd_daemon.workers.launchers.local import Directories
from callsd_daemon.workers.takeover import Takeover
from callsd_ipc.names import PIECES
from callsd_worker.recorder.joining import Joined, join
from callsd_worker.recorder.piece_writer import PieceWriter
from callsd_worker.recorder.pieces import find_pieces
from callsd_worker.recorder.quality import Quality


PIECE_SECONDS = 60
QUALITY = Quality(width=1280, height=720, fps=20, video_kbps=1000, audio_kbps=64, has_video=True)
RATE_HZ = 48_000
FILE = "recording.mp4"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingEnd:
    """What it took. Sizes in bytes, times in seconds."""

    size_bytes: int
    recorded_seconds: float
    join_seconds: float
    take_over_seconds: float

    @property
    def ratio(self) -> float:
        """How much longer it takes than joining alone."""
        return (self.join_seconds + self.take_over_seconds) / self.join_seconds


def bench_recording_end(directory: Path, gigabytes: float) -> RecordingEnd:
    """Measure it in a directory, which lies on the disk that is meant."""
    workers, trash, job = (directory / name for name in ("workers", "trash", "job"))
    for path in (workers, trash, job / "artifacts"):
        path.mkdir(parents=True)
    directories = Directories(workers, trash, mode=0o700)
    spool = directories.make("recorder")
    with ProgressLine("pieces") as progress:
        _make_pieces(spool, round(gigabytes * 1e9), progress)
    (spool / "artifacts").mkdir()
    with ProgressLine("join"):
        began = time.monotonic()
        joined = join(find_pieces(spool), spool / "artifacts" / FILE)
        join_seconds = time.monotonic() - began
    began = time.monotonic()
    asyncio.run(_take_over(directories, job, joined))
    return RecordingEnd(
        size_bytes=joined.size_bytes,
        recorded_seconds=joined.duration_seconds,
        join_seconds=join_seconds,
        take_over_seconds=time.monotonic() - began,
    )


async def _take_over(directories: Directories, job: Path, joined: Joined) -> None:
    pool = FilePool()
    takeover = Takeover(
        job,
        pool,
        lambda file, target: directories.take("recorder", file, target),
        artifacts="artifacts",
        outcome="outcome.binpb",
    )
    artifact = Artifact(
        file_name=FILE,
        media_type="video/mp4",
        size_bytes=joined.size_bytes,
        sha256=joined.sha256,
    )
    await takeover.collect(Outcome(artifacts=(artifact,)), b"", _never)
    pool.close()


async def _never(file_name: str, _offset: int) -> None:
    raise AssertionError(f"{file_name} lies on this disk")


def _make_pieces(spool: Path, size_bytes: int, progress: ProgressLine) -> None:
    """One piece of moving pictures and noise, over and over."""
    folder = spool / PIECES
    folder.mkdir()
    first = folder / f"0001-{0:013d}.mkv"
    writer = PieceWriter(first, QUALITY)
    random = np.random.default_rng(1)
    noise = random.integers(0, 255, (QUALITY.height, QUALITY.width * 2, 3), dtype=np.uint8)
    noise[:, :, :] //= 8
    for number in range(PIECE_SECONDS * QUALITY.fps):
        shift = number * 8 % QUALITY.width
        picture = np.ascontiguousarray(noise[:, shift : shift + QUALITY.width])
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
        writer.put_picture(frame, number)
        samples = random.integers(-99, 99, 2 * RATE_HZ // QUALITY.fps, dtype=np.int16)
        writer.put_sound(samples.tobytes(), number * RATE_HZ // QUALITY.fps)
        progress.tell(f"{number / QUALITY.fps:.0f} of {PIECE_SECONDS} s")
    writer.close()
    for number in range(1, max(1, round(size_bytes / first.stat().st_size))):
        begin_ms = number * PIECE_SECONDS * 1000
        shutil.copyfile(first, folder / f"{number + 1:04d}-{begin_ms:013d}.mkv")


@click.command("recording-end")
@click.option("--gigabytes", type=click.FloatRange(0.01, 50), default=1.0, show_default=True)
@click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("/var/tmp"),  # noqa: S108 - a directory of its own is made in it
    show_default=True,
    help="On the disk that is meant; twice the space is needed.",
)
@json_option
def recording_end(*, gigabytes: float, directory: Path, as_json: bool) -> None:
    """Have a long recording joined and taken over, and tell how long that takes."""
    with tempfile.TemporaryDirectory(prefix="callsd-bench-", dir=directory) as place:
        report = bench_recording_end(Path(place), gigabytes)
    if as_json:
        click.echo(json.dumps({**asdict(report), "ratio": report.ratio}))
        return
    click.echo(
        f"{report.size_bytes / 1e9:.2f} GB, {report.recorded_seconds / 3600:.1f} h: joined in "
        f"{report.join_seconds:.1f} s, taken over in {report.take_over_seconds:.2f} s: "
        f"{report.ratio:.3f} × joining alone"
    )
