# SPDX-License-Identifier: Apache-2.0
"""Another version of the daemon takes over, with jobs that run."""

import contextlib
import sqlite3

import pytest

from callsd.v1.job_pb2 import JOB_STATE_QUEUED, JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED
from callsd_daemon.store.migrations import MIGRATIONS
from tests.conftest import StartDaemon
from tests.helpers.daemon import Daemon
from tests.helpers.invariants import assert_invariants


CONFIG = 78
NEWEST = len(MIGRATIONS)


def as_the_first_release_had_it(one: Daemon) -> None:
    """Take from the store what later versions of the schema have brought."""
    with contextlib.closing(sqlite3.connect(one.state / "callsd.db")) as database:
        database.execute("DROP TABLE secrets")
        database.execute("PRAGMA user_version = 1")


@pytest.mark.scenario(8, "an older store is copied, then brought up to date; workers go on")
def test_upgrade(daemon: StartDaemon) -> None:
    """Jobs that run and wait live through an upgrade, and the way back stays open."""
    one = daemon(config={"jobs": {"max_concurrent_jobs": 1}})
    api = one.api()
    running, waiting = one.create(api, "until go").job, one.create(api).job
    one.wait(api, running.name, JOB_STATE_RUNNING)
    worker = one.worker(running.name)
    one.stop()
    as_the_first_release_had_it(one)
    api = one.start().api()

    assert one.leaders(running.name) == [worker]
    assert one.job(api, waiting.name).state == JOB_STATE_QUEUED
    backup = one.state / "callsd.db.v1.bak"
    with contextlib.closing(sqlite3.connect(backup)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
        assert database.execute("SELECT count(*) FROM jobs").fetchone() == (2,)
    (one.root / "tmp" / "go").touch()
    for job in (running, waiting):
        ended = one.wait(api, job.name)
        assert (ended.state, ended.attempt) == (JOB_STATE_SUCCEEDED, 1)
    assert_invariants(one)


@pytest.mark.scenario(8, "a newer store: exit code 78, a clear line, workers go on")
def test_downgrade(daemon: StartDaemon) -> None:
    """An older daemon touches neither the newer store nor the workers; the newer one goes on."""
    one = daemon()
    api = one.api()
    job = one.create(api, "until go").job
    one.wait(api, job.name, JOB_STATE_RUNNING)
    worker = one.worker(job.name)
    one.stop()
    set_version(one, NEWEST + 1)
    code, message = one.fail_to_start()

    assert code == CONFIG
    assert f"has schema {NEWEST + 1}, and this callsd knows up to {NEWEST}" in message
    assert "backup" in message
    assert one.leaders(job.name) == [worker]
    set_version(one, NEWEST)
    api = one.start().api()
    (one.root / "tmp" / "go").touch()
    ended = one.wait(api, job.name)
    assert (ended.state, ended.attempt) == (JOB_STATE_SUCCEEDED, 1)
    assert_invariants(one)


def set_version(one: Daemon, version: int) -> None:
    """Have the store say that it is of this version."""
    with contextlib.closing(sqlite3.connect(one.state / "callsd.db")) as database:
        database.execute(f"PRAGMA user_version = {version}")
