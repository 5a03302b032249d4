# SPDX-License-Identifier: Apache-2.0
"""Servers for the client to talk to."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from callsd import Client
from tests.clients.scripted import Scripted, scripted_server


@pytest.fixture
def socket_directory() -> Iterator[Path]:
    """A directory whose path is short enough for a socket's."""
    with TemporaryDirectory(prefix="callsd-", dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture
def scripted(socket_directory: Path) -> Iterator[Scripted]:
    """A server that breaks where the test wants it to."""
    with scripted_server(f"unix:{socket_directory}/s") as server:
        yield server


@pytest.fixture
def client(scripted: Scripted) -> Iterator[Client]:
    """A client of the scripted server."""
    with Client(scripted.address) as found:
        yield found
