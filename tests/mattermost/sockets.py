# SPDX-License-Identifier: Apache-2.0
"""The websocket of the server: connections, their authentication, and who is told what."""

import asyncio
import json
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import msgspec
from aiohttp import WSMsgType, web

from tests.mattermost.answers import bearer_token
from tests.mattermost.state import State, User, new_id


PREFIX = "custom_com.mattermost.calls_"
"""Of the plugin's actions and events, in both directions."""

MAX_MESSAGE_BYTES = 8 * 1024
PING_SECONDS = 60.0
AUTHENTICATION_SECONDS = 5.0
SERVER_VERSION = "11.2.0.11.2.0.test.false"

MAX_REPLAYED = 128
"""So many events of a connection that was lost can be had again."""

_SEND_SECONDS = 10.0
_MAX_LOST = 256


class Connection:
    """One websocket; it has no user before it is authenticated.

    After it was lost it is kept for a while: events go on to be numbered, for one that resumes it.
    """

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport | None) -> None:
        self.socket = socket
        self.id = new_id()
        self.user: User | None = None
        self.is_lost = False
        self._transport = transport
        self._seq = 0
        self._sent: deque[dict[str, Any]] = deque(maxlen=MAX_REPLAYED)

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
        self._sent.append(document)
        if not self.is_lost:
            await self._send(document)

    def has_from(self, seq: int) -> bool:
        """Whether all events from this number on are still known."""
        return self._seq - len(self._sent) <= seq <= self._seq

    async def resume(self, lost: "Connection", seq: int) -> None:
        """Go on as the lost connection, and send what it missed from this number on."""
        self.id, self.user = lost.id, lost.user
        self._seq, self._sent = lost._seq, lost._sent
        for document in [one for one in self._sent if one["seq"] >= seq]:
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
        self.is_away = False
        """Nobody gets through to it."""
        self._lost: dict[str, Connection] = {}
        self._open: set[Connection] = set()

    def find(self, connection_id: str) -> Connection | None:
        """A connection, or what is kept of one that was lost."""
        return self.connections.get(connection_id) or self._lost.get(connection_id)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve `/api/v4/websocket`. A bad token gets its websocket too, but never a hello."""
        if self.is_away:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=503)
        websocket = web.WebSocketResponse(heartbeat=PING_SECONDS, max_msg_size=MAX_MESSAGE_BYTES)
        await websocket.prepare(request)
        connection = Connection(websocket, request.transport)
        self._open.add(connection)
        timer = asyncio.get_running_loop().call_later(
            self._authentication_seconds, self._give_up, connection
        )
        try:
            await self._authenticate(connection, bearer_token(request.headers), request.query)
            async for message in websocket:
                if message.type in {WSMsgType.TEXT, WSMsgType.BINARY}:
                    await self._receive(connection, message.data, request.query)
        finally:
            timer.cancel()
            if connection in self._open:
                self._keep(connection)
            self._open.discard(connection)
            if self.connections.get(connection.id) is connection:
                del self.connections[connection.id]
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
        for connection in self._all():
            if connection.user is bot:
                await connection.send(name, {**data, "channelID": channel_id}, user_id=bot.id)
            elif connection.user is not None and connection.user.id in humans:
                await connection.send(name, data, channel_id=channel_id)

    async def send_to_bot(self, event: str, data: dict[str, Any]) -> None:
        """Send an event to all connections of the bot."""
        bot = self._state.bot
        for connection in self._all():
            if connection.user is bot:
                await connection.send(PREFIX + event, data, user_id=bot.id)

    def abort(self) -> None:
        """End all connections, as a server does that stops; none can be resumed."""
        self._lost.clear()
        for connection in list(self._open):
            self._open.discard(connection)
            connection.abort()

    def cut(self) -> None:
        """Cut all connections, as a network does; they can be resumed."""
        for connection in list(self._open):
            connection.abort()

    def _all(self) -> list[Connection]:
        return [*self.connections.values(), *self._lost.values()]

    def _keep(self, connection: Connection) -> None:
        if connection.user is not None:
            connection.is_lost = True
            self._lost[connection.id] = connection
            while len(self._lost) > _MAX_LOST:
                del self._lost[next(iter(self._lost))]

    def _give_up(self, connection: Connection) -> None:
        if connection.user is None:
            connection.abort()

    async def _authenticate(
        self, connection: Connection, token: str, query: Mapping[str, str]
    ) -> None:
        user_id = self._state.tokens.get(token)
        if user_id is None:
            return
        lost = self._lost.get(query.get("connection_id", ""))
        seq = query.get("sequence_number", "")
        if (
            lost is not None
            and lost.user is self._state.users[user_id]
            and seq.isdecimal()
            and lost.has_from(int(seq))
        ):
            del self._lost[lost.id]
            self.connections[lost.id] = connection
            await connection.resume(lost, int(seq))  # there is no hello (seen on a real server)
            return
        connection.user = self._state.users[user_id]
        self.connections[connection.id] = connection
        hello = {
            "connection_id": connection.id,
            "server_version": SERVER_VERSION,
            "server_hostname": socket.gethostname(),
        }
        await connection.send("hello", hello, user_id=user_id)

    async def _receive(
        self, connection: Connection, content: str | bytes, query: Mapping[str, str]
    ) -> None:
        try:
            message = _decoded(content)
            action, data = str(message["action"]), message.get("data") or {}
            seq = int(message.get("seq", 0))
        except (ValueError, TypeError, KeyError, AttributeError, msgspec.DecodeError):
            connection.abort()
            return
        if not isinstance(data, dict):
            connection.abort()
        elif action == "authentication_challenge":
            if connection.user is None:
                await self._authenticate(connection, str(data.get("token", "")), query)
                if connection.user is not None:
                    await connection.reply(seq)
        elif connection.user is not None and action.startswith(PREFIX):
            await self._on_action(connection, action.removeprefix(PREFIX), data)


def _decoded(content: str | bytes) -> Any:
    """Text is JSON, whose numbers are all floats, as Go has them; binary is msgpack."""
    if isinstance(content, str):
        return json.loads(content, parse_int=float)
    return msgspec.msgpack.decode(content)
