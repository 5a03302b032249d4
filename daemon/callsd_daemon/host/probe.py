# SPDX-License-Identifier: Apache-2.0
"""Measures the machine's resources and what other programs use of them, for admission."""

import os
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from callsd_daemon.domain.admission import Host
from callsd_daemon.host import processes


SMOOTHING_SECONDS = 3.0
"""Time constant of the external load: long enough to ignore short bursts, short enough that the
queue moves within seconds after a load has ended."""

CGROUP = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
PRESSURE = Path("/proc/pressure/cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What this process may use: the whole machine, or less by a control group."""

    cores: float
    memory_bytes: int


def limits() -> Limits:
    """The tightest of processor affinity, control group and hardware.

    Source: cgroup v2 `cpu.max`, `memory.max` and cgroup v1 `cpu.cfs_quota_us`,
    `memory.limit_in_bytes`, of our own group and its parents.
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
            # In a container our group may be mounted as the top, and its path not exist.
            yield from (group, *(above for above in group.parents if above.is_relative_to(top)))


def _numbers(path: Path) -> list[int]:
    """The numbers in a control group file; empty when it is missing or says "max"."""
    try:
        words = path.read_text().split()
    except OSError:
        return []
    return [] if "max" in words else [int(word) for word in words]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a worker and its child processes have used."""

    cpu_seconds: float
    """Since its start."""
    memory_bytes: int
    """Resident now; shared memory may be counted for each process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What a worker uses now."""

    cores: float
    memory_bytes: int


class Probe:
    """Samples the machine. Not thread-safe: one caller at a time."""

    def __init__(self, directory: Path) -> None:
        """`directory` is on the file system that jobs write to."""
        self.uses: dict[str, Use] = {}
        """By the names of our workers, as of the last sample."""
        self._directory = directory
        self._limits = limits()
        self._machine_cores = os.cpu_count() or 1
        self._external_cores = 0.0
        self._spent: dict[str, float] = {}
        self._last = (time.monotonic(), self._busy_seconds(), time.process_time())

    def sample(self, spent: Mapping[str, Spent]) -> Host:
        """Measure now. `spent` is what our workers have used, by name."""
        self._measure_processor(spent)
        ours = psutil.Process().memory_info().rss + sum(one.memory_bytes for one in spent.values())
        memory = psutil.virtual_memory()
        disk = shutil.disk_usage(self._directory)
        used_by_others = memory.total - memory.available - ours
        memory_total = min(memory.total, self._limits.memory_bytes)
        return Host(
            cores_total=self._limits.cores,
            # Others are first counted against what is beyond our own limits.
            cores_external=max(
                0.0, self._external_cores - (self._machine_cores - self._limits.cores)
            ),
            memory_total_bytes=memory_total,
            memory_external_bytes=max(0, used_by_others - (memory.total - memory_total)),
            disk_total_bytes=disk.total,
            disk_free_bytes=disk.free,
            cpu_pressure=_pressure(),
        )

    def _measure_processor(self, spent: Mapping[str, Spent]) -> None:
        """Update the external load, and what each worker uses."""
        now, busy, own = time.monotonic(), self._busy_seconds(), time.process_time()
        then, busy_then, own_then = self._last
        elapsed = now - then
        if elapsed <= 0:
            return
        taken = {
            # The sum can fall: children whose parent has not waited for them drop out of it.
            name: max(0.0, one.cpu_seconds - self._spent.get(name, 0.0))
            for name, one in spent.items()
        }
        others = (busy - busy_then - (own - own_then) - sum(taken.values())) / elapsed
        weight = min(1.0, elapsed / SMOOTHING_SECONDS)
        self._external_cores += weight * (max(0.0, others) - self._external_cores)
        self.uses = {
            name: Use(cores=taken[name] / elapsed, memory_bytes=one.memory_bytes)
            for name, one in spent.items()
        }
        self._spent = {name: one.cpu_seconds for name, one in spent.items()}
        self._last = (now, busy, own)

    @staticmethod
    def _busy_seconds() -> float:
        """Busy time of all processors together. Source: first line of /proc/stat."""
        with (processes.PROC / "stat").open() as lines:
            user, nice, system, _idle, _wait, irq, soft, steal = map(
                int, lines.readline().split()[1:9]
            )
        return (user + nice + system + irq + soft + steal) / processes.TICKS_PER_SECOND


def _pressure() -> float | None:
    """Share of the last 10 s in which some task waited for a processor, 0 to 1; None if unknown."""
    try:
        words = PRESSURE.read_text().split()
    except OSError:
        return None
    return float(words[1].removeprefix("avg10=")) / 100
