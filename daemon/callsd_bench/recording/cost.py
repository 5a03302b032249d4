# SPDX-License-Identifier: Apache-2.0
"""What the processes of one recording cost between two moments, program by program."""

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

from callsd_bench.shared.errors import BenchError


PSS_SECONDS = 2.0
"""Time between two looks at memory. One walks all pages of a browser: some 10 ms of processor
time, which is ours and not that of the recording."""

PROGRAMS = ("chromium", "Xvfb", "ffmpeg", "pulseaudio", "python")
OTHER = "other"

_BEGINNINGS = {"chrom": "chromium", "python": "python", "callsd": "python"}
"""A browser's helpers and the versions of Python have names of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeCost:
    """What processes with all their descendants took between two moments."""

    wall_seconds: float
    cpu_seconds: float
    """User and system time."""
    cpu_seconds_by_program: Mapping[str, float]
    """The same; keys are PROGRAMS and OTHER. A process that has ended counts for its parent."""
    mean_pss_bytes: int
    peak_pss_bytes: int
    """Memory with shared pages divided among their users."""

    @property
    def cpu_seconds_per_minute(self) -> float:
        """The figure that recorders are compared by."""
        return 60 * self.cpu_seconds / self.wall_seconds


class CostMeter:
    """Watches the processes `roots` and all their descendants from start() to stop().

    Processor time is read at both ends only, and includes that of descendants which ended in
    between, provided their parents waited for them and live: each process counts with what it has
    used itself and what those used that it waited for, and this sum only ever grows. Memory is
    looked at each PSS_SECONDS by a thread. What is asked here is paid by this process, which is
    none of those watched.
    """

    def __init__(self, roots: Sequence[int]) -> None:
        self._roots = tuple(roots)
        self._is_over = threading.Event()
        self._pss_bytes: list[int] = []
        self._looker = threading.Thread(target=self._look, name="memory", daemon=True)
        self._started = 0.0
        self._before: dict[str, float] = {}

    def start(self) -> None:
        """Begin to count. BenchError: one of the processes has ended."""
        self._before = self._cpu_seconds()
        self._started = time.monotonic()
        self._looker.start()

    def stop(self) -> TreeCost:
        """End, and tell. BenchError: one of the processes has ended."""
        after = self._cpu_seconds()
        wall_seconds = time.monotonic() - self._started
        self._is_over.set()
        self._looker.join()
        by_program = {program: after[program] - self._before[program] for program in after}
        return TreeCost(
            wall_seconds=wall_seconds,
            cpu_seconds=sum(by_program.values()),
            cpu_seconds_by_program=by_program,
            mean_pss_bytes=sum(self._pss_bytes) // len(self._pss_bytes),
            peak_pss_bytes=max(self._pss_bytes),
        )

    def _look(self) -> None:
        while True:
            self._pss_bytes.append(sum(map(_pss_bytes, self._processes())))
            if self._is_over.wait(PSS_SECONDS):
                return

    def _cpu_seconds(self) -> dict[str, float]:
        total = dict.fromkeys((*PROGRAMS, OTHER), 0.0)
        for pid in self._roots:
            if not psutil.pid_exists(pid):
                raise BenchError(f"process {pid} has ended while it was measured")
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                # Itself and those it waited for; the fifth figure is waiting, not work.
                total[_program(process.name())] += sum(process.cpu_times()[:4])
        return total

    def _processes(self) -> set[psutil.Process]:
        found: set[psutil.Process] = set()
        for pid in self._roots:
            with contextlib.suppress(psutil.NoSuchProcess):
                root = psutil.Process(pid)
                found.update([root, *root.children(recursive=True)])
        return found


def _pss_bytes(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return int(process.memory_full_info().pss)
    return 0


def _program(name: str) -> str:
    if name in PROGRAMS:
        return name
    return next(
        (program for start, program in _BEGINNINGS.items() if name.startswith(start)), OTHER
    )
