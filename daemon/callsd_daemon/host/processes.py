# SPDX-License-Identifier: Apache-2.0
"""Processes, known by more than their pid. Source: proc(5)."""

import os
import signal
import time
from collections import defaultdict
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from callsd_ipc.names import JOB_VARIABLE


PROC = Path("/proc")

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def boot_id() -> str:
    """Identifies this boot of the machine."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStat:
    """Some fields of /proc/PID/stat. Times in clock ticks, memory in pages."""

    session: int
    cpu_ticks: int
    """Its own, and those of its ended children."""
    resident_pages: int


def stat(pid: int) -> ProcessStat | None:
    """The fields of a process, or None when there is no such process."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The command's name is in parentheses and may itself contain spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return ProcessStat(
        session=int(fields[3]),
        cpu_ticks=sum(map(int, fields[11:15])),
        resident_pages=int(fields[21]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What the processes of one session have used."""

    cpu_seconds: float
    memory_bytes: int
    """Resident now; shared memory is counted for each process."""


def uses(sessions: AbstractSet[int]) -> dict[int, Use]:
    """What some sessions have used; takes milliseconds, as it reads all of /proc."""
    ticks: dict[int, int] = defaultdict(int)
    pages: dict[int, int] = defaultdict(int)
    for pid in pids() if sessions else ():
        found = stat(pid)
        if found is not None and found.session in sessions:
            ticks[found.session] += found.cpu_ticks
            pages[found.session] += found.resident_pages
    return {
        session: Use(
            cpu_seconds=ticks[session] / TICKS_PER_SECOND,
            memory_bytes=pages[session] * PAGE_BYTES,
        )
        for session in ticks
    }


def age_seconds(pid: int) -> float:
    """How long ago the process was started, on the monotonic clock; 0 if there is none."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return 0.0
    start_ticks = int(text.rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks / TICKS_PER_SECOND


def pids() -> list[int]:
    """All process ids."""
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdecimal()]


def of_job(tag: str) -> list[int]:
    """Processes with this tag in their environment, whatever their session."""
    wanted = f"{JOB_VARIABLE}={tag}".encode()
    found = []
    for pid in pids():
        try:
            environ = (PROC / str(pid) / "environ").read_bytes()
        except OSError:
            continue
        if wanted in environ.split(b"\0"):
            found.append(pid)
    return found


def leader_of_job(tag: str) -> int | None:
    """The worker itself, if it runs: it leads its session and has the tag as an argument.

    Its child processes inherit the environment, and may lead a session, too.
    """
    for pid in of_job(tag):
        found = stat(pid)
        if found is not None and found.session == pid and tag.encode() in _arguments(pid):
            return pid
    return None


def _arguments(pid: int) -> list[bytes]:
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def kill_job(tag: str) -> int:
    """Kill all processes with this tag; returns how many there were."""
    victims = of_job(tag)
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return len(victims)
