# SPDX-License-Identifier: Apache-2.0
"""Media files of every kind, made by Debian's FFmpeg."""

import shutil
import subprocess
from pathlib import Path


TIMEOUT_SECONDS = 60.0


def ffmpeg(*arguments: str | Path) -> None:
    """Run it; its own words explain a failure (`CalledProcessError.stderr`)."""
    program = shutil.which("ffmpeg")
    assert program
    subprocess.run(
        [program, "-nostdin", "-y", "-loglevel", "error", *map(str, arguments)],
        check=True,
        capture_output=True,
        timeout=TIMEOUT_SECONDS,
    )
