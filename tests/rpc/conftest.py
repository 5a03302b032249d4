# SPDX-License-Identifier: Apache-2.0
"""A daemon for all tests of a module: most requests change nothing that others see."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from callsd.v1.job_pb2 import StopJobRequest
from tests.conftest import StartDaemon
from tests.helpers.api import Api
from tests.helpers.captions import MODEL, begin_call
from tests.helpers.daemon import CALM, GIB, Daemon


@pytest.fixture(scope="module")
def server(shared_daemon: StartDaemon) -> Daemon:
    """A daemon with scripted workers on a calm machine."""
    return shared_daemon()


@pytest.fixture
def api(server: Daemon) -> Api:
    """Its API, with the owner's token."""
    return server.api()


@pytest.fixture(scope="module")
def live(shared_daemon: StartDaemon, models_directory: Path) -> Daemon:
    """A daemon with the real captioner, which stays: one call goes on all the time."""
    one = shared_daemon(
        is_real=True,
        machine=replace(CALM, cores_total=64.0, memory_total_bytes=64 * GIB),
        config={"captions": {"model": MODEL, "workers": 2}},
    )
    begin_call(one, one.api())
    return one


@pytest.fixture
def live_api(live: Daemon) -> Api:
    """Its API, with the owner's token."""
    return live.api()


@pytest.fixture
def call(live: Daemon, live_api: Api) -> Iterator[str]:
    """A captions job that runs."""
    name = begin_call(live, live_api)
    yield name
    live_api(live_api.jobs.StopJob, StopJobRequest(name=name))
