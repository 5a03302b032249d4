# SPDX-License-Identifier: Apache-2.0
"""A display of its own for one recording: Xvfb, with a refresh rate that fits the recording."""

import os
import secrets
import select
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from callsd_worker.recorder.errors import Reason, RecordingError
from callsd_worker.recorder.program_host import MEMORY, ProgramHost, program


START_SECONDS = 10.0

REFRESH_RATIO = 1.05
"""Refresh rate over frame rate. Chromium paints as often as the display refreshes; painting beyond
the frame rate would take half of the processor time. At exactly the frame rate the two beat: some
frames are recorded twice and others never (18.7 of 20)."""

SCREEN = "Xvfb_screen0"

COOKIE_BYTES = 16
_FAMILY_WILD = 0xFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Display:
    """A running display."""

    name: str
    authority: Path
    process: "subprocess.Popen[bytes]"
    framebuffer: int
    """Descriptor of the file with its screen. Source: Xvfb(1), -fbdir."""

    @property
    def environment(self) -> Mapping[str, str]:
        """What programs need to connect to it."""
        return {"DISPLAY": self.name, "XAUTHORITY": str(self.authority)}

    def close(self) -> None:
        """Close the descriptor; the host ends the process."""
        os.close(self.framebuffer)


def start_display(host: ProgramHost, *, width: int, height: int, fps: int) -> Display:
    """Start a display of this size; raises CAPTURE_UNAVAILABLE."""
    authority = host.directory / "xauthority"
    authority.touch(mode=0o600)
    authority.write_bytes(_authority(secrets.token_bytes(COOKIE_BYTES)))
    host.share(authority)
    reading, writing = os.pipe()
    screens = Path(tempfile.mkdtemp(prefix=f"{host.directory.name}-", dir=MEMORY))
    try:
        process = host.start(
            [
                program("Xvfb"),
                *("-displayfd", str(writing), "-screen", "0", f"{width}x{height}x24"),
                # Without -noreset the display forgets its mode when its first client goes.
                *("-dpi", "96", "-nolisten", "tcp", "-noreset", "-nocursor"),
                *("-auth", str(authority), "-extension", "GLX", "-fbdir", str(screens)),
            ],
            pass_fds=(writing,),
        )
        os.close(writing)
        writing = -1
        number = _line(reading)
        if not number:
            raise RecordingError(
                Reason.CAPTURE_UNAVAILABLE,
                "Xvfb did not start: try `Xvfb :99` by hand and read its output",
            )
        framebuffer = os.open(screens / SCREEN, os.O_RDWR)
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
        # Open descriptors keep the file; nothing is left when their processes are killed.
        shutil.rmtree(screens)
    display = Display(
        name=f":{number}", authority=authority, process=process, framebuffer=framebuffer
    )
    try:
        _set_refresh(display, width=width, height=height, hz=fps * REFRESH_RATIO)
    except BaseException:
        display.close()
        raise
    return display


def _line(descriptor: int) -> str:
    """Read to the end of a line: closing the pipe earlier would kill Xvfb."""
    said = b""
    while not said.endswith(b"\n"):
        if not select.select([descriptor], [], [], START_SECONDS)[0]:
            return ""
        piece = os.read(descriptor, 64)
        if not piece:
            return ""
        said += piece
    return said.decode().strip()


def _authority(cookie: bytes) -> bytes:
    """An Xauthority file with one entry for all displays. Source: libXau, AuWrite.c."""
    fields = (b"", b"", b"MIT-MAGIC-COOKIE-1", cookie)
    entry = b"".join(struct.pack(">H", len(field)) + field for field in fields)
    return struct.pack(">H", _FAMILY_WILD) + entry


def _set_refresh(display: Display, *, width: int, height: int, hz: float) -> None:
    """Set the refresh rate; raises CAPTURE_UNAVAILABLE."""
    # The blanking is arbitrary; what counts is clock = total width × total height × rate.
    clock = (width + 320) * (height + 30) * hz / 1e6
    horizontal = (width, width + 48, width + 96, width + 320)
    vertical = (height, height + 3, height + 8, height + 30)
    mode = ["record", f"{clock:.4f}", *map(str, (*horizontal, *vertical))]
    for arguments in (
        ["--newmode", *mode],
        ["--addmode", "screen", "record"],
        ["--output", "screen", "--mode", "record"],
    ):
        done = subprocess.run(
            [program("xrandr"), *arguments],
            env={**os.environ, **display.environment},
            capture_output=True,
            check=False,
            timeout=START_SECONDS,
        )
        if done.returncode != 0:
            raise RecordingError(
                Reason.CAPTURE_UNAVAILABLE,
                f"the display's refresh rate cannot be set: {done.stderr.decode()[:200].strip()}",
            )
