# SPDX-License-Identifier: Apache-2.0

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from callsd_daemon.host import probe as module
from callsd_daemon.host import processes
from callsd_daemon.host.probe import Limits, Probe, Spent, limits
from tests.helpers.waiting import eventually


GIB = 1024**3
BUSY = "while True: pass"
HUNGRY = "import signal; held = b'x' * (256 * 1024**2); print(flush=True); signal.pause()"


@contextmanager
def running(program: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A Python program in a session of its own."""
    child = subprocess.Popen(
        [sys.executable, "-c", program], start_new_session=True, stdout=subprocess.PIPE
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def spent(session: int) -> dict[str, Spent]:
    """What the worker that leads this session has taken."""
    use = processes.uses({session})[session]
    return {"worker": Spent(cpu_seconds=use.cpu_seconds, memory_bytes=use.memory_bytes)}


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Groups":
    """Control group files of our own making, on a machine with 8 cores and 64 GiB."""
    monkeypatch.setattr(module, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(module, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=64 * GIB))
    return Groups(tmp_path)


class Groups:
    """A tree of control groups."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def own(self, *lines: str) -> None:
        """Say which groups we are in."""
        (self._directory / "own").write_text("".join(f"{line}\n" for line in lines))

    def set(self, path: str, text: str) -> None:
        """Write one file of the tree."""
        file = self._directory / "cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")


class Machine:
    """A machine with four cores, whose time passes when we say so, and one worker of ours."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._busy = 0
        self._own = 0
        self.now = 0.0
        self._write()

    def pass_second(self, probe: Probe, *, busy_ticks: int, own_ticks: int = 0) -> float:
        """Let a second pass in which processors were busy so long; returns the external cores."""
        self.now += 1.0
        self._busy += busy_ticks
        self._own += own_ticks
        self._write()
        own = Spent(cpu_seconds=self._own / 100, memory_bytes=4096)
        return probe.sample({"worker": own}).cores_external

    def _write(self) -> None:
        (self._directory / "stat").write_text(f"cpu  {self._busy} 0 0 9 9 0 0 0 0 0\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine of our own making."""
    proc = tmp_path / "proc"
    proc.mkdir()
    machine = Machine(proc)
    monkeypatch.setattr(processes, "PROC", proc)
    monkeypatch.setattr(processes, "TICKS_PER_SECOND", 100)
    monkeypatch.setattr(time, "monotonic", lambda: machine.now)
    monkeypatch.setattr(time, "process_time", lambda: 0.0)
    monkeypatch.setattr(module, "limits", lambda: Limits(cores=4.0, memory_bytes=8 * GIB))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    return machine


ALL = Limits(cores=8.0, memory_bytes=64 * GIB)


