# SPDX-License-Identifier: Apache-2.0

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.mattermost.bot import Bot, OpenBot
from tests.mattermost.client import Client, Connect, Recording, Socket
from tests.mattermost.job_service import JobService
from tests.mattermost.server import MattermostServer
from tests.mattermost.state import Job


@pytest.fixture
async def service() -> AsyncIterator[JobService]:
    """A job service that accepts everything."""
    service = JobService()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", service.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", service.port).start()
    yield service
    await runner.cleanup()


@pytest.fixture
async def server() -> AsyncIterator[MattermostServer]:
    """A server whose waits are short."""
    options: dict[str, Any] = {"reconnect_seconds": 0.1, "authentication_seconds": 0.2}
    async with MattermostServer(start_check_seconds=600.0, **options) as server:
        yield server


@pytest.fixture
async def client(server: MattermostServer) -> AsyncIterator[Client]:
    """A client of the server."""
    async with aiohttp.ClientSession() as session:
        yield Client(server, session)


@pytest.fixture
async def recording(server: MattermostServer, service: JobService) -> Recording:
    """A call of one whose host has asked for a recording and a transcription."""
    await server.activate(service.url, "client", "k" * 32)
    call = server.start_call()
    return call, await server.start_recording(call)


@pytest.fixture
async def connect(server: MattermostServer, client: Client) -> Connect:
    """Opens websockets, with the bot's token in the header unless it is told otherwise."""

    async def open_one(token: str | None = None) -> Socket:
        token = server.bot_token if token is None else token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"{server.url}/api/v4/websocket"
        return Socket(await client.session.ws_connect(url, headers=headers))

    return open_one


@pytest.fixture
async def bot(
    server: MattermostServer, client: Client, recording: Recording
) -> AsyncIterator[OpenBot]:
    """Opens bots that join as the transcription's."""
    bots: list[Bot] = []

    async def open_one(*, makes_offer: bool = True, job: Job | None = None, **options: Any) -> Bot:
        call, _ = recording
        one = Bot(server, client.session, call, job or call.transcription, **options)
        bots.append(one)
        await one.join(makes_offer=makes_offer)
        if makes_offer:
            async with asyncio.timeout(10.0):
                await server.bot_session(call).connected.wait()
            await server.until(lambda: one.channel.readyState == "open", "the data channel")
        return one

    yield open_one
    for one in bots:
        await one.close()
