# SPDX-License-Identifier: Apache-2.0
"""The process that records one piece: it reads display and sound server, encodes, and writes.

`python -m callsd_worker.recorder.piece_process REQUEST` with the environment of a source. It
reports its health each half second, a line of JSON, until SIGTERM or SIGINT. When something fails
it reports `{"problem": …}`, writes what it has and exits with 1.
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

from callsd_worker.recorder.errors import RecordingError
from callsd_worker.recorder.framebuffer import Framebuffer
from callsd_worker.recorder.health import Gauges
from callsd_worker.recorder.piece_request import PieceRequest
from callsd_worker.recorder.piece_writer import PieceWriter
from callsd_worker.recorder.sound_reader import SoundReader
from callsd_worker.recorder.timeline import SoundTimeline, delay_seconds


REPORT_SECONDS = 0.5

FRAMES = 5
"""So many pictures may wait to be encoded; further ones are skipped."""

PROBE_WIDTH, PROBE_HEIGHT = 128, 72
"""Pictures are compared by so many of their pixels, for equality: a display has no noise."""

GARBAGE_OBJECTS = 20_000
"""Objects made between runs of the garbage collector: each picture makes some, none in a cycle."""


class PieceProcess:
    """Records until `stop`, or until something fails."""

    def __init__(self, request: PieceRequest) -> None:
        """Connect to display and sound server, create the file; raises RecordingError, OSError."""
        quality = request.quality
        self._fps = quality.fps
        self._frame_rate = float(quality.fps) if quality.has_video else None
        self._framebuffer = Framebuffer(request.framebuffer) if quality.has_video else None
        self._sound_reader = SoundReader()
        self._writer = PieceWriter(request.target, quality)
        self._target = request.target
        self._gauges = Gauges()
        self._timeline = SoundTimeline(frame_rate=self._frame_rate)
        self._pictures: queue.Queue[tuple[VideoFrame, int] | None] = queue.Queue(FRAMES + 1)
        """Those that wait, and the end."""
        self._frames: queue.Queue[VideoFrame] = queue.Queue(FRAMES)
        """Free frames; their number bounds the pictures that wait."""
        self._is_over = threading.Event()
        self._problem = ""
        self._began = time.monotonic()

    def stop(self, *_: object) -> None:
        """End soon."""
        self._is_over.set()

    def run(self, report: TextIO) -> str:
        """Record; returns what has failed, if anything."""
        works = [self._record_sound, *((self._grab, self._encode) if self._framebuffer else ())]
        threads = [threading.Thread(target=self._guarded, args=(work,)) for work in works]
        self._began = time.monotonic()
        self._writer.begin(time.time() - delay_seconds(self._frame_rate))
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
                self._gauges.sample(),
                frame_count=self._writer.frame_count,
                recorded_seconds=self._writer.seconds,
                size_bytes=self._target.stat().st_size,
                drift_ms=1000 * self._timeline.drift_seconds,
            )
            try:
                print(json.dumps(asdict(health)), file=report, flush=True)
            except BrokenPipeError:
                return  # The recorder is gone.

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - the root of a thread; the process ends with it
            self._problem = self._problem or _text(error)
            self._is_over.set()

    def _grab(self) -> None:
        """Read a picture at each multiple of the frame time; those that are missed are skipped."""
        assert self._framebuffer is not None
        for _ in range(FRAMES):
            self._frames.put(self._framebuffer.frame())
        number = 0
        try:
            while not self._is_over.is_set():
                with contextlib.suppress(queue.Empty):
                    frame = self._frames.get_nowait()
                    self._framebuffer.read_into(frame)
                    self._gauges.add_picture(_probe(frame))
                    self._pictures.put((frame, number))
                elapsed = time.monotonic() - self._began
                number = max(number + 1, int(elapsed * self._fps))
                self._is_over.wait(max(0.0, number / self._fps - elapsed))
        finally:
            self._pictures.put(None)

    def _encode(self) -> None:
        while (picture := self._pictures.get()) is not None:
            self._writer.put_picture(*picture)
            self._frames.put(picture[0])

    def _record_sound(self) -> None:
        while not self._is_over.is_set():
            block = self._sound_reader.read_block()
            self._gauges.add_sound(block.samples)
            for samples, position in self._timeline.place(
                block.samples, block.at_seconds - self._began
            ):
                self._writer.put_sound(samples, position)


def _text(error: Exception) -> str:
    if isinstance(error, RecordingError):
        return error.message
    return f"{type(error).__name__}: {error}"


def _probe(frame: VideoFrame) -> bytes:
    plane, line_bytes = memoryview(frame.planes[0]), frame.planes[0].line_size
    step_x, step_y = max(1, frame.width // PROBE_WIDTH), max(1, frame.height // PROBE_HEIGHT)
    starts = range(0, frame.height * line_bytes, step_y * line_bytes)
    return b"".join(bytes(plane[start : start + frame.width : step_x]) for start in starts)


def main(text: str) -> int:
    """Record as requested; returns the exit code."""
    request = PieceRequest.parse(text)
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)
    with os.fdopen(request.report, "w", encoding="utf-8") as report:
        try:
            process = PieceProcess(request)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, process.stop)
            problem = process.run(report)
        except (RecordingError, OSError) as error:
            problem = _text(error)
        if problem:
            print(json.dumps({"problem": problem}), file=report)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
