# SPDX-License-Identifier: Apache-2.0
"""The file of the database is damaged under a running daemon."""

import asyncio
import os
import subprocess
from contextlib import closing

import pytest
from grpc_health.v1 import health_pb2

from callsd.v1.job_pb2 import JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED, ListJobsRequest
from callsd_daemon.kinds.stored import codec
from callsd_daemon.store.database import Database
from tests.conftest import StartDaemon
from tests.helpers.api import Api, health
from tests.helpers.daemon import Daemon
from tests.helpers.invariants import all_jobs, assert_invariants
from tests.helpers.jobs import fill
from tests.helpers.reasons import refused
from tests.helpers.waiting import eventually


def spoil(one: Daemon) -> None:
    """Overwrite all pages of the file but the first ones, where the schema is."""
    with (one.state / "callsd.db").open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(4 * 4096)
        file.write(b"\xff" * (size - file.tell()))


def says_serving(api: Api) -> bool:
    """What the health service says."""
    answer = health(api.channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@pytest.mark.scenario(26, "damaged while it runs: told as that, nothing is accepted; then a backup")
@pytest.mark.reason("DATABASE_DAMAGED")
def test_damaged_under_way(daemon: StartDaemon) -> None:
    """From the first page on that is not what it was, all who write are told, and health says no.

    The worker goes on. With the backup everything that it holds is there, and that job comes to
    its end.
    """
    one = daemon(constants={"callsd_daemon.liveness.CHECK_SECONDS": 0.2})
    api = one.api()
    running = one.create(api, "until go").job
    one.wait(api, running.name, JOB_STATE_RUNNING)
    ended = one.create(api).job.name
    assert one.wait(api, ended).state == JOB_STATE_SUCCEEDED
    backup = one.root / "backup.db"
    manage(one, "backup", backup)
    worker = one.worker(running.name)
    # More than is kept in memory, and a last change that is in the log alone.
    one.stop()
    asyncio.run(fill_store(one))
    api = one.start().api()
    one.wait(api, api(api.jobs.CreateJob, one.request()).job.name)
    spoil(one)

    with refused("DATABASE_DAMAGED"):
        api(api.jobs.ListJobs, ListJobsRequest())
    with refused("DATABASE_DAMAGED") as refusal:
        api(api.jobs.CreateJob, one.request())
    assert "callsd restore" in refusal.error.message
    eventually(lambda: not says_serving(api), "health says that it is not well")
    (event,) = one.events("database_damaged")
    assert "callsd restore" in event["fix"]
    assert one.leaders(running.name) == [worker]
    files = [one.state / name for name in ("callsd.db", "callsd.db-wal")]
    before = [file.read_bytes() for file in files]
    assert all(before)
    assert one.stop() == 0
    assert [file.read_bytes() for file in files] == before

    manage(one, "restore", backup)
    api = one.start().api()
    assert {job.name for job in all_jobs(api)} == {running.name, ended}
    assert one.leaders(running.name) == [worker]
    (one.root / "tmp" / "go").touch()
    assert one.wait(api, running.name).state == JOB_STATE_SUCCEEDED
    assert_invariants(one)


async def fill_store(one: Daemon) -> None:
    """While it is stopped."""
    with closing(Database(one.state / "callsd.db", codec())) as database:
        await database.write(fill)


def manage(one: Daemon, command: str, *arguments: object) -> None:
    """Run a command of the administrator's."""
    words = [command, *map(str, arguments), "--config", str(one.config_file)]
    subprocess.run(one.command(*words), env=one.env, check=True, capture_output=True, timeout=60)
