# SPDX-License-Identifier: Apache-2.0
"""A sound server of its own for one recording: what the page plays is what is recorded."""

import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from callsd_worker.recorder.errors import RecordingError, RecordingReason
from callsd_worker.recorder.program_host import ProgramHost, program


START_SECONDS = 10.0
LOOK_SECONDS = 0.01

SINK = "grab"
MONITOR = f"{SINK}.monitor"
RATE_HZ = 48_000
"""What browsers play at: nothing is resampled on the way."""
CHANNELS = 2
FRAME_BYTES = CHANNELS * 2
"""Of one sample of all channels, s16le."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """A sound server that runs."""

    socket: Path
    process: "subprocess.Popen[bytes]"

    @property
    def environment(self) -> Mapping[str, str]:
        """What a program needs to find it."""
        return {"PULSE_SERVER": f"unix:{self.socket}"}


def start_sound(host: ProgramHost) -> Sound:
    """Start a sound server with one sink that leads nowhere; raises CAPTURE_UNAVAILABLE."""
    socket = host.private_directory("sound") / "pulse.sock"
    # The browser plays at the server's own rate: at another one sound is resampled, and again here.
    settings = host.directory / "pulse.conf"
    settings.write_text(f"default-sample-rate = {RATE_HZ}\n", encoding="ascii")
    process = host.start(
        [
            *(program("pulseaudio"), "-n", "--daemonize=no", "--use-pid-file=no"),
            *("--exit-idle-time=-1", "--disable-shm=yes", "--log-level=error"),
            # Whoever reaches the socket is let in, which is the browser and we: its directory is
            # the browser's user's alone.
            *("-L", f"module-native-protocol-unix socket={socket} auth-anonymous=1"),
            # norewinds: without it a sink that nobody plays to takes 2 s at a time, and for so long
            # nothing is heard at the beginning.
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
    while not socket.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RecordingError(
                RecordingReason.CAPTURE_UNAVAILABLE,
                "PulseAudio did not start: try `pulseaudio -n --daemonize=no` by hand and read "
                "what it says",
            )
        time.sleep(LOOK_SECONDS)
    return Sound(socket=socket, process=process)
