# SPDX-License-Identifier: Apache-2.0
"""One line on stderr that tells how far a measurement is."""

import sys
from types import TracebackType
from typing import Self


class ProgressLine:
    """Rewrites itself on a terminal; elsewhere only says what begins and how it went."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._is_terminal = sys.stderr.isatty()
        self._last = ""

    def __enter__(self) -> Self:
        if not self._is_terminal:
            self._write(f"{self._label} …\n")
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_terminal:
            self._write("\r\x1b[K")
        elif self._last:
            self._write(f"{self._last}\n")

    def show(self, share_done: float, elapsed_seconds: float, peak_bytes: int) -> None:
        """Show the newest state."""
        self.tell(f"{share_done:4.0%}, {elapsed_seconds:.0f} s, {peak_bytes / 1e6:.0f} MB")

    def tell(self, text: str) -> None:
        """Show how it goes, over and over; the last time counts where no line can be rewritten."""
        self._last = f"{self._label}: {text}"
        if self._is_terminal:
            self._write(f"\r\x1b[K{self._last}")

    def step(self, text: str) -> None:
        """Say what is done now; on a line of its own where none can be rewritten."""
        self._last = ""
        self._write(f"\r\x1b[K{self._label}: {text}" if self._is_terminal else f"  {text}\n")

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
