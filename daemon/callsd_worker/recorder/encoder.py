# SPDX-License-Identifier: Apache-2.0
"""Grabs a display and a sound server into one piece of a recording: ffmpeg, told by flags.

A piece is a Matroska file that can be read up to its last cluster, whatever becomes of its writer.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from callsd_worker.recorder.errors import RecordingError
from callsd_worker.recorder.sound import MONITOR
from callsd_worker.recorder.workshop import Workshop, program


KEYFRAME_SECONDS = 5
CLUSTER_MILLISECONDS = 1000
"""Sound and picture are on their way to the disk after this: what a crash may cost."""

PULSE_FRAGMENT_BYTES = 9600
"""50 ms of sound, as much as the sink takes at a time: smaller pieces only cost time."""

PROBE_WIDTH, PROBE_HEIGHT = 128, 72
PROBE_BYTES = PROBE_WIDTH * PROBE_HEIGHT
"""Every picture is looked at by some of its pixels, as they are: on a display nothing is noise."""

LEVEL_RATE_HZ = 8000
LEVEL_BYTES = LEVEL_RATE_HZ * 2 // 20
"""A twentieth of a second of mono sound in 16 bits."""

SOUND_LATENESS_SECONDS = 0.04
"""How much later than its picture sound is grabbed: between what a page begins to play at once, for
which the browser's own buffers count (60 ms late), and a film, whose pictures it holds back."""

SCALING = "fast_bilinear"
"""Of colours to their half resolution; better ways are not seen and cost more."""

X264 = "subme=0:weightp=0:scenecut=0:bframes=0"
"""What a picture can do without: motion by parts of a pixel, a look for cuts, which pages
do not have, and frames between frames, whose order is lost with the end of a piece."""

