# SPDX-License-Identifier: Apache-2.0
"""A recording of a page, without a daemon."""

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from callsd_worker.recorder.joining import Joined, join
from callsd_worker.recorder.pieces import find_pieces
from callsd_worker.recorder.quality import Quality
from callsd_worker.recorder.recording import Ending, Recorder, Status
from callsd_worker.recorder.web_source import Page
from tests.helpers.waiting import eventually


SMALL = Quality(width=640, height=360, fps=10, video_kbps=500, audio_kbps=64)


class Recording:
    """A recording that runs on a thread of its own."""

    def __init__(self, directory: Path, page: Page, quality: Quality, **options: Any) -> None:
        # As the daemon names jobs: a longer path of a socket Chromium refuses.
        self.directory = directory / secrets.token_hex(10)
        self.directory.mkdir()
        self.statuses: list[Status] = []
        self.stop = threading.Event()
        self.ending: Ending | None = None
        self.error: BaseException | None = None
        self._recorder = Recorder(
            page,
            quality,
            self.directory,
            report=self.statuses.append,
            should_stop=self.stop.is_set,
            **{"min_free_bytes": 0, "max_seconds": 60.0, **options},
        )
        self._thread = threading.Thread(target=self._run, name="recorder")
        self._thread.start()

    def _run(self) -> None:
        try:
            self.ending = self._recorder.run()
        except BaseException as error:  # noqa: BLE001 - the test's thread is told
            self.error = error

    def seconds_of(self, segment: int) -> float:
        """How much is recorded by now, if it is this piece that is recorded."""
        last = self.statuses[-1] if self.statuses else Status(phase="")
        return last.health.recorded_seconds if last.health and last.segment == segment else 0.0

    def await_seconds(self, seconds: float, *, segment: int = 1) -> None:
        """Wait until so much is recorded in all, in this piece."""
        eventually(
            lambda: self.error or self.seconds_of(segment) >= seconds,
            f"{seconds} s are recorded, in piece {segment}",
            seconds=30,
        )
        assert self.error is None

    def end(self) -> Ending:
        """Stop it, and tell why it has ended."""
        self.stop.set()
        return self.await_end()

    def await_end(self) -> Ending:
        """Wait until it has ended, by itself or because it was told to."""
        self._thread.join(30)
        assert self.error is None
        assert self.ending is not None
        return self.ending

    def join(self) -> tuple[Joined, Path]:
        """Join its pieces."""
        target = self.directory / "recording.mp4"
        return join(find_pieces(self.directory), target), target

    def close(self) -> None:
        """Leave nothing behind."""
        self.stop.set()
        self._thread.join(30)


@contextmanager
def recording_of(
    page: Page, directory: Path, quality: Quality = SMALL, **options: Any
) -> Iterator[Recording]:
    """Record, and end it whatever happens."""
    recording = Recording(directory, page, quality, **options)
    try:
        yield recording
    finally:
        recording.close()
