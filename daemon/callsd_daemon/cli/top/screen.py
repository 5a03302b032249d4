# SPDX-License-Identifier: Apache-2.0
"""The terminal of `callsd top`: pictures that replace each other, and keys."""

import asyncio
import os
import signal
import sys
import termios
import tty
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live

from callsd_daemon.cli.top.state import TopState
from callsd_daemon.cli.top.view import frame


KEYS_AT_ONCE = 64


class Screen:
    """The whole terminal; a context manager, which leaves the terminal as it was.

    Belongs to the running event loop.
    """

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._live = Live(
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._is_over = False
        self._keyboard = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._modes: list[Any] = []

    def __enter__(self) -> Self:
        self._loop.add_signal_handler(signal.SIGWINCH, self._woken.set)
        if self._keyboard is not None:
            self._modes = termios.tcgetattr(self._keyboard)
            # Keys one by one and unseen; Ctrl-C still interrupts.
            tty.setcbreak(self._keyboard)
            self._loop.add_reader(self._keyboard, self._read_keys)
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()
        if self._keyboard is not None:
            self._loop.remove_reader(self._keyboard)
            termios.tcsetattr(self._keyboard, termios.TCSADRAIN, self._modes)
        self._loop.remove_signal_handler(signal.SIGWINCH)

    async def show(self, state: TopState, *, interval_seconds: float) -> None:
        """Draw a picture at each interval, and when the terminal's size changes, until q."""
        while not self._is_over:
            width, height = self._console.size
            picture = frame(state, width=width, height=height)
            self._live.update(Group(*picture), refresh=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(interval_seconds):
                    await self._woken.wait()
            self._woken.clear()

    def _read_keys(self) -> None:
        assert self._keyboard is not None
        keys = os.read(self._keyboard, KEYS_AT_ONCE)
        # Nothing at all: the terminal has gone.
        if not keys or b"q" in keys.lower():
            self._is_over = True
            self._woken.set()
