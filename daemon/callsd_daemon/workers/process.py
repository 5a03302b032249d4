# SPDX-License-Identifier: Apache-2.0
"""The `process` launcher: workers are processes of their own session, started by the daemon."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from callsd_daemon.host import processes


INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CT2_FORCE_CPU_ISA")
"""What a worker gets of the daemon's environment: nothing that is secret or speaks to systemd."""

PROGRAM = os.environ.get("CALLSD_WORKER_PROGRAM", "")
"""A Python file to run as the worker; only for tests of what happens when workers misbehave."""

JOB_LOG = "log.txt"
"""Where in a job's directory its log lies."""

TRUNCATION_MARK = b"\n[callsd: the log was longer than allowed; what stood here is lost]\n"

SWEEP_TIMEOUT_SECONDS = 10.0
SWEEP_INTERVAL_SECONDS = 0.05


class Process:
    """A running worker: our own child, or one that an earlier daemon started."""

    def __init__(self, pid: int, mark: str, child: "subprocess.Popen[bytes] | None") -> None:
        """Raises ProcessLookupError when there is no such process (any more)."""
        self.pid = pid
        self.mark = mark
        self._child = child
        self._pidfd = os.pidfd_open(pid)
        self.exited = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_exit)

    def _on_exit(self) -> None:
        self.detach()
        if self._child is not None:
            self._child.wait()
        self.exited.set()

    @property
    def death_signal(self) -> str:
        """Name of the signal that ended our own child; empty for another end or a stranger."""
        code = None if self._child is None else self._child.returncode
        return signal.Signals(-code).name if code is not None and code < 0 else ""

    @property
    def exit_code(self) -> int | None:
        """Exit code of our own child, once it has ended."""
        return None if self._child is None else self._child.returncode

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


async def sweep(mark: str) -> bool:
    """Kill every process of a job and wait until none is left; False if some stay."""
    deadline = time.monotonic() + SWEEP_TIMEOUT_SECONDS
    # A process that forks while we look is found in the next round.
    while await asyncio.to_thread(processes.kill_job, mark):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(SWEEP_INTERVAL_SECONDS)
    return True


def launch(mark: str, bootstrap: bytes, log: Path) -> Process:
    """Start a worker; what it must know goes through its standard input.

    Never uses `preexec_fn`, `user` or `group`: they would make Python fork this process, which
    gRPC does not survive. Raises OSError when the machine has no process or file left to give.
    """
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    environment[processes.JOB_MARK] = mark
    with log.open("ab") as output:
        child = subprocess.Popen(
            # The mark is of no use to the worker: by it a later daemon knows it again.
            [sys.executable, *([PROGRAM] if PROGRAM else ["-m", "callsd_worker"]), mark],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env=environment,
            start_new_session=True,
        )
    assert child.stdin is not None
    # Far smaller than a pipe's buffer: this never waits for the worker.
    with contextlib.suppress(BrokenPipeError), child.stdin:
        child.stdin.write(bootstrap)
    return Process(child.pid, mark, child)


def adopt(mark: str) -> Process | None:
    """The worker that an earlier daemon started for this attempt, if it lives."""
    pid = processes.leader_of_job(mark)
    if pid is None:
        return None
    try:
        process = Process(pid, mark, None)
    except ProcessLookupError:
        return None
    # The pid may have passed to somebody else before we held on to it.
    if processes.leader_of_job(mark) != pid:
        process.detach()
        return None
    return process


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
