# SPDX-License-Identifier: Apache-2.0
"""`callsd` on a machine where odd things happen: the clock is set, or something blocks.

Environment: CALLSD_TEST_CLOCK, a file that says by how many seconds the wall clock is off; the
monotonic clock goes on, as it does when somebody sets the other one. SIGUSR2 blocks the event loop,
until the file CALLSD_TEST_GO is there.
"""

import asyncio
import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from callsd_daemon import app
from tests.helpers import serve


STALL_SECONDS = 30.0
POLL_SECONDS = 0.05


def _now() -> datetime:
    clock = Path(os.environ["CALLSD_TEST_CLOCK"])
    return datetime.now(UTC) + timedelta(seconds=float(clock.read_text()))


def the_call_that_blocks() -> None:
    """What nobody may do on an event loop."""
    go, end = Path(os.environ["CALLSD_TEST_GO"]), time.monotonic() + STALL_SECONDS
    while not go.exists() and time.monotonic() < end:
        time.sleep(POLL_SECONDS)


def _install_signals(daemon: app._Daemon) -> None:
    _original(daemon)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, the_call_that_blocks)


if __name__ == "__main__":
    if "CALLSD_TEST_CLOCK" in os.environ:
        app._now = _now
    _original = app._Daemon._install_signals
    app._Daemon._install_signals = _install_signals  # type: ignore[assignment, method-assign]
    serve._main()
