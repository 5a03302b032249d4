# SPDX-License-Identifier: Apache-2.0
"""Models whose files are not what they were."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from callsd.v1.job_pb2 import JOB_STATE_QUEUED, JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED
from tests.conftest import StartDaemon
from tests.helpers import models
from tests.helpers.daemon import Daemon
from tests.helpers.invariants import all_jobs, assert_invariants
from tests.helpers.reasons import failure, refused


def _elsewhere(file: Path) -> None:
    file.unlink()
    file.symlink_to("/etc/hostname")


def _into_nothing(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.with_name("nowhere"))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda file: file.write_bytes(b""),
    "random": lambda file: file.write_bytes(os.urandom(len(b"weights"))),
    "cut short": lambda file: file.write_bytes(b"weight"),
    "longer": lambda file: file.write_bytes(b"weights and more"),
    "a link elsewhere": _elsewhere,
    "a link into nothing": _into_nothing,
}


def weights(one: Daemon) -> Path:
    """The file that the manifest vouches for."""
    return one.models / models.NAME / "model.bin"


@pytest.mark.reason("MODEL_INVALID")
@pytest.mark.scenario(28, "missing, empty, random, cut, linked away: refused before it is loaded")
def test_refused(daemon: StartDaemon) -> None:
    """No job is made with a model that is not whole, and one is as soon as it is whole again."""
    one = daemon()
    api = one.api()
    for damage in DAMAGES.values():
        damage(weights(one))
        with refused("MODEL_INVALID"):
            one.create(api)
        weights(one).unlink(missing_ok=True)
        weights(one).write_bytes(b"weights")

    assert all_jobs(api) == []
    assert one.wait(api, one.create(api).job.name).state == JOB_STATE_SUCCEEDED
    assert_invariants(one)


@pytest.mark.reason("MODEL_INVALID")
@pytest.mark.scenario(28, "swapped while jobs wait: MODEL_INVALID, nobody else is disturbed")
def test_swapped_while_jobs_wait(daemon: StartDaemon) -> None:
    """A job whose model was spoilt since it was accepted fails by the model, not by its worker."""
    one = daemon(config={"jobs": {"max_concurrent_jobs": 1}})
    api, go = one.api(), one.root / "tmp" / "go"
    for damage in DAMAGES.values():
        running = one.create(api, "until go").job
        one.wait(api, running.name, JOB_STATE_RUNNING)
        waiting = one.create(api).job
        assert waiting.state == JOB_STATE_QUEUED
        damage(weights(one))
        go.touch()

        assert one.wait(api, running.name).state == JOB_STATE_SUCCEEDED
        ended = one.wait(api, waiting.name)
        assert failure(ended) == "MODEL_INVALID"
        assert "pull" in ended.failure.message
        go.unlink()
        weights(one).unlink(missing_ok=True)
        weights(one).write_bytes(b"weights")
    assert_invariants(one)
