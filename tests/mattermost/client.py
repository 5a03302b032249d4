# SPDX-License-Identifier: Apache-2.0
"""A client of the server, as a job has one, and what the plugin's answers look like."""

import asyncio
import io
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from tests.mattermost.routes import PLUGIN
from tests.mattermost.server import MattermostServer
from tests.mattermost.sockets import PREFIX
from tests.mattermost.state import Call, Job


RECEIVE_SECONDS = 20.0

Answer = tuple[int, str, Any]
"""Status, content type, and the body: decoded JSON, or text without white space around it."""

Recording = tuple[Call, Job]


class Client:
    """A client of the server, as its bot unless it is told otherwise."""

    def __init__(self, server: MattermostServer, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.session = session

    async def ask(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        headers: dict[str, str] | None = None,
        data: bytes | None = None,
        json: Any = None,
    ) -> Answer:
        """Ask once; a path without /api is one of the plugin."""
        url = self.server.url + (path if path.startswith("/api/") else PLUGIN + path)
        token = self.server.bot_token if token is None else token
        all_headers = {**({"Authorization": f"BEARER {token}"} if token else {}), **(headers or {})}
        body = None if data is None else io.BytesIO(data)
        async with self.session.request(
            method, url, headers=all_headers, data=body, json=json
        ) as response:
            text = (await response.text()).strip()
        return response.status, response.content_type, _decoded(text)

    async def get(self, path: str, **options: Any) -> Answer:
        """GET."""
        return await self.ask("GET", path, **options)

    async def post(self, path: str, document: Any = None, **options: Any) -> Answer:
        """POST JSON, or `data`."""
        return await self.ask("POST", path, json=document, **options)

    async def upload(self, call: Call, content: bytes, name: str = "Call.mp4") -> str:
        """Upload a file in one part and return its id."""
        wanted = {"channel_id": call.channel_id, "filename": name, "file_size": len(content)}
        _, _, session = await self.post("/bot/uploads", wanted)
        status, _, info = await self.post(f"/bot/uploads/{session['id']}", data=content)
        assert status == 200
        return str(info["id"])


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def status_path(call: Call, job_id: str) -> str:
    """Where a job reports."""
    return f"/bot/calls/{call.channel_id}/jobs/{job_id}/status"


def refused(status: int, message: str) -> Answer:
    """A refusal of the plugin: JSON that says it is text."""
    return status, "text/plain", {"message": message, "status_code": status}


SUCCESS: Answer = (200, "application/json", {"message": "success", "status_code": 200})
UNAUTHORIZED: Answer = (401, "text/plain", "Unauthorized")


class Socket:
    """A websocket of the server."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.seen: list[dict[str, Any]] = []

    async def event(self, name: str) -> dict[str, Any]:
        """The next event of this name; those before it are passed over."""
        async with asyncio.timeout(RECEIVE_SECONDS):
            while True:
                message = await self.socket.receive_json()
                self.seen.append(message)
                if message.get("event") in {name, PREFIX + name}:
                    return dict(message)

    async def act(self, action: str, **data: Any) -> None:
        """Send an action of the plugin."""
        await self.socket.send_json({"action": PREFIX + action, "seq": 1, "data": data})

    async def closed(self) -> int | None:
        """Wait for the end and return its code."""
        async with asyncio.timeout(RECEIVE_SECONDS):
            while not self.socket.closed:
                await self.socket.receive()
        return self.socket.close_code


Connect = Callable[..., Awaitable[Socket]]