STOP_SECONDS = 5.0
"""How long ffmpeg may take to write what it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What is recorded. Rates in kbit/s, sizes in pixels."""

    width: int
    height: int
    fps: int
    video_kbps: int
    audio_kbps: int
    has_video: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """How far an encoder is."""

    frames: int = 0
    seconds: float = 0.0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Who is told what an encoder does, each on a thread of its own."""

    on_written: Callable[[Written], None]
    on_picture: Callable[[bytes], None]
    """Each picture, as 128 × 72 grey pixels of it."""
    on_sound: Callable[[bytes], None]
    """All sound: each time a twentieth of a second, mono, s16le."""


class Encoder:
    """One running ffmpeg."""

    def __init__(
        self,
        workshop: Workshop,
        quality: Quality,
        target: Path,
        *,
        environment: Mapping[str, str],
        listener: Listener,
        log: int,
    ) -> None:
        """Begin to record into `target`; raises CAPTURE_UNAVAILABLE when ffmpeg does not start."""
        self.target = target
        self._workshop = workshop
        pipes = {name: os.pipe() for name in ("progress", "picture", "sound")}
        writing = {name: pipe[1] for name, pipe in pipes.items()}
        try:
            self.process: subprocess.Popen[bytes] = workshop.start(
                command(quality, target, display=environment["DISPLAY"], **writing),
                environment=environment,
                pass_fds=tuple(writing.values()),
                log=log,
            )
        except RecordingError:
            for reading, _ in pipes.values():
                os.close(reading)
            raise
        finally:
            for descriptor in writing.values():
                os.close(descriptor)
        self._threads = [
            threading.Thread(target=read, args=(pipes[name][0], tell), name=name, daemon=True)
            for name, read, tell in (
                ("progress", _read_progress, listener.on_written),
                ("picture", _blocks_of(PROBE_BYTES), listener.on_picture),
                ("sound", _blocks_of(LEVEL_BYTES), listener.on_sound),
            )
        ]
        for thread in self._threads:
            thread.start()

    @property
    def is_running(self) -> bool:
        """Whether it still records."""
        return self.process.poll() is None

    def stop(self) -> None:
        """Have it write what it has, and end."""
        if self.is_running:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                # What is on the disk is whole up to the last cluster.
                self.process.kill()
        self._workshop.end(self.process)
        for thread in self._threads:
            thread.join(STOP_SECONDS)


def command(
    quality: Quality, target: Path, *, display: str, progress: int, picture: int, sound: int
) -> list[str]:
    """The command line of one recording; the last three are descriptors to write to."""
    q = quality
    grab_video = [
        *("-thread_queue_size", "16", "-f", "x11grab", "-draw_mouse", "0"),
        *("-framerate", str(q.fps), "-video_size", f"{q.width}x{q.height}", "-i", display),
    ]
    grab_sound = [
        # -isync 0: both inputs on one clock, or their beginnings are taken for the same moment.
        *("-thread_queue_size", "1024", *(("-isync", "0") if q.has_video else ())),
        *("-f", "pulse", "-fragment_size", str(PULSE_FRAGMENT_BYTES), "-i", MONITOR),
    ]
    index = 1 if q.has_video else 0
    earlier = f"asetpts=PTS-{SOUND_LATENESS_SECONDS}/TB," if q.has_video else ""
    filters = [
        f"[{index}:a]{earlier}aresample=async=1,asplit[sound][heard]",
        f"[heard]aresample={LEVEL_RATE_HZ},aformat=channel_layouts=mono[level]",
    ]
    if q.has_video:
        filters += [
            f"[0:v]scale=flags={SCALING},format=yuv420p,split[picture][seen]",
            f"[seen]scale={PROBE_WIDTH}:{PROBE_HEIGHT}:flags=neighbor,format=gray[small]",
        ]
    video = ["-map", "[picture]", "-fps_mode", "cfr", *video_coding(q)]
    return [
        *(program("ffmpeg"), "-nostdin", "-hide_banner", "-loglevel", "warning", "-y"),
        *("-progress", f"pipe:{progress}", "-stats_period", "0.5"),
        *(grab_video if q.has_video else ()),
        *grab_sound,
        *("-filter_complex", ";".join(filters)),
        *(video if q.has_video else ()),
        # The fast coder is nearer to what was heard than the default one (speech at 64 kbit/s: 30
        # dB above what it adds, not 22), in a third of the time.
        *("-map", "[sound]", "-c:a", "aac", "-aac_coder", "fast", "-b:a", f"{q.audio_kbps}k"),
        *("-f", "matroska", "-cluster_time_limit", str(CLUSTER_MILLISECONDS)),
        *("-flush_packets", "1", str(target)),
        *(("-map", "[small]", "-f", "rawvideo", f"pipe:{picture}") if q.has_video else ()),
        *("-map", "[level]", "-f", "s16le", f"pipe:{sound}"),
    ]


def video_coding(quality: Quality) -> list[str]:
    """How a picture is coded, whatever it comes from."""
    kbps = quality.video_kbps
    return [
        *("-sws_flags", SCALING, "-pix_fmt", "yuv420p", "-c:v", "libx264"),
        *("-preset", "superfast", "-x264-params", X264, "-threads", "1"),
        *("-b:v", f"{kbps}k", "-maxrate", f"{kbps * 3 // 2}k", "-bufsize", f"{kbps * 3}k"),
        *("-g", str(KEYFRAME_SECONDS * quality.fps)),
    ]


def _read_progress(descriptor: int, tell: Callable[[Written], None]) -> None:
    """Follow what ffmpeg says of itself: `key=value` lines, a block ended by `progress=`."""
    said: dict[str, str] = {}
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            key, _, value = line.strip().partition("=")
            said[key] = value.strip()
            if key == "progress":
                tell(
                    Written(
                        frames=_number(said.get("frame")),
                        seconds=_number(said.get("out_time_us")) / 1e6,
                        size_bytes=_number(said.get("total_size")),
                    )
                )


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


def _blocks_of(size: int) -> Callable[[int, Callable[[bytes], None]], None]:
    def read(descriptor: int, tell: Callable[[bytes], None]) -> None:
        with os.fdopen(descriptor, "rb") as stream:
            while len(block := stream.read(size)) == size:
                tell(block)

    return read
