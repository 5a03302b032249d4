# SPDX-License-Identifier: Apache-2.0
"""What workers that are the daemon's children may take."""

import asyncio
import os
import resource
from pathlib import Path

import pytest

from callsd_daemon.kinds import Role
from callsd_daemon.workers.launchers import process
from callsd_daemon.workers.launchers.launcher import Limits, WorkerId
from callsd_daemon.workers.launchers.process import ProcessLauncher


SMALL_ROOM_BYTES = 64 * 1024**2

GREEDY = """
import sys
sys.stdin.read()
taken = []
try:
    for _ in range(4096):
        taken.append(bytearray(1 << 20))
except MemoryError:
    count = len(taken)
    taken.clear()
    sys.exit(7 if count < 1024 else 8)
"""

PATIENT = "import sys, time; sys.stdin.read(); time.sleep(600)"


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProcessLauncher:
    """A launcher that gives little room."""
    monkeypatch.setattr(process, "ROOM_BYTES", SMALL_ROOM_BYTES)
    monkeypatch.setattr(process, "PROGRAM", str(tmp_path / "program.py"))
    for name in ("workers", "trash"):
        (tmp_path / name).mkdir()
    return ProcessLauncher(tmp_path / "workers", tmp_path / "trash")


def limits(memory_bytes: int) -> Limits:
    """Limits of so much memory."""
    return Limits(cpu_weight=20, cores=None, memory_bytes=memory_bytes)


def bound(memory_bytes: int) -> int:
    """What the kernel is told."""
    return memory_bytes + SMALL_ROOM_BYTES + (os.cpu_count() or 1) * process.ROOM_PER_CPU_BYTES


class TestMemory:
    """A worker that is out of hand."""

    def test_it_has_no_more_than_its_bound(self, launcher: ProcessLauncher, tmp_path: Path) -> None:
        """It is told that there is no memory, long before the machine has none."""
        (tmp_path / "program.py").write_text(GREEDY)
        worker = WorkerId(name="greedy", tag="greedy-1", role=Role.TRANSCRIBER)

        async def run() -> int | None:
            running = await launcher.launch(worker, b"", limits(1 << 20))
            await asyncio.wait_for(running.exited.wait(), 30)
            return running.end.exit_code

        assert asyncio.run(run()) == 7

    @pytest.mark.parametrize("role", list(Role))
    def test_it_may_be_given_more(
        self, role: Role, launcher: ProcessLauncher, tmp_path: Path
    ) -> None:
        """A bound grows with a captioner's calls, nothing is taken away, and a browser has none."""
        (tmp_path / "program.py").write_text(PATIENT)
        worker = WorkerId(name="patient", tag="patient-1", role=role)

        async def run() -> list[int]:
            running = await launcher.launch(worker, b"", limits(100))
            (pid,) = launcher._sessions
            told = [resource.prlimit(pid, resource.RLIMIT_DATA)[0]]
            for memory_bytes in (300, 200):
                await launcher.adjust(worker, limits(memory_bytes))
                told.append(resource.prlimit(pid, resource.RLIMIT_DATA)[0])
            assert await launcher.sweep(worker)
            await asyncio.wait_for(running.exited.wait(), 30)
            return told

        told = asyncio.run(run())

        if role is Role.RECORDER:
            assert told == [resource.RLIM_INFINITY] * 3
        else:
            assert told == [bound(100), bound(300), bound(300)]
