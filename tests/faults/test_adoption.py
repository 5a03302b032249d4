# SPDX-License-Identifier: Apache-2.0
"""A daemon takes up workers that began when things were otherwise."""

import shutil

import pytest

from callsd.v1.job_pb2 import JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED
from tests.conftest import StartDaemon
from tests.helpers import models
from tests.helpers.api import log_of
from tests.helpers.daemon import Daemon
from tests.helpers.invariants import assert_invariants
from tests.helpers.waiting import eventually


def take_away_media(one: Daemon) -> None:
    """Remove the file that jobs read."""
    one.track.unlink()


def take_away_root(one: Daemon) -> None:
    """Allow no directory with media any more."""
    one.settings["media"]["roots"] = []


def take_away_model(one: Daemon) -> None:
    """Remove the model that jobs use."""
    shutil.rmtree(one.models / models.NAME)


LOSSES = {"media": take_away_media, "root": take_away_root, "model": take_away_model}


@pytest.mark.scenario(2, "what a running job has read may be gone: it goes on with its worker")
def test_what_was_read_is_gone(daemon: StartDaemon) -> None:
    """A worker that has its work needs nothing more: it goes on when that is gone, and succeeds."""
    one = daemon()
    api = one.api()
    steps = "".join(f"until {what}; say after-{what}; " for what in LOSSES)
    job = one.create(api, f"{steps}until go; print done").job
    one.wait(api, job.name, JOB_STATE_RUNNING)
    worker = one.worker(job.name)
    for what, take_away in LOSSES.items():
        one.stop()
        take_away(one)
        api = one.start().api()
        (one.root / "tmp" / what).touch()
        phase = f"after-{what}"
        # By that the daemon has heard of the worker again.
        eventually(lambda: one.job(api, job.name).progress.phase == phase, phase)  # noqa: B023
        assert one.job(api, job.name).state == JOB_STATE_RUNNING
        assert one.leaders(job.name) == [worker]
    (one.root / "tmp" / "go").touch()
    ended = one.wait(api, job.name)

    assert (ended.state, ended.attempt) == (JOB_STATE_SUCCEEDED, 1)
    assert list(ended.notices) == []
    assert log_of(api, job.name) == b"done\n"
    assert_invariants(one)


@pytest.mark.scenario(2, "a worker that ends while no daemon runs waits for the next one")
def test_the_daemon_is_away_at_the_end(daemon: StartDaemon) -> None:
    """A worker that has done its work keeps it until a daemon comes, with every line of its log."""
    one = daemon()
    api = one.api()
    lines = "".join(f"print line-{number}; " for number in range(5))
    job = one.create(api, f"print begun; until go; {lines}note done").job
    one.wait(api, job.name, JOB_STATE_RUNNING)
    eventually(lambda: log_of(api, job.name) == b"begun\n", "the first line is kept")
    worker = one.worker(job.name)
    one.kill()
    (one.root / "tmp" / "go").touch()
    eventually((one.worker_directory(job.name) / "outcome.binpb").exists, "the work is done")
    # The first one that comes is killed as soon as it hears of it.
    one.env["CALLSD_FAILPOINTS"] = "takeover.before_file"
    one.launch()
    one.wait_dead()
    del one.env["CALLSD_FAILPOINTS"]
    assert one.leaders(job.name) == [worker]
    api = one.start().api()
    ended = one.wait(api, job.name)

    assert (ended.state, ended.attempt) == (JOB_STATE_SUCCEEDED, 1)
    assert (one.root / "tmp" / "done").read_text().split() == [job.name.removeprefix("jobs/")]
    wanted = ["begun", *(f"line-{number}" for number in range(5))]
    assert log_of(api, job.name).decode().splitlines() == wanted
    assert_invariants(one)
