# SPDX-License-Identifier: Apache-2.0
"""A running worker, known by its mark, whoever has started it."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from callsd_daemon.host import processes


JOB_LOG = "log.txt"
"""Where in a job's directory its log lies."""

TRUNCATION_MARK = b"\n[callsd: the log was longer than allowed; what stood here is lost]\n"

SWEEP_TIMEOUT_SECONDS = 10.0
SWEEP_INTERVAL_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a worker ended, as far as it is known: nobody tells of a stranger's end."""

    exit_code: int | None = None
    """None when it is not known, or a signal ended it."""
    signal: str = ""
    """Name of the signal that ended it."""
    is_out_of_memory: bool = False
    """Whether the kernel ended it because it had more than its share."""


class Process:
    """A running worker: one that we have started, or that an earlier daemon has."""

    def __init__(self, pid: int, mark: str, read_end: Callable[[], Awaitable[End]]) -> None:
        """`read_end` is awaited once it has exited.

        Raises ProcessLookupError when there is no such process (any more).
        """
        self.pid = pid
        self.mark = mark
        self.exited = asyncio.Event()
        self.end = End()
        """Known once `exited` is set."""
        self._read_end = read_end
        self._ending: asyncio.Task[None] | None = None
        self._pidfd = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_exit)

    def _on_exit(self) -> None:
        self.detach()
        self._ending = asyncio.create_task(self._take_end())

    async def _take_end(self) -> None:
        try:
            self.end = await self._read_end()
        finally:
            self.exited.set()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the worker, if it still lives."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def detach(self) -> None:
        """Stop watching; the worker goes on."""
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1


def adopt(mark: str, read_end: Callable[[], Awaitable[End]]) -> Process | None:
    """The worker that an earlier daemon started for this attempt, if it lives."""
    pid = processes.leader_of_job(mark)
    if pid is None:
        return None
    try:
        process = Process(pid, mark, read_end)
    except ProcessLookupError:
        return None
    # The pid may have passed to somebody else before we held on to it.
    if processes.leader_of_job(mark) != pid:
        process.detach()
        return None
    return process


async def sweep(mark: str) -> bool:
    """Kill every process of a job and wait until none is left; False if some stay."""
    deadline = time.monotonic() + SWEEP_TIMEOUT_SECONDS
    # A process that forks while we look is found in the next round.
    while await asyncio.to_thread(processes.kill_job, mark):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(SWEEP_INTERVAL_SECONDS)
    return True


def bound_log(log: Path, max_bytes: int) -> None:
    """Cut a worker's log when it has grown too long."""
    # The worker appends, so that after a cut it goes on at the new end by itself.
    try:
        if log.stat().st_size > max_bytes:
            os.truncate(log, 0)
            with log.open("ab") as file:
                file.write(TRUNCATION_MARK)
    except FileNotFoundError:
        return
