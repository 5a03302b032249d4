# SPDX-License-Identifier: Apache-2.0
"""A full disk: under a job's files, and under the store."""

import contextlib
import hashlib
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from callsd.v1.job_pb2 import JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED
from callsd.v1.server_pb2 import GetServerInfoRequest
from tests.conftest import StartDaemon
from tests.e2e.media import GOOD
from tests.helpers.daemon import Daemon
from tests.helpers.invariants import all_jobs, assert_invariants
from tests.helpers.reasons import failure, refused
from tests.helpers.transcripts import request
from tests.helpers.waiting import eventually


STATE_BYTES = 8 * 1024 * 1024


@pytest.mark.reason("DISK_FULL")
def test_artifact(server: Daemon) -> None:
    """A worker that cannot write its transcript says that the disk is full."""
    api = server.api()
    # The file that it will write is a device that is always full: the job's id is known before.
    asked = request(GOOD)
    asked.request_id = str(uuid.uuid4())
    job_id = hashlib.sha256(f"owner\0{asked.request_id}".encode()).hexdigest()[:20]
    artifacts = server.worker_directory(job_id) / "artifacts"
    artifacts.mkdir(parents=True)
    (artifacts / ".transcript.vtt.part").symlink_to("/dev/full")
    job = server.wait(api, api(api.jobs.CreateJob, asked).job.name, seconds=60)

    assert job.name == f"jobs/{job_id}"
    assert failure(job) == "DISK_FULL"
    assert not job.artifacts
    assert_invariants(server)


def test_log(daemon: StartDaemon) -> None:
    """A daemon that cannot write its own log does its work all the same."""
    one = daemon(is_started=False)
    one.stderr_file = Path("/dev/full")
    api = one.start().api()

    assert one.wait(api, one.create(api).job.name).state == JOB_STATE_SUCCEEDED
    assert_invariants(one)
    assert one.stop() == 0


@pytest.fixture
def small(daemon: StartDaemon) -> Iterator[Daemon]:
    """A daemon whose state lies on a small disk of its own."""
    one = daemon(is_started=False)
    one.state.mkdir()
    mount = [
        "/bin/mount",
        "-t",
        "tmpfs",
        "-o",
        f"size={STATE_BYTES},mode=750",
        "tmpfs",
        str(one.state),
    ]
    is_mounted = os.geteuid() == 0 and not subprocess.run(mount, check=False).returncode
    if not is_mounted:
        pytest.skip("only root with CAP_SYS_ADMIN can mount a small disk")
    try:
        yield one.start()
    finally:
        if one.process is not None:
            one.kill()
        subprocess.run(["/bin/umount", "--lazy", str(one.state)], check=True, capture_output=True)


def fill(directory: Path) -> Path:
    """Take every byte that is left; returns the file to remove."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
    return ballast


@pytest.mark.reason("DISK_FULL")
def test_store(small: Daemon) -> None:
    """On a full disk nothing is acknowledged; what runs is settled as soon as there is room."""
    api = small.api()
    running = small.create(api, "until go").job
    small.wait(api, running.name, JOB_STATE_RUNNING)
    ballast = fill(small.state)

    for _ in range(3):
        with refused("DISK_FULL") as refusal:
            small.create(api, "succeed")
        assert refusal.error.retry_after_seconds is not None
    assert api(api.server.GetServerInfo, GetServerInfoRequest()).server_info.version
    assert [job.name for job in all_jobs(api)] == [running.name]

    ballast.unlink()
    (small.root / "tmp" / "go").touch()
    assert small.wait(api, running.name).state == JOB_STATE_SUCCEEDED

    def is_accepted() -> bool:
        return small.wait(api, small.create(api, "succeed").job.name).state == JOB_STATE_SUCCEEDED

    eventually(is_accepted, "jobs are accepted again")
    assert_invariants(small)
