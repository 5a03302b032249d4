# SPDX-License-Identifier: Apache-2.0
"""Encodes pictures and sound into one piece of a recording.

A piece is a Matroska file that can be read up to its last cluster, even if its writer crashes.
"""

import math
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from callsd_worker.recorder.joining import DATE
from callsd_worker.recorder.quality import Quality
from callsd_worker.recorder.sound import FRAME_BYTES, RATE_HZ


KEYFRAME_SECONDS = 5

CONTAINER = {
    # A cluster a second: so much is lost in a crash.
    "cluster_time_limit": "1000",
    "flush_packets": "1",
    # Longest time that picture and sound wait for each other, in microseconds.
    "max_interleave_delta": "1000000",
}

X264 = "weightp=0:scenecut=0:bframes=0:qpmin=10:aq-strength=0.7:deadzone-inter=28"
"""The preset superfast without what a page does not need: detection of cuts and fades, quantisers
below 10, and B-frames, which would be lost at the end of a piece. Adaptive quantisation puts bits
where they are visible."""

EFFORTS = (
    (15e6, "subme=0:ref=1:aq-mode=0"),
    (20e6, "subme=0:ref=3:aq-mode=2"),
    (math.inf, "subme=1:ref=1:aq-mode=2"),
)
"""Effort of motion search by pixels per second: small recordings should be cheap, for large ones it
is expensive, between them it pays most. Measured: docs/benchmarks.md."""

AAC = {"aac_coder": "fast"}
"""Less noise than the default coder (speech at 64 kbit/s: 30 dB below the signal instead of 22), in
a third of the time."""


class PieceWriter:
    """Writes one piece. Pictures and sound may come from different threads."""

    def __init__(self, target: Path, quality: Quality) -> None:
        """Create the file; raises OSError."""
        self.frame_count = 0
        self.seconds = 0.0
        """Length of the piece so far."""
        self._lock = threading.Lock()
        self._fps = quality.fps
        self._container = av.open(str(target), "w", format="matroska", options=CONTAINER)
        self._video = add_video(self._container, quality) if quality.has_video else None
        self._audio = _add_audio(self._container, quality)

    def begin(self, start_seconds: float) -> None:
        """Note, before anything is put, which Unix time the beginning of the piece shows."""
        began = datetime.fromtimestamp(start_seconds, UTC)
        # It becomes the date of the segment.
        self._container.metadata[DATE] = began.isoformat()

    def put_picture(self, frame: av.VideoFrame, number: int) -> None:
        """Add picture `number`, counted from the beginning; numbers may be missing."""
        assert self._video is not None
        frame.pts, frame.time_base = number, Fraction(1, self._fps)
        self._write(self._video.encode(frame))
        self.frame_count += 1
        self.seconds = max(self.seconds, (number + 1) / self._fps)

    def put_sound(self, samples: bytes, position: int) -> None:
        """Add s16le stereo sound that starts at sample `position` of the piece."""
        count = len(samples) // FRAME_BYTES
        frame = av.AudioFrame(format="s16", layout="stereo", samples=count)
        frame.planes[0].update(samples)
        frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, position, Fraction(1, RATE_HZ)
        self._write(self._audio.encode(frame))
        self.seconds = max(self.seconds, (position + count) / RATE_HZ)

    def close(self) -> None:
        """Write what is left, and close the file."""
        if self._video is not None:
            self._write(self._video.encode(None))
        self._write(self._audio.encode(None))
        self._container.close()

    def _write(self, packets: "Sequence[Packet[Stream]]") -> None:
        with self._lock:
            for packet in packets:
                self._container.mux(packet)


def add_video(container: OutputContainer, quality: Quality) -> VideoStream:
    """A video stream with the settings of this quality."""
    kbps = quality.video_kbps
    stream = container.add_stream("libx264", rate=quality.fps)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height, stream.pix_fmt = quality.width, quality.height, "yuv420p"
    stream.time_base = Fraction(1, quality.fps)
    stream.bit_rate = kbps * 1000
    coder = stream.codec_context
    # Pictures come one by one: a second thread would only add latency and cost.
    coder.thread_count = 1
    coder.options = {
        "preset": "superfast",
        "x264-params": f"{X264}:{_effort(quality)}",
        "g": str(KEYFRAME_SECONDS * quality.fps),
        "maxrate": f"{kbps * 3 // 2}k",
        "bufsize": f"{kbps * 3}k",
    }
    return stream


def _effort(quality: Quality) -> str:
    pixel_rate = quality.width * quality.height * quality.fps
    return next(effort for limit, effort in EFFORTS if pixel_rate <= limit)


def _add_audio(container: OutputContainer, quality: Quality) -> AudioStream:
    stream = container.add_stream("aac", rate=RATE_HZ, layout="stereo")
    assert isinstance(stream, AudioStream)
    stream.bit_rate = quality.audio_kbps * 1000
    stream.codec_context.options = dict(AAC)
    return stream
