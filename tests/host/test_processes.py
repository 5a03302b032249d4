# SPDX-License-Identifier: Apache-2.0

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from callsd_daemon.host import processes
from tests.helpers.waiting import eventually


Start = Callable[..., "subprocess.Popen[bytes]"]

WAIT = "import signal; signal.pause()"

FORK_ANOTHER = """
import os, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
"""
"""A worker that ends at once, and leaves behind a program that leads a session of its own."""

FORK_TWICE = """
import os, signal, sys
if os.fork():
    os.wait()
    signal.pause()
os.setsid()
if os.fork():
    os._exit(0)
os.chdir("/")
open(sys.argv[2], "w").write(str(os.getpid()))
signal.pause()
"""
"""A worker that waits, and a grandchild that has left its session, as a daemon would."""


FORK_AND_WAIT = "import os, signal; os.fork(); signal.pause()"

BUSY_CHILD = r"""
import signal, subprocess, sys
work = "import time\nwhile time.process_time() < 0.4: pass"
subprocess.run([sys.executable, "-c", work], check=True)
signal.pause()
"""
"""A worker that waits, once a child of it has worked."""


@pytest.fixture
def mark(tmp_path: Path) -> str:
    """A mark that no other process carries."""
    return f"{tmp_path.name}:{os.getpid()}:1"


@pytest.fixture
def start(mark: str) -> Iterator[Start]:
    """Starts marked Python programs as workers are started, and ends all of them."""
    children: list[subprocess.Popen[bytes]] = []

    def start_(program: str, *arguments: str, its_mark: str = mark) -> "subprocess.Popen[bytes]":
        child = subprocess.Popen(
            [sys.executable, "-c", program, its_mark, *arguments],
            env={"CALLSD_JOB": its_mark},
            start_new_session=True,
        )
        children.append(child)
        eventually(lambda: processes.of_job(its_mark), "the program runs")
        return child

    yield start_
    processes.kill_job(mark)
    for child in children:
        child.kill()
        child.wait()


