# SPDX-License-Identifier: Apache-2.0
"""A daemon with real workers and real weights."""

from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.helpers.api import Api
from tests.helpers.daemon import Daemon


@pytest.fixture(scope="module")
def server(shared_daemon: StartDaemon, models_directory: Path) -> Daemon:
    """The real thing, on a machine described as calm: a busy one would keep jobs waiting."""
    return shared_daemon(is_real=True)


@pytest.fixture
def api(server: Daemon) -> Api:
    """Its API, with the owner's token."""
    return server.api()
