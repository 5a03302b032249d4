# SPDX-License-Identifier: Apache-2.0
"""A job service for the plugin to talk to."""

import json
from typing import Any

from aiohttp import web

from tests.helpers.ports import free_port


class JobService:
    """A job service that writes down what it is sent, and answers as it is told to."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.version: Any = {"buildVersion": "v0.9.5"}
        self.answers: dict[str, tuple[int, str]] = {}
        """Path, or type of job → status and body."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer anything."""
        body = await request.read()
        self.seen.append((request.path, dict(request.headers), body))
        if request.path == "/version":
            return web.json_response(self.version)
        key = json.loads(body).get("type", request.path)
        status, text = self.answers.get(key, (200, '{"id":"abcdefghijkl"}'))
        return web.Response(status=status, text=text)

    def bodies(self, path: str) -> list[dict[str, Any]]:
        """The JSON that was posted there."""
        return [json.loads(body) for seen, _, body in self.seen if seen == path]
