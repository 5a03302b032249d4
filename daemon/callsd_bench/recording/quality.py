# SPDX-License-Identifier: Apache-2.0
"""How good a picture is at its rate: the same page coded as we do it and as it is done today."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.video.frame import PictureType

from callsd_bench.recording.baseline.recorder import PROFILES
from callsd_bench.recording.measure import ssim
from callsd_bench.shared.errors import BenchError
from callsd_worker.recorder.errors import RecordingError
from callsd_worker.recorder.piece_writer import add_video
from callsd_worker.recorder.program_host import program
from callsd_worker.recorder.quality import Quality
from callsd_worker.recorder.web_source import Page, WebSource


REFERENCE_SECONDS = 20
CODING_SECONDS = 300.0
READY = "window.callsClient && window.callsClient.connected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ssim:
    """Likeness to what was on the display, 1 = the same."""

    ours: float
    baseline: float


def compare_coding(url: str, profile: str, scratch: Path) -> Ssim:
    """Grab a page without loss, code it both ways, and compare. BenchError: it cannot be done."""
    p = PROFILES[profile]
    quality = Quality(
        width=p.width,
        height=p.height,
        fps=p.fps,
        video_kbps=p.video_kbps,
        audio_kbps=p.audio_kbps,
    )
    reference = scratch / "reference.mkv"
    try:
        with WebSource(Page(url=url, ready_expression=READY), quality) as source:
            source.open(should_stop=lambda: False)
            _run(
                [
                    *("-f", "x11grab", "-draw_mouse", "0", "-framerate", str(p.fps)),
                    *("-video_size", f"{p.width}x{p.height}", "-i", source.environment["DISPLAY"]),
                    *("-t", str(REFERENCE_SECONDS), "-pix_fmt", "yuv420p", "-fps_mode", "cfr"),
                    *("-c:v", "libx264", "-preset", "ultrafast", "-qp", "0", str(reference)),
                ],
                environment=dict(source.environment),
            )
    except RecordingError as problem:
        raise BenchError(f"the page cannot be shown: {problem}") from problem
    ours, baseline = scratch / "ours.mp4", scratch / "baseline.mp4"
    _code(reference, quality, ours)
    todays = ("-c:v", "h264", "-preset", p.preset, "-b:v", f"{p.video_kbps}k")
    _run(["-i", str(reference), "-an", *todays, str(baseline)])
    return Ssim(ours=ssim(reference, ours), baseline=ssim(reference, baseline))


def _code(reference: Path, quality: Quality, target: Path) -> None:
    with av.open(str(reference)) as source, av.open(str(target), "w") as output:
        stream = add_video(output, quality)
        for number, frame in enumerate(source.decode(video=0)):
            frame.pts, frame.time_base = number, Fraction(1, quality.fps)
            frame.pict_type = PictureType.NONE  # Not that which it has in the reference.
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def _run(arguments: Sequence[str], *, environment: dict[str, str] | None = None) -> None:
    try:
        subprocess.run(
            [program("ffmpeg"), "-nostdin", "-loglevel", "error", "-y", *arguments],
            env=environment,
            check=True,
            capture_output=True,
            timeout=CODING_SECONDS,
        )
    except subprocess.SubprocessError as problem:
        raise BenchError(f"ffmpeg failed: {problem}") from problem
