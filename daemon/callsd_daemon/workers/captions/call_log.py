# SPDX-License-Identifier: Apache-2.0
"""The log of a captions job, written by the daemon: who came and went, and what went wrong."""

import contextlib
import time
from datetime import UTC, datetime
from pathlib import Path

from callsd_daemon.workers.worker_log import append


MAX_BURST = 100
"""Notes that may come at once, as when a call begins and everybody joins."""

NOTES_PER_SECOND = 2.0
"""After that. They are written on the event loop, and clients can cause any number of them."""


class CallLog:
    """Belongs to one event loop."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._room = float(MAX_BURST)
        self._last_seconds = time.monotonic()
        self._left_out = 0

    def write(self, text: str) -> None:
        """Write a line, or count it when there are too many."""
        now = time.monotonic()
        gained = (now - self._last_seconds) * NOTES_PER_SECOND
        self._room, self._last_seconds = min(MAX_BURST, self._room + gained), now
        if self._room < 1:
            self._left_out += 1
            return
        self._room -= 1
        self._write_left_out()
        self._append(text)

    def close(self) -> None:
        """Write how many notes were left out at the end."""
        self._write_left_out()

    def _write_left_out(self) -> None:
        if self._left_out:
            self._append(f"{self._left_out} notes are left out here: there were too many at once")
            self._left_out = 0

    def _append(self, text: str) -> None:
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        with contextlib.suppress(OSError):
            append(self._path, f"{stamp} {text}\n".encode(), max_bytes=self._max_bytes)
