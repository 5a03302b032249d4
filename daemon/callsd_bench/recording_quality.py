# SPDX-License-Identifier: Apache-2.0
"""How good a picture is at its rate: the same page coded as we do it and as it is done today."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from callsd_bench.errors import BenchError
from callsd_bench.recording_baseline import PROFILES
from callsd_bench.recording_measure import ssim
from callsd_worker.recorder.encoder import Quality, video_coding
from callsd_worker.recorder.errors import RecordingError
from callsd_worker.recorder.studio import Page, Studio
from callsd_worker.recorder.workshop import program


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
        with Studio(Page(url=url, ready_expression=READY), quality) as studio:
            studio.open(should_stop=lambda: False)
            _run(
                [
                    *("-f", "x11grab", "-draw_mouse", "0", "-framerate", str(p.fps)),
                    *("-video_size", f"{p.width}x{p.height}", "-i", studio.environment["DISPLAY"]),
                    *("-t", str(REFERENCE_SECONDS), "-pix_fmt", "yuv420p", "-fps_mode", "cfr"),
                    *("-c:v", "libx264", "-preset", "ultrafast", "-qp", "0", str(reference)),
                ],
                environment=dict(studio.environment),
            )
    except RecordingError as problem:
        raise BenchError(f"the page cannot be shown: {problem}") from problem
    todays = ["-c:v", "h264", "-preset", p.preset, "-b:v", f"{p.video_kbps}k"]
    return Ssim(
        ours=_coded(reference, video_coding(quality), scratch / "ours.mp4"),
        baseline=_coded(reference, todays, scratch / "baseline.mp4"),
    )


def _coded(reference: Path, coding: Sequence[str], target: Path) -> float:
    _run(["-i", str(reference), "-an", *coding, str(target)])
    return ssim(reference, target)


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
