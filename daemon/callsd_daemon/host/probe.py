# SPDX-License-Identifier: Apache-2.0
"""Measures what the machine has and what others use of it, for admission."""

import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from callsd_daemon.domain.admission import Host
from callsd_daemon.host import processes


SMOOTHING_SECONDS = 3.0
"""Time constant of the external load: long enough to pass over a short burst, short enough that
a queue moves within seconds after a load has ended."""

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

CGROUP = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
PRESSURE = Path("/proc/pressure/cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What this process may use: the machine, or less where a control group says so."""

    cores: float
    memory_bytes: int


def limits() -> Limits:
    """The tightest of processor affinity, control group and hardware.

    Source: cgroup v2 `cpu.max`, `memory.max` and cgroup v1 `cpu.cfs_quota_us`,
    `memory.limit_in_bytes`, of our own group and all above it.
    """
    cores = float(len(os.sched_getaffinity(0)))
    memory = psutil.virtual_memory().total
    for directory in _own_groups():
        quota = _numbers(directory / "cpu.max")
        if len(quota) == 2:  # noqa: PLR2004 - quota and period
            cores = min(cores, quota[0] / quota[1])
        period = _numbers(directory / "cpu.cfs_period_us")
        quota = _numbers(directory / "cpu.cfs_quota_us")
        if period and quota and quota[0] > 0:
            cores = min(cores, quota[0] / period[0])
        for name in ("memory.max", "memory.limit_in_bytes"):
            if limit := _numbers(directory / name):
                memory = min(memory, limit[0])
    return Limits(cores=cores, memory_bytes=memory)


def _own_groups() -> Iterable[Path]:
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or {"cpu", "memory"} & set(controllers.split(",")):
            top = CGROUP / controllers
            group = top / path.lstrip("/")
            # A container may see its own group as the top, under a path that it cannot see.
            yield from (group, *(above for above in group.parents if above.is_relative_to(top)))


def _numbers(path: Path) -> list[int]:
    """The numbers in a control group file; empty when it is missing or says "max"."""
    try:
        words = path.read_text().split()
    except OSError:
        return []
    return [] if "max" in words else [int(word) for word in words]


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What the processes of one session take."""

    cores: float
    memory_bytes: int
    """Resident; what processes share is counted for each."""


class Probe:
    """Samples the machine. Not thread-safe: one caller at a time."""

    def __init__(self, directory: Path) -> None:
        """`directory` lies on the file system that jobs write to."""
        self.uses: dict[int, Use] = {}
        """By session, as of the last sample."""
        self._directory = directory
        self._limits = limits()
        self._machine_cores = os.cpu_count() or 1
        self._external_cores = 0.0
        self._ours: dict[int, int] = {}
        self._last = (time.monotonic(), self._busy_ticks())

    def sample(self, sessions: Iterable[int]) -> Host:
        """Measure now. `sessions` are the process sessions of our workers.

        Takes some milliseconds: it reads the state of every process.
        """
        ours_pages = self._measure_processor(frozenset(sessions))
        memory = psutil.virtual_memory()
        disk = shutil.disk_usage(self._directory)
        used_by_others = memory.total - memory.available - ours_pages * PAGE_BYTES
        memory_total = min(memory.total, self._limits.memory_bytes)
        return Host(
            cores_total=self._limits.cores,
            # What others use first of all takes what is beyond our own limits.
            cores_external=max(
                0.0, self._external_cores - (self._machine_cores - self._limits.cores)
            ),
            memory_total_bytes=memory_total,
            memory_external_bytes=max(0, used_by_others - (memory.total - memory_total)),
            disk_total_bytes=disk.total,
            disk_free_bytes=disk.free,
            cpu_pressure=_pressure(),
        )

    def _measure_processor(self, sessions: frozenset[int]) -> int:
        """Update the external load; returns the memory pages of our own processes."""
        now, busy = time.monotonic(), self._busy_ticks()
        then, busy_then = self._last
        elapsed = now - then
        ours: dict[int, int] = {}
        spent: dict[int, int] = defaultdict(int)
        pages: dict[int, int] = defaultdict(int)
        for pid in processes.pids():
            found = processes.stat(pid)
            if found is not None and (found.session in sessions or pid == os.getpid()):
                ours[pid] = found.cpu_ticks
                spent[found.session] += found.cpu_ticks - self._ours.get(pid, 0)
                pages[found.session] += found.resident_pages
        if elapsed > 0:
            others = (busy - busy_then - sum(spent.values())) / TICKS_PER_SECOND / elapsed
            weight = min(1.0, elapsed / SMOOTHING_SECONDS)
            self._external_cores += weight * (max(0.0, others) - self._external_cores)
            self._last = (now, busy)
            self.uses = {
                session: Use(
                    cores=spent[session] / TICKS_PER_SECOND / elapsed,
                    memory_bytes=pages[session] * PAGE_BYTES,
                )
                for session in sessions & spent.keys()
            }
        self._ours = ours
        return sum(pages.values())

    @staticmethod
    def _busy_ticks() -> int:
        """Ticks in which some processor worked. Source: first line of /proc/stat."""
        with (processes.PROC / "stat").open() as lines:
            user, nice, system, _idle, _wait, irq, soft, steal = map(
                int, lines.readline().split()[1:9]
            )
        return user + nice + system + irq + soft + steal


def _pressure() -> float | None:
    """Share of the last 10 s in which some task waited for a processor, 0 to 1."""
    try:
        words = PRESSURE.read_text().split()
    except OSError:
        return None
    return float(words[1].removeprefix("avg10=")) / 100
