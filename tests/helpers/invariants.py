# SPDX-License-Identifier: Apache-2.0
"""What must hold after whatever has happened."""

import contextlib
import hashlib
import os
import sqlite3
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from callsd import FINAL_STATES
from callsd.v1.error_pb2 import ERROR_REASON_INTERNAL, ERROR_REASON_UNSPECIFIED
from callsd.v1.job_pb2 import (
    JOB_STATE_CANCELLED,
    JOB_STATE_FAILED,
    JOB_STATE_RUNNING,
    JOB_STATE_STARTING,
    JOB_STATE_STOPPING,
    JOB_STATE_SUCCEEDED,
    JOB_STATE_UNSPECIFIED,
    Job,
    ListJobsRequest,
)
from callsd.v1.server_pb2 import GetCapacityRequest
from callsd_daemon.startup import STATE_DIRECTORIES
from tests.helpers.api import Api
from tests.helpers.daemon import Daemon
from tests.helpers.history import Recorder
from tests.helpers.waiting import eventually


ACTIVE_STATES = frozenset({JOB_STATE_STARTING, JOB_STATE_RUNNING, JOB_STATE_STOPPING})

MOST_GROWTH = 1.1
"""Of resident memory: allocators give back what was freed only in part."""

EMPTY_SECONDS = 10.0
"""How long the processes of a job that has ended may take to be gone."""


def assert_invariants(daemon: Daemon, recorder: Recorder | None = None) -> None:
    """Check a running daemon; `recorder` has watched its jobs all along."""
    api = daemon.api()
    jobs = all_jobs(api)
    assert_known(daemon, jobs)
    for job in jobs:
        assert_processes(daemon, job)
        assert_explained(daemon, job)
        if job.state in FINAL_STATES:
            assert_tidy(daemon, job)
        if job.state == JOB_STATE_SUCCEEDED:
            assert_whole(daemon, job)
    assert_private(daemon)
    assert_books_balance(api)
    if not daemon.expects_bugs:
        assert daemon.bugs() == []
    if recorder is not None:
        assert_history(daemon, recorder)


def all_jobs(api: Api) -> list[Job]:
    """Every job there is."""
    jobs, token = list[Job](), ""
    while True:
        page = api(api.jobs.ListJobs, ListJobsRequest(page_size=1000, page_token=token))
        jobs += page.jobs
        token = page.next_page_token
        if not token:
            return jobs


def assert_known(daemon: Daemon, jobs: list[Job]) -> None:
    """I1: every job that was acknowledged is there, once, in a state that exists."""
    counts = Counter(job.name for job in jobs)
    assert daemon.acknowledged <= set(counts)
    assert max(counts.values(), default=1) == 1
    assert all(job.state != JOB_STATE_UNSPECIFIED for job in jobs)


def assert_processes(daemon: Daemon, job: Job) -> None:
    """I2: at most one live worker for each job. I3: after its end, no process at all."""
    if job.state in FINAL_STATES:
        eventually(
            lambda: not daemon.worker_pids(job.name),
            f"no process of {job.name} is left after its end",
            seconds=EMPTY_SECONDS,
        )
    else:
        assert len(daemon.leaders(job.name)) <= 1


def assert_books_balance(api: Api) -> None:
    """I4: what is reserved is the sum over the jobs that hold a reservation, within the budget."""

    def is_balanced() -> bool:
        before, jobs = api(api.server.GetCapacity, GetCapacityRequest()), all_jobs(api)
        active = [job for job in jobs if job.state in ACTIVE_STATES]
        capacity = api(api.server.GetCapacity, GetCapacityRequest()).capacity
        if before.capacity.running_jobs != capacity.running_jobs:
            return False
        cores = sum(job.reservation.cores for job in active)
        memory = sum(job.reservation.memory_bytes for job in active)
        assert capacity.cores.reserved <= capacity.cores.total - capacity.cores.headroom
        return (
            capacity.running_jobs == len(active)
            and capacity.cores.reserved == pytest.approx(cores)
            and capacity.memory_bytes.reserved == memory
        )

    # Jobs may begin and end between the calls: look until nothing did.
    eventually(is_balanced, "the tx balance", seconds=5.0)


