# SPDX-License-Identifier: Apache-2.0
"""The log of a captions job: what the daemon itself has to say of a call."""

import contextlib
import time
from datetime import UTC, datetime
from pathlib import Path

from callsd_daemon.workers.worker_log import append


MAX_BURST = 100
"""CallLog that may come at once, as when a call begins and everybody joins."""

NOTES_PER_SECOND = 2.0
"""And from then on. They are written at once, on the event loop: clients can cause any number."""


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
        self._tell_left_out()
        self._append(text)

    def close(self) -> None:
        """Tell of what was left out at last."""
        self._tell_left_out()

    def _tell_left_out(self) -> None:
        if self._left_out:
            self._append(f"{self._left_out} notes are left out here: there were too many at once")
            self._left_out = 0

    def _append(self, text: str) -> None:
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        with contextlib.suppress(OSError):
            append(self._path, f"{stamp} {text}\n".encode(), max_bytes=self._max_bytes)
