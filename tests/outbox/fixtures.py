# SPDX-License-Identifier: Apache-2.0
"""Fixtures of this directory, and of the tests of faults."""

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartDaemon
from tests.helpers.job_service import Http
from tests.helpers.ports import free_port
from tests.mattermost.server import MattermostServer
from tests.outbox.deliveries import CLIENT, CONSTANTS
from tests.outbox.outbox_world import OutboxWorld
from tests.outbox.world import KEY, World


StartWorld = Callable[..., Awaitable[World]]
StartOutbox = Callable[..., Awaitable[OutboxWorld]]


@pytest.fixture
async def start_outbox(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StartOutbox]:
    """Starts a server and an outbox, in this process."""
    async with AsyncExitStack() as stack:

        async def start(*, constants: dict[str, float] | None = None) -> OutboxWorld:
            for name, value in (CONSTANTS | (constants or {})).items():
                monkeypatch.setattr(name, value)
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="outbox-"))
            server = await stack.enter_async_context(MattermostServer())
            world = OutboxWorld(server, Path(directory))
            return await stack.enter_async_context(world.running())

        yield start


@pytest.fixture
async def outbox(start_outbox: StartOutbox) -> OutboxWorld:
    """A server and an outbox: for all that shows without the rest of a daemon."""
    return await start_outbox()


@pytest.fixture
async def start_world(daemon: StartDaemon) -> AsyncIterator[StartWorld]:
    """Starts a server and a daemon that knows its plugin; `env` and `constants` are the daemon's.

    Other options are the server's; `is_open=False`: the daemon is started by the test.
    """
    async with AsyncExitStack() as stack:

        async def start(
            *,
            is_open: bool = True,
            env: dict[str, str] | None = None,
            constants: dict[str, float] | None = None,
            **options: Any,
        ) -> World:
            server = await stack.enter_async_context(
                MattermostServer(start_check_seconds=600.0, **options)
            )
            http = Http(port=free_port(), client_id=CLIENT, key=KEY)
            one = daemon(
                is_started=False,
                config={
                    "gateway": {"listen": f"127.0.0.1:{http.port}", "self_registration": True},
                    "jobs": {"max_attempts": 5},
                },
                constants=CONSTANTS | (constants or {}),
                env=env,
            )
            world = World(server, one, http)
            if is_open:
                await world.open()
            return world

        yield start


@pytest.fixture
async def world(start_world: StartWorld) -> World:
    """A server and a daemon that knows its plugin."""
    return await start_world()
