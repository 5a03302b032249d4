# SPDX-License-Identifier: Apache-2.0
"""A disk that fails under a running daemon: the system makes it read only."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from callsd.v1.job_pb2 import JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED
from tests.conftest import StartDaemon
from tests.helpers.daemon import Daemon
from tests.helpers.invariants import all_jobs, assert_invariants
from tests.helpers.reasons import failure, refused
from tests.helpers.waiting import eventually


IMAGE_BYTES = 40 * 1024 * 1024


class Disk:
    """An ext4 of its own, in a file."""

    def __init__(self, image: Path, place: Path) -> None:
        self._image, self._place = image, place
        with image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        self._run("/sbin/mkfs.ext4", "-q", str(image))
        self.mount()

    @staticmethod
    def _run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, timeout=30)

    def mount(self) -> None:
        """Have it in its place."""
        self._run("/bin/mount", "-o", "loop", str(self._image), str(self._place))

    def fail(self) -> None:
        """Do what the system does with a disk that has given it an error."""
        self._run("/bin/mount", "-o", "remount,abort", str(self._place))

    def repair(self) -> None:
        """Take it out, check it, and put it back."""
        self.unmount()
        # 1: it has found something, and repaired it.
        done = subprocess.run(
            ["/sbin/e2fsck", "-fy", str(self._image)], check=False, capture_output=True, timeout=60
        )
        assert done.returncode in (0, 1), done.stdout
        self.mount()

    def unmount(self) -> None:
        """Take it out, once the system has let go of what killed processes held of it."""
        command = ["/bin/umount", str(self._place)]
        eventually(
            lambda: not subprocess.run(command, check=False, capture_output=True).returncode,
            "nobody uses the disk any more",
        )


@pytest.fixture
def disk_and_daemon(daemon: StartDaemon) -> Iterator[tuple[Disk, Daemon]]:
    """A daemon whose state lies on a disk of its own."""
    one = daemon(is_started=False, config={"jobs": {"max_attempts": 1}})
    one.state.mkdir()
    try:
        disk = Disk(one.root / "disk", one.state)
    except (OSError, subprocess.CalledProcessError) as problem:
        pytest.skip(f"only root with loop devices and mkfs.ext4 can make a disk: {problem}")
    try:
        yield disk, one.start()
    finally:
        if one.process is not None:
            one.kill()
        subprocess.run(["/bin/umount", "--lazy", str(one.state)], check=True, capture_output=True)


@pytest.mark.scenario(12, "the disk turns read only: nothing new is acknowledged, all is kept")
def test_read_only_under_way(disk_and_daemon: tuple[Disk, Daemon]) -> None:
    """The daemon lives and says why it refuses; on the repaired disk is all it has acknowledged."""
    disk, one = disk_and_daemon
    api = one.api()
    done = one.create(api).job
    assert one.wait(api, done.name).state == JOB_STATE_SUCCEEDED
    running = one.create(api, "until go").job
    one.wait(api, running.name, JOB_STATE_RUNNING)
    disk.fail()
    for _ in range(2):
        with refused("DISK_FULL"):
            one.create(api)
    assert {job.name for job in all_jobs(api)} == one.acknowledged

    one.kill()
    for pid in one.worker_pids():
        os.kill(pid, signal.SIGKILL)
    disk.repair()
    api = one.start().api()
    assert {job.name for job in all_jobs(api)} == one.acknowledged
    assert failure(one.wait(api, running.name)) == "WORKER_KILLED"
    assert one.wait(api, one.create(api).job.name).state == JOB_STATE_SUCCEEDED
    assert_invariants(one)
