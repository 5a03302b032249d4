# SPDX-License-Identifier: Apache-2.0
"""Ends connections on which nothing comes: everybody can open one, without a key."""

import asyncio
import time

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware


MAX_CONNECTIONS = 512
"""With more, those on which no request has come are closed, the oldest first, and those on which
one comes are told to come later."""

FIRST_REQUEST_SECONDS = 10.0
"""How long the first request of a connection may take; its body has a limit of its own."""

LOOK_SECONDS = 1.0


class Connections:
    """Of one server. Belongs to one event loop."""

    def __init__(self) -> None:
        self._served = set[asyncio.Protocol]()
        self._server: web.Server | None = None
        self._mute = dict[asyncio.Protocol, float]()
        """Since when those are open on which nothing has come."""

    @property
    def middleware(self) -> Middleware:
        """Notes on which connections a request has come."""

        @web.middleware
        async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._served.add(request.protocol)
            if self._server is None or len(self._server.connections) <= MAX_CONNECTIONS:
                return await handler(request)
            response = web.json_response(
                {"error": "too many connections", "code": "503"},
                status=503,
                headers={"Retry-After": "1"},
            )
            response.force_close()
            return response

        return note

    async def watch(self, server: web.Server) -> None:
        """Until this is cancelled."""
        self._server = server
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._end(server, time.monotonic())

    def _end(self, server: web.Server, now: float) -> None:
        connections = server.connections
        self._served.intersection_update(connections)
        mute = [one for one in connections if one not in self._served]
        self._mute = {one: self._mute.get(one, now) for one in mute}
        mute.sort(key=self._mute.__getitem__)
        surplus = len(connections) - MAX_CONNECTIONS
        for number, one in enumerate(mute):
            is_late = now - self._mute[one] > FIRST_REQUEST_SECONDS
            if (is_late or number < surplus) and one.transport is not None:
                one.transport.abort()