def assert_whole(daemon: Daemon, job: Job) -> None:
    """I6: what a job that has succeeded says it made is there, whole, and nothing else is."""
    directory = daemon.job_directory(job.name) / "artifacts"
    # Where nobody has said anything there is nothing to keep.
    assert job.artifacts or job.HasField("capture")
    found = {path.name for path in directory.iterdir()} if directory.exists() else set()
    assert found == {Path(artifact.name).name for artifact in job.artifacts}
    for artifact in job.artifacts:
        content = (directory / Path(artifact.name).name).read_bytes()
        assert len(content) == artifact.size_bytes
        assert hashlib.sha256(content).hexdigest() == artifact.sha256


def assert_tidy(daemon: Daemon, job: Job) -> None:
    """I10: nothing of a worker's stays after its job's end, and no file is there by half.

    But for what was recorded and cannot be read: that is for a person.
    """
    workers = daemon.worker_directory(job.name)
    eventually(
        lambda: not workers.exists() or is_for_a_person(job, workers),
        f"the directory of the workers of {job.name} is gone",
        seconds=EMPTY_SECONDS,
    )
    artifacts = daemon.job_directory(job.name) / "artifacts"
    if artifacts.exists():
        assert [path for path in artifacts.iterdir() if path.name.startswith(".")] == []


def is_for_a_person(job: Job, directory: Path) -> bool:
    """Whether these are the pieces of a recording of which nothing was made."""
    return (
        job.HasField("recording")
        and job.state in (JOB_STATE_FAILED, JOB_STATE_CANCELLED)
        and {path.name for path in directory.iterdir()} >= {"pieces"}
    )


def assert_private(daemon: Daemon) -> None:
    """I11: nobody else can read or change anything that is kept, or see that it is there."""
    paths = [daemon.state, *daemon.state.glob("callsd.db*"), daemon.state / "tokens.json"]
    for name in STATE_DIRECTORIES:
        paths.append(daemon.state / name)
        # Not by glob, which fails where a directory goes meanwhile, as those in the trash do.
        for folder, folders, files in os.walk(daemon.state / name):
            paths += [Path(folder, entry) for entry in (*folders, *files)]
            if name == "workers":
                # What lies in a worker's directory is the worker's; who cannot get in sees nothing.
                folders.clear()
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            assert path.lstat().st_mode & 0o077 == 0, path


def assert_explained(daemon: Daemon, job: Job) -> None:
    """I8: a job that has failed says why, and no other job does; a bug is never the reason."""
    assert job.HasField("failure") == (job.state == JOB_STATE_FAILED)
    if job.state == JOB_STATE_FAILED:
        assert job.failure.reason != ERROR_REASON_UNSPECIFIED
        assert job.failure.reason != ERROR_REASON_INTERNAL or daemon.expects_bugs
        assert job.failure.message


def assert_history(daemon: Daemon, recorder: Recorder) -> None:
    """I5: a watcher was told of every change that was stored, once, in order, with its content."""
    stored = stored_changes(daemon)
    recorder.catch_up(max(stored, default=0))
    told = [event.revision for event in recorder.events]
    assert told == sorted(set(told))
    assert told == [revision for revision in sorted(stored) if revision > recorder.first]
    for event in recorder.events:
        name = event.job_deleted or event.job_changed.name
        assert name == f"jobs/{stored[event.revision]}"
        if event.HasField("job_changed"):
            assert event.job_changed.revision == event.revision


POOLED_THREADS = 4
"""Pools of threads grow until they have their size, and keep it."""


def assert_as_before(daemon: Daemon, before: "Footprint") -> None:
    """I7: after a load is over the daemon holds no more than it did before."""
    eventually(
        lambda: footprint(daemon).descriptors <= before.descriptors,
        f"no more descriptors are open than before: {before}",
        seconds=EMPTY_SECONDS,
    )
    after = footprint(daemon)
    assert after.threads <= before.threads + POOLED_THREADS
    assert after.resident_bytes < before.resident_bytes * MOST_GROWTH


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What a daemon holds of the system."""

    descriptors: int
    threads: int
    resident_bytes: int


def footprint(daemon: Daemon) -> Footprint:
    """What the daemon holds now. Its pool of threads grows to its size by the first some jobs."""
    assert daemon.process is not None
    process = psutil.Process(daemon.process.pid)
    return Footprint(
        descriptors=process.num_fds(),
        threads=process.num_threads(),
        resident_bytes=process.memory_info().rss,
    )


def stored_changes(daemon: Daemon) -> dict[int, str]:
    """Job ids by revision, as the database has them."""
    database = sqlite3.connect(f"file:{daemon.state / 'callsd.db'}?mode=ro", uri=True)
    try:
        return dict(database.execute("SELECT revision, job_id FROM changes"))
    finally:
        database.close()
