# SPDX-License-Identifier: Apache-2.0
"""Real control groups, of either version, around a daemon and its workers."""

import contextlib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from callsd.v1.job_pb2 import JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED
from callsd.v1.server_pb2 import GetCapacityRequest
from tests.conftest import StartDaemon
from tests.helpers.daemon import Daemon
from tests.helpers.invariants import assert_as_before, assert_invariants, footprint
from tests.helpers.reasons import failure
from tests.helpers.waiting import eventually


TOP = Path("/sys/fs/cgroup")
MIB = 1024 * 1024
HALF_A_CORE = {"cpu.max": "50000 100000", "cpu.cfs_quota_us": "50000"}
MEMORY_BYTES = 500 * MIB
WARM_JOBS = 2


class Group:
    """A control group of our own, for one controller."""

    def __init__(self, controller: str) -> None:
        """Raises OSError where groups cannot be made."""
        is_version_2 = (TOP / "cgroup.controllers").exists()
        top = TOP if is_version_2 else TOP / controller
        self.path = top / f"callsd-test-{uuid.uuid4().hex[:8]}"
        self.path.mkdir()
        if not any(self.path.glob(f"{controller}.*")):
            self.path.rmdir()
            raise OSError(f"{top} has no controller {controller}")

    def write(self, values: dict[str, str]) -> None:
        """Set limits; of each one the name of either version is given."""
        for name, value in values.items():
            if (self.path / name).exists():
                (self.path / name).write_text(value)

    def read(self, name: str) -> str:
        """What a file of the group says."""
        return (self.path / name).read_text()

    def take_in(self, pid: int) -> None:
        """Move a process into the group; its later children are in it too."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def close(self) -> None:
        """Move all processes out and remove the group."""
        for pid in (self.path / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (self.path.parent / "cgroup.procs").write_text(pid)
        self.path.rmdir()


MakeGroup = Callable[[str], Group]


@pytest.fixture
def make_group() -> Iterator[MakeGroup]:
    """Makes control groups."""
    groups: list[Group] = []

    def make(controller: str) -> Group:
        try:
            groups.append(Group(controller))
        except OSError as problem:
            pytest.skip(f"control groups can only be made by root, where they are free: {problem}")
        return groups[-1]

    yield make
    for group in groups:
        group.close()


def start_in(group: Group, one: Daemon, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """Start a daemon within a group from its first instruction on."""
    plain, procs = one.command, group.path / "cgroup.procs"
    within = ["/bin/sh", "-c", f'echo $$ > {procs} && exec "$@"', "sh"]
    monkeypatch.setattr(one, "command", lambda *words: [*within, *plain(*words)])
    return one.start()


@pytest.mark.scenario(17, "a real quota of half a core: never the host's cores")
def test_half_a_core(
    daemon: StartDaemon, make_group: MakeGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that may use half a core promises no more than that."""
    group = make_group("cpu")
    group.write(HALF_A_CORE)
    one = start_in(group, daemon(is_started=False, machine=None), monkeypatch)
    api = one.api()

    capacity = api(api.server.GetCapacity, GetCapacityRequest()).capacity
    assert capacity.cores.total == pytest.approx(0.5)
    one.kill()
    group.write({"cpu.max": "max 100000", "cpu.cfs_quota_us": "-1"})
    monkeypatch.undo()
    api = one.start().api()
    assert api(api.server.GetCapacity, GetCapacityRequest()).capacity.cores.total > 0.5


@pytest.mark.scenario(16, "EAGAIN at the start of a worker: the daemon lives, jobs wait for better")
def test_no_processes(daemon: StartDaemon, make_group: MakeGroup) -> None:
    """Where no process can be made for a while, what was accepted is done afterwards."""
    group, one = make_group("pids"), daemon()
    one.expects_bugs = True
    api = one.api()
    for _ in range(WARM_JOBS):
        assert one.wait(api, one.create(api).job.name).state == JOB_STATE_SUCCEEDED
    assert one.process is not None
    before = footprint(one)
    group.take_in(one.process.pid)
    group.write({"pids.max": group.read("pids.current")})
    asked = [one.create(api).job.name for _ in range(3)]
    eventually(lambda: int(group.read("pids.events").split()[1]), "the kernel refuses a process")
    group.write({"pids.max": "max"})

    assert {one.wait(api, name).state for name in asked} == {JOB_STATE_SUCCEEDED}
    assert_as_before(one, before)
    assert_invariants(one)


@pytest.mark.scenario(13, "a worker out of memory in a group: it dies, daemon and siblings do not")
def test_no_memory(daemon: StartDaemon, make_group: MakeGroup) -> None:
    """The kernel takes the one that eats; its job says so, and nobody else's is disturbed.

    Without systemd all are in one group, and nobody tells a kill by the kernel from another one.
    """
    group = make_group("memory")
    one = daemon(config={"jobs": {"max_attempts": 1}})
    api = one.api()
    assert one.process is not None
    group.take_in(one.process.pid)
    sibling = one.create(api, "until go").job
    one.wait(api, sibling.name, JOB_STATE_RUNNING)
    worker = one.worker(sibling.name)
    group.write({name: str(MEMORY_BYTES) for name in ("memory.max", "memory.limit_in_bytes")})
    group.write({"memory.swap.max": "0"})
    ended = one.wait(api, one.create(api, f"eat {2 * MEMORY_BYTES // 1_000_000}").job.name)

    assert failure(ended) == "WORKER_KILLED"
    assert ended.failure.metadata["signal"] == "SIGKILL"
    assert one.leaders(sibling.name) == [worker]
    (one.root / "tmp" / "go").touch()
    assert one.wait(api, sibling.name).state == JOB_STATE_SUCCEEDED
    assert_invariants(one)