class TestLimits:
    """The tightest limit holds, wherever it is set."""

    def test_none(self, groups: Groups) -> None:
        """Without control groups the hardware is the limit."""
        assert limits() == ALL

    def test_own_hardware(self) -> None:
        """On the machine that this runs on, there is something to use."""
        found = limits()

        assert 0 < found.cores <= (os.cpu_count() or 1)
        assert 0 < found.memory_bytes <= psutil.virtual_memory().total

    def test_unlimited(self, groups: Groups) -> None:
        """Groups that say "max" or -1 limit nothing."""
        groups.own("0::/a", "3:cpu,cpuacct:/b", "4:memory:/b", "5:devices:/b")
        groups.set("a/cpu.max", "max 100000")
        groups.set("a/memory.max", "max")
        groups.set("cpu,cpuacct/b/cpu.cfs_quota_us", "-1")
        groups.set("cpu,cpuacct/b/cpu.cfs_period_us", "100000")
        groups.set("memory/b/memory.limit_in_bytes", "9223372036854771712")

        assert limits() == ALL

    def test_version_2(self, groups: Groups) -> None:
        """Half a core and 2 GiB, as cgroup v2 says it."""
        groups.own("0::/system.slice/callsd.service")
        groups.set("system.slice/callsd.service/cpu.max", "50000 100000")
        groups.set("system.slice/callsd.service/memory.max", str(2 * GIB))

        assert limits() == Limits(cores=0.5, memory_bytes=2 * GIB)

    @pytest.mark.parametrize("above", ["", "system.slice/"])
    def test_group_above(self, groups: Groups, above: str) -> None:
        """A limit of any group above ours holds for us too, up to the top of the tree."""
        groups.own("0::/system.slice/callsd.service")
        groups.set("system.slice/callsd.service/cpu.max", "400000 100000")
        groups.set(f"{above}cpu.max", "150000 100000")
        groups.set(f"{above}memory.max", str(3 * GIB))

        assert limits() == Limits(cores=1.5, memory_bytes=3 * GIB)

    @pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct"])
    def test_version_1(self, groups: Groups, controllers: str) -> None:
        """The same, as cgroup v1 says it: one tree for each controller."""
        groups.own(f"3:{controllers}:/jobs/b", "4:memory:/jobs/b")
        groups.set(f"{controllers}/jobs/b/cpu.cfs_quota_us", "250000")
        groups.set(f"{controllers}/jobs/b/cpu.cfs_period_us", "100000")
        groups.set("memory/jobs/memory.limit_in_bytes", str(GIB))

        assert limits() == Limits(cores=2.5, memory_bytes=GIB)

    def test_container(self, groups: Groups) -> None:
        """In a container our group may be the top of what we see, whatever its path says."""
        groups.own("3:cpu:/docker/0a1b", "4:memory:/docker/0a1b")
        groups.set("cpu/cpu.cfs_quota_us", "50000")
        groups.set("cpu/cpu.cfs_period_us", "100000")
        groups.set("memory/memory.limit_in_bytes", str(GIB))

        assert limits() == Limits(cores=0.5, memory_bytes=GIB)

    def test_affinity(self, groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
        """Cores that we are not allowed to run on are not there."""
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3})

        assert limits().cores == 1.0


