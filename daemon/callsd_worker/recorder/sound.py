# SPDX-License-Identifier: Apache-2.0
"""A sound server for one recording: it plays what the page plays, and nothing else."""

import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from callsd_worker.recorder.errors import Reason, RecordingError
from callsd_worker.recorder.program_host import ProgramHost, program


START_SECONDS = 10.0
CHECK_SECONDS = 0.01

SINK = "grab"
MONITOR = f"{SINK}.monitor"
RATE_HZ = 48_000
"""The rate of browsers: nothing is resampled on the way."""
CHANNELS = 2
FRAME_BYTES = CHANNELS * 2
"""One sample of all channels, s16le."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """A running sound server."""

    socket: Path
    process: "subprocess.Popen[bytes]"

    @property
    def environment(self) -> Mapping[str, str]:
        """What programs need to connect to it."""
        return {"PULSE_SERVER": f"unix:{self.socket}"}


def start_sound(host: ProgramHost) -> Sound:
    """Start a sound server with one null sink; raises CAPTURE_UNAVAILABLE."""
    path = host.private_directory("sound") / "pulse.sock"
    # The browser plays at the server's default rate: at another one sound is resampled twice.
    settings = host.directory / "pulse.conf"
    settings.write_text(f"default-sample-rate = {RATE_HZ}\n", encoding="ascii")
    process = host.start(
        [
            *(program("pulseaudio"), "-n", "--daemonize=no", "--use-pid-file=no"),
            *("--exit-idle-time=-1", "--disable-shm=yes", "--log-level=error"),
            # No authentication: only the browser's user can open the socket's directory, and root.
            *("-L", f"module-native-protocol-unix socket={path} auth-anonymous=1"),
            # norewinds: without it an idle sink works in steps of 2 s, and the first 2 s of sound
            # are lost.
            *(
                "-L",
                f"module-null-sink sink_name={SINK} rate={RATE_HZ} channels={CHANNELS} norewinds=1",
            ),
        ],
        environment={
            "PULSE_CONFIG": str(settings),
            "XDG_RUNTIME_DIR": str(host.directory),
        },
    )
    deadline = time.monotonic() + START_SECONDS
    while not is_listening(path):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RecordingError(
                Reason.CAPTURE_UNAVAILABLE,
                "PulseAudio did not start: try `pulseaudio -n --daemonize=no` by hand and read "
                "its output",
            )
        time.sleep(CHECK_SECONDS)
    return Sound(socket=path, process=process)


def is_listening(path: Path) -> bool:
    """Whether somebody answers there: a socket has its file before it can be connected to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CHECK_SECONDS)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
