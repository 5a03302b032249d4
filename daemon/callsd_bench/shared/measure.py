# SPDX-License-Identifier: Apache-2.0
"""What a process costs, from its first instruction to its last."""

import contextlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil

from callsd_bench.shared.errors import BenchError


# Often enough to see the peak of a run of seconds; each look costs a millisecond.
_SAMPLE_SECONDS = 0.2
# No benchmark of this kind runs longer; a child that does is stuck.
_MAX_SECONDS = 4 * 3600.0
_STDERR_TAIL_CHARACTERS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a process and its descendants took."""

    wall_seconds: float
    cpu_seconds: float
    """User and system time, descendants included."""
    peak_pss_bytes: int
    """Memory with shared pages divided among their users; USS or RSS where that is not told."""


OnSample = Callable[[float, int], None]
"""Called with the seconds since the start and the peak of memory so far, in bytes."""


def run_measured(
    command: Sequence[str],
    request: bytes,
    *,
    on_sample: OnSample = lambda _, __: None,
    sample_seconds: float = _SAMPLE_SECONDS,
) -> Cost:
    """Run a command with `request` on its stdin until it ends. BenchError: it failed.

    Each `sample_seconds` its memory is looked at, which takes milliseconds of its machine.
    """
    with (
        tempfile.TemporaryFile() as stdin,
        tempfile.TemporaryFile("w+", errors="replace") as stderr,
    ):
        stdin.write(request)
        stdin.seek(0)
        started = time.monotonic()
        process = subprocess.Popen(command, stdin=stdin, stdout=stderr, stderr=stderr)
        ended = threading.Event()
        waiter = _Waiter(process, ended)
        waiter.start()
        peak_bytes = 0
        try:
            while not ended.wait(sample_seconds):
                peak_bytes = max(peak_bytes, memory_bytes(process.pid))
                elapsed_seconds = time.monotonic() - started
                on_sample(elapsed_seconds, peak_bytes)
                if elapsed_seconds > _MAX_SECONDS:
                    raise BenchError(f"{command[0]} did not end within {_MAX_SECONDS:.0f} s")
        finally:
            if not ended.is_set():
                os.kill(process.pid, 9)
            waiter.join()
        if waiter.exit_code != 0:
            stderr.seek(0)
            raise BenchError(
                f"{' '.join(command)} ended with {waiter.exit_code}:\n"
                + stderr.read()[-_STDERR_TAIL_CHARACTERS:]
            )
    return Cost(
        wall_seconds=waiter.ended_at - started,
        cpu_seconds=waiter.cpu_seconds,
        peak_pss_bytes=peak_bytes,
    )


class _Waiter(threading.Thread):
    """Waits for the child by the one call that also tells what it used."""

    def __init__(self, process: subprocess.Popen[bytes], ended: threading.Event) -> None:
        super().__init__(daemon=True)
        self._process = process
        self._ended = ended
        self.exit_code = 0
        self.cpu_seconds = 0.0
        self.ended_at = 0.0

    def run(self) -> None:
        _, status, usage = os.wait4(self._process.pid, 0)
        self.ended_at = time.monotonic()
        self.exit_code = self._process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu_seconds = usage.ru_utime + usage.ru_stime
        self._ended.set()


def memory_bytes(pid: int) -> int:
    """Memory of a process and all its descendants now; 0 once it has ended."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += _one_process_bytes(process)
    return total


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and all its descendants so far; 0 once it has ended.

    Descendants that have ended count when they were waited for.
    """
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])
    return total


def _one_process_bytes(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.AccessDenied):
        memory = process.memory_full_info()
        return int(getattr(memory, "pss", 0) or memory.uss)
    return int(process.memory_info().rss)