class TestMarks:
    """Processes of a job, wherever they have gone."""

    def test_of_job(self, start: Start, mark: str) -> None:
        """A job's processes are those that carry its mark, whole."""
        mine, _, _ = start(WAIT), start(WAIT, its_mark=f"{mark}0"), start(WAIT, its_mark="other")

        assert processes.of_job(mark) == [mine.pid]
        assert processes.of_job(mark[:-1]) == []

    def test_leader(self, start: Start, mark: str) -> None:
        """The leader is the worker itself; once it is dead there is none, not even a zombie."""
        assert processes.leader_of_job(mark) is None
        worker = start(WAIT)
        assert processes.leader_of_job(mark) == worker.pid

        worker.kill()
        eventually(lambda: not processes.of_job(mark), "the worker is dead")

        assert processes.leader_of_job(mark) is None
        assert worker.wait() == -signal.SIGKILL

    def test_grandchild_in_its_own_session(self, start: Start, mark: str, tmp_path: Path) -> None:
        """A double fork with setsid escapes neither the mark nor the kill, nor does it lead."""
        note = tmp_path / "pid"
        worker = start(FORK_TWICE, str(note))
        grandchild = int(
            eventually(lambda: note.exists() and note.read_text(), "there is a grandchild")
        )
        assert processes.of_job(mark) == sorted([worker.pid, grandchild])
        assert os.getsid(grandchild) != worker.pid
        assert processes.leader_of_job(mark) == worker.pid
        worker.kill()
        worker.wait()
        assert processes.leader_of_job(mark) is None

        killed = processes.kill_job(mark)

        assert killed == 1
        eventually(lambda: not processes.of_job(mark), "nothing of the job is left")

    def test_child_with_its_own_session(self, start: Start, mark: str) -> None:
        """What a dead worker has left behind is not taken for the worker, whatever it leads."""
        worker = start(FORK_ANOTHER)
        assert worker.wait(10) == 0

        (left,) = processes.of_job(mark)

        assert os.getsid(left) == left
        assert processes.leader_of_job(mark) is None

    def test_kill_all(self, start: Start, mark: str) -> None:
        """Every process of the job is killed, and no other one."""
        mine, other = [start(WAIT), start(WAIT)], start(WAIT, its_mark="other")

        assert processes.kill_job(mark) == 2

        assert [child.wait(10) for child in mine] == [-signal.SIGKILL] * 2
        assert other.poll() is None
        assert processes.kill_job(mark) == 0

    def test_gone_before_the_kill(self, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A process that ends between the look and the kill is no error."""
        child = subprocess.Popen([sys.executable, "-c", ""])
        child.wait()
        monkeypatch.setattr(processes, "of_job", lambda _mark: [child.pid])

        assert processes.kill_job(mark) == 1


class TestStat:
    """What the kernel says of one process."""

    def test_own(self) -> None:
        """Our own figures are those that the system calls give, ended children included."""
        found = processes.stat(os.getpid())

        assert found is not None
        assert found.session == os.getsid(0)
        assert found.cpu_ticks / os.sysconf("SC_CLK_TCK") <= sum(os.times()[:4]) + 0.05
        assert found.resident_pages * os.sysconf("SC_PAGE_SIZE") > 5_000_000

    def test_name_with_parentheses(self, tmp_path: Path, start: Start) -> None:
        """A program whose name looks like the file's format is read right."""
        child = start(
            "import ctypes, signal; ctypes.CDLL(None).prctl(15, b') S 1 (x', 0, 0, 0); "
            "signal.pause()"
        )
        comm = Path(f"/proc/{child.pid}/comm")
        eventually(lambda: comm.read_text() == ") S 1 (x\n", "the program has its name")

        found = processes.stat(child.pid)

        assert found is not None
        assert found.session == child.pid

    def test_age(self, start: Start) -> None:
        """A process is as old as the time since its start; one that is not there has no age."""
        before = time.clock_gettime(time.CLOCK_BOOTTIME)
        child = start(WAIT)

        age = processes.age_seconds(child.pid)

        longest = time.clock_gettime(time.CLOCK_BOOTTIME) - before
        # The kernel counts the start in ticks.
        assert 0 <= age <= longest + 2 / processes.TICKS_PER_SECOND
        assert processes.age_seconds(2**22 + 1) == 0.0

    def test_nobody(self) -> None:
        """There are no figures of a process that is not there."""
        assert processes.stat(2**22 + 1) is None

    def test_boot(self) -> None:
        """A boot has an id, the same at each look."""
        assert processes.boot_id() == processes.boot_id()
        assert len(processes.boot_id()) == 36

    def test_all(self) -> None:
        """All processes are listed, ours among them."""
        assert {1, os.getpid()} <= set(processes.pids())


class TestUses:
    """What sessions have taken."""

    def test_by_session(self, start: Start) -> None:
        """A session's processes are taken together; others are not looked for."""
        mine, other = start(FORK_AND_WAIT), start(WAIT, its_mark="other")

        def members() -> list[int]:
            stats = {pid: processes.stat(pid) for pid in processes.pids()}
            return [pid for pid, found in stats.items() if found and found.session == mine.pid]

        eventually(lambda: len(members()) == 2, "there is a child in the session")
        together = processes.uses({mine.pid, other.pid, 2**22 + 1})
        found = [processes.stat(pid) for pid in members()]

        assert set(together) == {mine.pid, other.pid}
        resident = sum(one.resident_pages for one in found if one) * processes.PAGE_BYTES
        assert together[mine.pid].memory_bytes == pytest.approx(resident, rel=0.2)
        assert together[mine.pid].cpu_seconds >= 0.0

    def test_ended_children(self, start: Start) -> None:
        """What a child has taken that has ended still counts for its session."""
        worker = start(BUSY_CHILD)

        eventually(
            lambda: processes.uses({worker.pid})[worker.pid].cpu_seconds >= 0.3,
            "the child's work is counted",
        )

    def test_nobody_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without sessions nothing is looked at: it costs nothing."""
        monkeypatch.setattr(processes, "pids", lambda: pytest.fail("it looked at processes"))

        assert processes.uses(frozenset()) == {}
