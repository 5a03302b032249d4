# SPDX-License-Identifier: Apache-2.0
"""The process that records one piece: grabs a display and a sound server, codes, and writes.

`python -m callsd_worker.recorder.capture ORDER` with the environment of a source. It tells how the
piece is, a line of JSON each half second, until SIGTERM or SIGINT makes it end. When something
fails it tells `{"problem": …}`, writes what it has and ends with 1.
"""

import contextlib
import gc
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TextIO

from av import VideoFrame

from callsd_worker.recorder.audio_capture import AudioCapture
from callsd_worker.recorder.capture_request import CaptureRequest
from callsd_worker.recorder.errors import RecordingError
from callsd_worker.recorder.framebuffer import Framebuffer
from callsd_worker.recorder.health import Gauges
from callsd_worker.recorder.piece_writer import PieceWriter
from callsd_worker.recorder.timeline import SoundTimeline


REPORT_SECONDS = 0.5

FRAMES = 5
"""So many pictures may have been grabbed and not yet coded: further ones are left out."""

PROBE_WIDTH, PROBE_HEIGHT = 128, 72
"""Every picture is looked at by some of its pixels, as they are: on a display nothing is noise."""

GARBAGE_OBJECTS = 20_000
"""Objects made before Python looks for garbage: each picture makes some, none of them in a ring."""


class Capture:
    """Records until it is told to stop, or something fails."""

    def __init__(self, order: CaptureRequest) -> None:
        """Find all that is needed; raises RecordingError, OSError."""
        quality = order.quality
        self._fps = quality.fps
        self._framebuffer = Framebuffer(order.framebuffer) if quality.has_video else None
        self._audio_capture = AudioCapture()
        self._writer = PieceWriter(order.target, quality)
        self._target = order.target
        self._gauges = Gauges()
        self._timeline = SoundTimeline(frame_rate=quality.fps if quality.has_video else None)
        self._pictures: queue.SimpleQueue[tuple[VideoFrame, int] | None] = queue.SimpleQueue()
        self._frames: queue.SimpleQueue[VideoFrame] = queue.SimpleQueue()
        """Those that are free. There are no more, so that no more pictures wait."""
        self._is_over = threading.Event()
        self._problem = ""
        self._began = time.monotonic()

    def stop(self, *_: object) -> None:
        """End soon."""
        self._is_over.set()

    def run(self, report: TextIO) -> str:
        """Record; returns what has failed, if anything."""
        works = [self._hear, *((self._grab, self._code) if self._framebuffer else ())]
        threads = [threading.Thread(target=self._guarded, args=(work,)) for work in works]
        self._began = time.monotonic()
        for thread in threads:
            thread.start()
        try:
            self._report_to(report)
        finally:
            self._is_over.set()
            for thread in threads:
                thread.join()
        self._writer.close()
        return self._problem

    def _report_to(self, report: TextIO) -> None:
        while not self._is_over.wait(REPORT_SECONDS):
            health = replace(
                self._gauges.look(),
                frame_count=self._writer.frame_count,
                recorded_seconds=self._writer.seconds,
                size_bytes=self._target.stat().st_size,
                drift_ms=1000 * self._timeline.drift_seconds,
            )
            try:
                print(json.dumps(asdict(health)), file=report, flush=True)
            except BrokenPipeError:
                return  # Nobody is there any more for whom to record.

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - the root of a thread; the process ends with it
            self._problem = self._problem or _said(error)
            self._is_over.set()

    def _grab(self) -> None:
        """Read a picture at each of its moments; those that are missed are left out."""
        assert self._framebuffer is not None
        for _ in range(FRAMES):
            self._frames.put(self._framebuffer.frame())
        number = 0
        try:
            while not self._is_over.is_set():
                with contextlib.suppress(queue.Empty):
                    frame = self._frames.get_nowait()
                    self._framebuffer.read_into(frame)
                    self._gauges.take_picture(_probe(frame))
                    self._pictures.put((frame, number))
                elapsed = time.monotonic() - self._began
                number = max(number + 1, int(elapsed * self._fps))
                self._is_over.wait(max(0.0, number / self._fps - elapsed))
        finally:
            self._pictures.put(None)

    def _code(self) -> None:
        while (picture := self._pictures.get()) is not None:
            self._writer.put_picture(*picture)
            self._frames.put(picture[0])

    def _hear(self) -> None:
        while not self._is_over.is_set():
            heard = self._audio_capture.hear()
            self._gauges.take_sound(heard.samples)
            for samples, position in self._timeline.place(
                heard.samples, heard.at_seconds - self._began
            ):
                self._writer.put_sound(samples, position)


def _said(error: Exception) -> str:
    if isinstance(error, RecordingError):
        return error.message
    return f"{type(error).__name__}: {error}"


def _probe(frame: VideoFrame) -> bytes:
    plane, line_bytes = memoryview(frame.planes[0]), frame.planes[0].line_size
    step_x, step_y = max(1, frame.width // PROBE_WIDTH), max(1, frame.height // PROBE_HEIGHT)
    starts = range(0, frame.height * line_bytes, step_y * line_bytes)
    return b"".join(bytes(plane[start : start + frame.width : step_x]) for start in starts)


def main(text: str) -> int:
    """Carry out an order."""
    order = CaptureRequest.parse(text)
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)
    with os.fdopen(order.report, "w", encoding="utf-8") as report:
        try:
            capture = Capture(order)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, capture.stop)
            problem = capture.run(report)
        except (RecordingError, OSError) as error:
            problem = _said(error)
        if problem:
            print(json.dumps({"problem": problem}), file=report)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
