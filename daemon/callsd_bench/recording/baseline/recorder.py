# SPDX-License-Identifier: Apache-2.0
"""Records a page as today's recorder does, so that ours can be compared with it in one run.

A display that refreshes 60 times a second, a browser in kiosk mode, and an ffmpeg that grabs
screen and sound into a plain MP4. Where ours differs, it is the point of the comparison. What
differs from today's on purpose: display, sound server and profile are those of this one recording
(it has a container for that), ffmpeg reads PulseAudio directly instead of through ALSA, and nothing
is counted for the process that drives the others.
"""

import os
import select
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from callsd_bench.recording.baseline.browser import BaselineBrowser
from callsd_bench.recording.cost import CostMeter, TreeCost
from callsd_bench.shared.errors import BenchError
from callsd_worker.recorder.cdp import CdpError
from callsd_worker.recorder.errors import RecordingError
from callsd_worker.recorder.program_host import ProgramHost, program
from callsd_worker.recorder.sound import is_listening


START_SECONDS = 10.0
"""For display, sound server and ffmpeg."""
OVER_POLL_SECONDS = 2.0
STOP_SECONDS = 60.0
"""For ffmpeg: it writes the whole file a second time."""

SINK = "grab"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What is recorded, as the plugin's settings have it."""

    width: int
    height: int
    fps: int
    video_kbps: int
    audio_kbps: int
    preset: str
    """Of x264."""


PROFILES = {
    "low": Profile(
        width=1280, height=720, fps=15, video_kbps=1000, audio_kbps=64, preset="ultrafast"
    ),
    "medium": Profile(
        width=1280, height=720, fps=20, video_kbps=1500, audio_kbps=64, preset="veryfast"
    ),
    "high": Profile(
        width=1920, height=1080, fps=20, video_kbps=2500, audio_kbps=64, preset="veryfast"
    ),
}


def record_baseline(url: str, profile: Profile, *, seconds: float, target: Path) -> TreeCost:
    """Record a page for so long into an MP4 file; tell what that cost.

    What counts is from the first recorded frame to the order to stop; `seconds` may be cut short
    by a page that closes its call. BenchError: something does not start, or falls over.
    """
    host = ProgramHost()
    try:
        return _record(host, url, profile, seconds=seconds, target=target)
    except (RecordingError, CdpError) as problem:
        raise BenchError(f"the baseline recorder failed: {problem}") from problem
    finally:
        host.close()


def _record(
    host: ProgramHost, url: str, profile: Profile, *, seconds: float, target: Path
) -> TreeCost:
    display, display_process = _start_display(host, profile)
    pulse, pulse_process = _start_sound(host)
    environment = {"DISPLAY": display, "PULSE_SERVER": f"unix:{pulse}"}
    browser = BaselineBrowser(
        host, width=profile.width, height=profile.height, environment=environment
    )
    try:
        browser.join(url)
        encoder = _start_encoder(host, profile, environment, target)
        meter = CostMeter(
            [display_process.pid, pulse_process.pid, browser.process.pid, encoder.pid]
        )
        meter.start()
        ends_at = time.monotonic() + seconds
        while (left_seconds := ends_at - time.monotonic()) > 0 and not browser.is_over():
            time.sleep(min(left_seconds, OVER_POLL_SECONDS))
        cost = meter.stop()
        _stop_encoder(encoder, target)
        browser.leave()
    finally:
        browser.close()
    return cost


def _start_display(host: ProgramHost, profile: Profile) -> tuple[str, "subprocess.Popen[bytes]"]:
    reading, writing = os.pipe()
    try:
        process = host.start(
            [
                *(program("Xvfb"), "-displayfd", str(writing)),
                *("-screen", "0", f"{profile.width}x{profile.height}x24", "-dpi", "96"),
                *("-nolisten", "tcp", "-nolisten", "unix"),
            ],
            pass_fds=(writing,),
        )
    finally:
        os.close(writing)
    with os.fdopen(reading, "rb") as told:
        readable, _, _ = select.select([told], [], [], START_SECONDS)
        number = told.readline().decode().strip() if readable else ""
    if not number:
        raise BenchError("Xvfb did not start: try `Xvfb :99` by hand and read what it says")
    return f":{number}", process


def _start_sound(host: ProgramHost) -> tuple[Path, "subprocess.Popen[bytes]"]:
    socket = host.directory / "pulse.sock"
    process = host.start(
        [
            *(program("pulseaudio"), "-n", "--daemonize=no", "--use-pid-file=no"),
            *("--exit-idle-time=-1", "--disable-shm=true", "--log-level=error"),
            *("-L", f"module-native-protocol-unix socket={socket} auth-anonymous=1"),
            *("-L", f"module-null-sink sink_name={SINK}"),
        ],
        environment={"XDG_RUNTIME_DIR": str(host.directory)},
    )
    deadline = time.monotonic() + START_SECONDS
    while not is_listening(socket):
        if process.poll() is not None or time.monotonic() > deadline:
            raise BenchError("PulseAudio did not start: try `pulseaudio -n` by hand")
        time.sleep(0.01)
    return socket, process


def _start_encoder(
    host: ProgramHost, profile: Profile, environment: dict[str, str], target: Path
) -> "subprocess.Popen[bytes]":
    """Start ffmpeg, and wait until it records."""
    reading, writing = os.pipe()
    try:
        process = host.start(
            [
                *(program("ffmpeg"), "-nostdin", "-loglevel", "error", "-nostats"),
                *("-stats_period", "0.10", "-progress", f"pipe:{writing}", "-y"),
                *("-thread_queue_size", "4096", "-f", "pulse", "-i", f"{SINK}.monitor"),
                *("-r", str(profile.fps), "-thread_queue_size", "4096", "-f", "x11grab"),
                *("-draw_mouse", "0", "-s", f"{profile.width}x{profile.height}"),
                *("-i", environment["DISPLAY"], "-c:v", "h264", "-preset", profile.preset),
                *("-vf", "format=yuv420p", "-b:v", f"{profile.video_kbps}k"),
                *("-b:a", f"{profile.audio_kbps}k", "-movflags", "+faststart", str(target)),
            ],
            environment=environment,
            pass_fds=(writing,),
        )
    finally:
        os.close(writing)
    readable, _, _ = select.select([reading], [], [], START_SECONDS)
    if not (readable and os.read(reading, 1)):
        os.close(reading)
        raise BenchError("ffmpeg did not record: it lacks x11grab, pulse or libx264")
    _drain(reading)
    return process


def _drain(descriptor: int) -> None:
    """Read what ffmpeg tells until it ends; it would wait for a reader."""

    def read() -> None:
        with os.fdopen(descriptor, "rb") as told:
            while told.read(4096):
                pass

    threading.Thread(target=read, name="progress", daemon=True).start()


def _stop_encoder(encoder: "subprocess.Popen[bytes]", target: Path) -> None:
    encoder.send_signal(signal.SIGTERM)
    try:
        # 255 = ended by the signal, with the file written.
        is_well = encoder.wait(STOP_SECONDS) in (0, 255)
    except subprocess.TimeoutExpired:
        is_well = False
    if not is_well or not target.exists():
        raise BenchError(f"ffmpeg fell over while it recorded {target}")