class TestLoad:
    """What others use, measured on the machine that this runs on."""

    def test_busy_neighbour(self, tmp_path: Path) -> None:
        """What a process that is not ours uses is seen within seconds."""
        probe = Probe(tmp_path)
        with running(BUSY) as neighbour:
            used, begun = psutil.Process(neighbour.pid).cpu_times, time.monotonic()

            def is_seen() -> bool:
                share = used().user / (time.monotonic() - begun)
                return share > 0.05 and probe.sample({}).cores_external > share / 2

            eventually(is_seen, "it is seen")

    def test_load_comes_and_goes(self, tmp_path: Path, machine: "Machine") -> None:
        """A load counts fully after a few seconds, and is forgotten a few seconds after its end."""
        probe = Probe(tmp_path)

        rising = [machine.pass_second(probe, busy_ticks=150) for _ in range(9)]
        falling = [machine.pass_second(probe, busy_ticks=0) for _ in range(9)]

        assert rising == sorted(rising)
        assert rising[0] == pytest.approx(0.5)
        assert rising[-1] == pytest.approx(1.5, abs=0.05)
        assert falling == sorted(falling, reverse=True)
        assert falling[-1] == pytest.approx(0.0, abs=0.05)

    def test_own_work_is_taken_off(self, tmp_path: Path, machine: "Machine") -> None:
        """Ticks that our own workers used are not external, from their first second on."""
        probe = Probe(tmp_path)

        machine.pass_second(probe, busy_ticks=100, own_ticks=100)
        external = machine.pass_second(probe, busy_ticks=100, own_ticks=100)

        assert external == 0.0

    def test_two_looks_at_once(self, tmp_path: Path, machine: "Machine") -> None:
        """No time between two looks changes nothing, and divides by nothing."""
        probe = Probe(tmp_path)
        before = machine.pass_second(probe, busy_ticks=100)

        assert probe.sample({}).cores_external == before

    def test_own_session(self, tmp_path: Path) -> None:
        """What our own workers use is not external: as much is found as others really used."""
        with running(BUSY) as worker:
            mine, blind = Probe(tmp_path), Probe(tmp_path)
            used, begun = psutil.Process(worker.pid).cpu_times, time.monotonic()

            def is_taken_off() -> bool:
                own = mine.sample(spent(worker.pid)).cores_external
                share = used().user / (time.monotonic() - begun)
                return share > 0.02 and blind.sample({}).cores_external > own + share / 2

            eventually(is_taken_off, "the one that knows the worker finds less external load")

    def test_what_workers_take(self, tmp_path: Path) -> None:
        """Cores and memory of each of our workers are told by its name, of nobody else's."""
        with running(BUSY) as worker:
            probe = Probe(tmp_path)

            def is_seen() -> bool:
                probe.sample(spent(worker.pid))
                return "worker" in probe.uses and probe.uses["worker"].cores > 0.02

            eventually(is_seen, "it is seen")
            assert set(probe.uses) == {"worker"}
            assert probe.uses["worker"].cores < 1.5
            resident = psutil.Process(worker.pid).memory_info().rss
            assert probe.uses["worker"].memory_bytes == pytest.approx(resident, rel=0.3)

    def test_what_a_worker_loses(self, tmp_path: Path, machine: "Machine") -> None:
        """What a worker's ended children took may vanish from its figure: it never counts below 0.

        A worker that has ended is forgotten, and one that comes later under its name is new.
        """
        probe = Probe(tmp_path)
        machine.pass_second(probe, busy_ticks=100, own_ticks=100)
        machine.pass_second(probe, busy_ticks=0, own_ticks=-60)
        assert probe.uses["worker"].cores == 0.0

        machine.now += 1.0
        probe.sample({})
        assert probe.uses == {}
        machine.pass_second(probe, busy_ticks=0)
        assert probe.uses["worker"].cores == pytest.approx(0.4)

    def test_own_memory(self, tmp_path: Path) -> None:
        """Memory of our own workers is not external."""
        with running(HUNGRY) as worker:
            assert worker.stdout is not None
            worker.stdout.readline()
            probe = Probe(tmp_path)

            blind = probe.sample({}).memory_external_bytes
            mine = probe.sample(spent(worker.pid)).memory_external_bytes

        assert blind - mine > 150 * 1024**2

    def test_whole_sample(self, tmp_path: Path) -> None:
        """A sample's figures fit together."""
        host = Probe(tmp_path).sample({})

        assert 0 <= host.memory_external_bytes <= host.memory_total_bytes
        assert 0 < host.disk_free_bytes <= host.disk_total_bytes
        assert host.cores_external >= 0

    def test_limited_below_the_machine(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Others on a large machine take nothing of our small share while there is enough."""
        monkeypatch.setattr(module, "limits", lambda: Limits(cores=0.5, memory_bytes=GIB // 4))
        monkeypatch.setattr(os, "cpu_count", lambda: 64)
        probe = Probe(tmp_path)
        with running(BUSY):
            probe.sample({})
            host = probe.sample({})

        assert (host.cores_total, host.cores_external) == (0.5, 0.0)
        assert (host.memory_total_bytes, host.memory_external_bytes) == (GIB // 4, 0)


class TestPressure:
    """What the kernel says about waiting."""

    def test_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The share of the last ten seconds, from 0 to 1."""
        file = tmp_path / "cpu"
        file.write_text("some avg10=12.50 avg60=1.00 avg300=0.10 total=99\nfull avg10=0.00\n")
        monkeypatch.setattr(module, "PRESSURE", file)

        assert Probe(tmp_path).sample({}).cpu_pressure == 0.125

    def test_kernel_does_not_say(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A kernel without pressure figures is no error."""
        monkeypatch.setattr(module, "PRESSURE", tmp_path / "nothing")

        assert Probe(tmp_path).sample({}).cpu_pressure is None
