# SPDX-License-Identifier: Apache-2.0
"""The websocket of the server: connections, their authentication, and who is told what."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiohttp import WSMsgType, web

from tests.mattermost.answers import bearer_token
from tests.mattermost.state import State, User, new_id


PREFIX = "custom_com.mattermost.calls_"
"""Of the plugin's actions and events, in both directions."""

MAX_MESSAGE_BYTES = 8 * 1024
PING_SECONDS = 60.0
AUTHENTICATION_SECONDS = 5.0
SERVER_VERSION = "11.2.0.11.2.0.test.false"

_SEND_SECONDS = 10.0


class Connection:
    """One websocket; it has no user before it is authenticated."""

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport | None) -> None:
        self.socket = socket
        self.id = new_id()
        self.user: User | None = None
        self._transport = transport
        self._seq = 0

    async def send(
        self,
        event: str,
        data: dict[str, Any],
        *,
        user_id: str = "",
        channel_id: str = "",
        connection_id: str = "",
    ) -> None:
        """Send an event; one that no longer reaches anybody is lost without a word."""
        document = {
            "event": event,
            "data": data,
            "broadcast": {
                "omit_users": None,
                "user_id": user_id,
                "channel_id": channel_id,
                "team_id": "",
                "connection_id": connection_id,
                "omit_connection_id": "",
            },
            "seq": self._seq,
        }
        self._seq += 1
        await self._send(document)

    async def reply(self, seq: int) -> None:
        """Say that the core's action was done; those of the plugin get no reply."""
        await self._send({"status": "OK", "seq_reply": seq})

    async def _send(self, document: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                await self.socket.send_str(json.dumps(document))
        except (OSError, RuntimeError):
            self.abort()  # who is gone or does not listen is seen when the connection ends

    def abort(self) -> None:
        """End it without a closing frame: the other side sees 1006."""
        if self._transport is not None:
            self._transport.abort()


OnAction = Callable[[Connection, str, dict[str, Any]], Awaitable[None]]
"""Handles an action of the plugin: its name without the prefix, and its data."""

OnClosed = Callable[[Connection], Awaitable[None]]


class Sockets:
    """All connections. `on_action` and `on_closed` are the plugin's."""

    def __init__(
        self,
        state: State,
        *,
        on_action: OnAction,
        on_closed: OnClosed,
        authentication_seconds: float = AUTHENTICATION_SECONDS,
    ) -> None:
        self._state = state
        self._on_action = on_action
        self._on_closed = on_closed
        self._authentication_seconds = authentication_seconds
        self.connections: dict[str, Connection] = {}
        """Those that are authenticated."""
        self._open: set[Connection] = set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve `/api/v4/websocket`. A bad token gets its websocket too, but never a hello."""
        websocket = web.WebSocketResponse(heartbeat=PING_SECONDS, max_msg_size=MAX_MESSAGE_BYTES)
        await websocket.prepare(request)
        connection = Connection(websocket, request.transport)
        self._open.add(connection)
        timer = asyncio.get_running_loop().call_later(
            self._authentication_seconds, self._give_up, connection
        )
        try:
            await self._authenticate(connection, bearer_token(request.headers))
            async for message in websocket:
                if message.type is WSMsgType.TEXT:
                    await self._receive(connection, message.data)
        finally:
            timer.cancel()
            self._open.discard(connection)
            if self.connections.pop(connection.id, None) is not None:
                await self._on_closed(connection)
        return websocket

    async def send(
        self,
        event: str,
        data: dict[str, Any],
        *,
        channel_id: str,
        human_ids: Iterable[str] = (),
    ) -> None:
        """Publish an event of the plugin: to the channel's people, and a copy to the bot.

        The copy is addressed to the bot's user, as the bot is in no channel, and comes to all
        connections that the bot has, of whatever call they are.
        """
        name, humans, bot = PREFIX + event, set(human_ids), self._state.bot
        for connection in list(self.connections.values()):
            if connection.user is bot:
                await connection.send(name, {**data, "channelID": channel_id}, user_id=bot.id)
            elif connection.user is not None and connection.user.id in humans:
                await connection.send(name, data, channel_id=channel_id)

    async def send_to_bot(self, event: str, data: dict[str, Any]) -> None:
        """Send an event to all connections of the bot."""
        bot = self._state.bot
        for connection in list(self.connections.values()):
            if connection.user is bot:
                await connection.send(PREFIX + event, data, user_id=bot.id)

    def abort(self) -> None:
        """End all connections, as a server does that stops."""
        for connection in list(self._open):
            connection.abort()

    def _give_up(self, connection: Connection) -> None:
        if connection.user is None:
            connection.abort()

    async def _authenticate(self, connection: Connection, token: str) -> None:
        user_id = self._state.tokens.get(token)
        if user_id is None:
            return
        connection.user = self._state.users[user_id]
        self.connections[connection.id] = connection
        hello = {
            "connection_id": connection.id,
            "server_version": SERVER_VERSION,
            "server_hostname": socket.gethostname(),
        }
        await connection.send("hello", hello, user_id=user_id)

    async def _receive(self, connection: Connection, text: str) -> None:
        try:
            message = json.loads(text)
            action, data = str(message["action"]), message.get("data") or {}
            seq = int(message.get("seq", 0))
        except (ValueError, TypeError, KeyError, AttributeError):
            connection.abort()
            return
        if action == "authentication_challenge":
            if connection.user is None:
                await self._authenticate(connection, str(data.get("token", "")))
                if connection.user is not None:
                    await connection.reply(seq)
        elif connection.user is not None and action.startswith(PREFIX):
            await self._on_action(connection, action.removeprefix(PREFIX), data)
