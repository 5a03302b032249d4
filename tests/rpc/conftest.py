# SPDX-License-Identifier: Apache-2.0
"""A daemon for all tests of a module: most calls change nothing that others see."""

import pytest

from tests.conftest import StartDaemon
from tests.helpers.api import Api
from tests.helpers.daemon import Daemon


@pytest.fixture(scope="module")
def server(shared_daemon: StartDaemon) -> Daemon:
    """A daemon with scripted workers on a calm machine."""
    return shared_daemon()


@pytest.fixture
def api(server: Daemon) -> Api:
    """Its API, with the owner's token."""
    return server.api()
