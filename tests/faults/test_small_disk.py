# SPDX-License-Identifier: Apache-2.0
"""A disk that is nearly full, or has room for bytes but not for files."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from callsd.v1.job_pb2 import JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED, StopJobRequest
from tests.conftest import StartDaemon
from tests.faults.conftest import RecordFigure
from tests.helpers.api import Api
from tests.helpers.captions import MODEL, WORK_SECONDS, Sender, Viewer, begin_call, end_call
from tests.helpers.daemon import Daemon
from tests.helpers.invariants import assert_invariants
from tests.helpers.reasons import failure, refused, status
from tests.helpers.speech import chunks, speech
from tests.helpers.waiting import eventually


MIB = 1024 * 1024
DISK_BYTES = 160 * MIB
JOB_BYTES = 64 * MIB
"""What a transcription is charged."""

KEPT_FREE_BYTES = 32 * MIB
INODES = 400

SmallDisk = Callable[..., Daemon]


@pytest.fixture
def small_disk(daemon: StartDaemon) -> Iterator[SmallDisk]:
    """Starts a daemon whose state lies on a disk of its own, made with these options of tmpfs."""
    mounted: list[Daemon] = []

    def start(disk: str, **options: object) -> Daemon:
        one = daemon(is_started=False, **options)
        one.state.mkdir()
        command = ["/bin/mount", "-t", "tmpfs", "-o", f"{disk},mode=750", "tmpfs", str(one.state)]
        if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("only root with CAP_SYS_ADMIN can mount a small disk")
        mounted.append(one)
        return one.start()

    yield start
    for one in mounted:
        if one.process is not None:
            one.kill()
        subprocess.run(["/bin/umount", "--lazy", str(one.state)], check=True, capture_output=True)


@pytest.mark.scenario(12, "below the floor jobs are refused before the disk is full")
def test_refused_before_it_is_full(small_disk: SmallDisk, record_figure: RecordFigure) -> None:
    """What is kept free stays free: nothing is begun that could take it, and what runs goes on."""
    one = small_disk(
        f"size={DISK_BYTES}",
        # The disk as it is; so busy that nothing starts is no machine after no patience.
        machine=None,
        config={
            "admission": {"headroom_disk_bytes": KEPT_FREE_BYTES},
            "jobs": {"queue_patience_seconds": 0.0},
        },
    )
    api = one.api()
    running = one.create(api, "until go").job
    one.wait(api, running.name, JOB_STATE_RUNNING)
    ballast = one.state / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, DISK_BYTES - KEPT_FREE_BYTES - JOB_BYTES)

    # What was accepted before the daemon looked again is done, too.
    eventually(
        lambda: status(lambda: one.create(api)) is grpc.StatusCode.RESOURCE_EXHAUSTED,
        "the daemon has seen the disk",
    )
    with refused("DISK_EXHAUSTED") as refusal:
        one.create(api)
    left = os.statvfs(one.state)
    free_bytes = left.f_bavail * left.f_frsize
    ballast.unlink()
    (one.root / "tmp" / "go").touch()

    assert float(refusal.error.metadata["required"]) == pytest.approx(JOB_BYTES, rel=1e-5)
    assert free_bytes > KEPT_FREE_BYTES
    assert one.wait(api, running.name).state == JOB_STATE_SUCCEEDED
    assert is_accepted(one)
    assert_invariants(one)
    record_figure(f"refused with {free_bytes // MIB} MiB still free, {KEPT_FREE_BYTES // MIB} kept")


@pytest.mark.scenario(
    12, "no file can be made any more: jobs wait, and are done when there is room"
)
def test_no_inodes(small_disk: SmallDisk) -> None:
    """A disk with room but without inodes holds up what needs a file, and nothing else."""
    one = small_disk(f"size={DISK_BYTES},nr_inodes={INODES}", config={"jobs": {"max_attempts": 1}})
    api = one.api()
    running = one.create(api, "until go").job
    one.wait(api, running.name, JOB_STATE_RUNNING)
    litter = one.state / "litter"
    litter.mkdir()
    take_all_inodes(litter)

    waiting = one.create(api).job
    eventually(lambda: one.events("worker_delayed"), "a job waits for a file to be made")
    assert one.job(api, running.name).state == JOB_STATE_RUNNING
    for file in litter.iterdir():
        file.unlink()
    (one.root / "tmp" / "go").touch()

    for job in (running, waiting):
        assert one.wait(api, job.name).state == JOB_STATE_SUCCEEDED
    assert_invariants(one)


def spoken_call(one: Daemon, api: Api) -> tuple[str, Viewer]:
    """A call in which something was said that is final, on a disk without room for files."""
    name = begin_call(one, api)
    with Viewer(api, name) as viewer, Sender(api, name) as sender:
        sender.push(chunks("kenji", speech("kenji", 42.5, 48.0)))
        viewer.wait_final()
        sender.wait_worked_off()
    litter = one.state / "litter"
    litter.mkdir()
    take_all_inodes(litter)
    return name, viewer


@pytest.mark.scenario(12, "a call ends on a full disk: its files are written when there is room")
def test_call_waits_for_room(small_disk: SmallDisk, models_directory: Path) -> None:
    """The files of a call that ends while none can be made are made when they can."""
    one = small_disk(
        f"size={DISK_BYTES},nr_inodes={INODES}",
        is_real=True,
        config={"captions": {"model": MODEL, "workers": 1}},
    )
    api = one.api()
    name, _ = spoken_call(one, api)
    api(api.jobs.StopJob, StopJobRequest(name=name))
    eventually(lambda: one.events("captions_unwritten"), "it was tried", seconds=WORK_SECONDS)
    for file in (one.state / "litter").iterdir():
        file.unlink()

    assert one.wait(api, name, seconds=WORK_SECONDS).state == JOB_STATE_SUCCEEDED
    assert_invariants(one)


@pytest.mark.scenario(12, "a call whose files cannot be written: DISK_FULL, its captions are kept")
@pytest.mark.reason("DISK_FULL")
def test_call_finds_no_room(small_disk: SmallDisk, models_directory: Path) -> None:
    """When there is no room for long the job fails, and its captions can still be read."""
    one = small_disk(
        f"size={DISK_BYTES},nr_inodes={INODES}",
        is_real=True,
        config={"captions": {"model": MODEL, "workers": 1}},
        constants={"callsd_daemon.workers.captions.attempt.WRITE_SECONDS": 1.5},
    )
    api = one.api()
    name, viewer = spoken_call(one, api)
    job = end_call(one, api, name)
    late = Viewer(api, name, resume_sequence=0)
    late.join()

    assert failure(job) == "DISK_FULL"
    assert not job.artifacts
    assert late.finals[: len(viewer.finals)] == viewer.finals
    assert_invariants(one)


def take_all_inodes(directory: Path) -> None:
    """Make files until none can be made."""
    with contextlib.suppress(OSError):
        for number in range(10 * INODES):
            (directory / str(number)).touch()


def is_accepted(one: Daemon) -> bool:
    """Whether a job is accepted and done."""
    api = one.api()
    return one.wait(api, one.create(api).job.name).state == JOB_STATE_SUCCEEDED
