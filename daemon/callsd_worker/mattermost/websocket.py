# SPDX-License-Identifier: Apache-2.0
"""A connection to the server's websocket."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping

import aiohttp

from callsd_worker.mattermost import events
from callsd_worker.mattermost.events import Event
from callsd_worker.mattermost.settings import Call


log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 4 * 1024**2
"""The largest that comes is the state of a call with everybody in it."""

MAX_WAITING = 128
"""Messages that wait to be sent: so many are waiting only when nobody takes them."""

HEARTBEAT_SECONDS = 5.0
"""A connection that was cut without a word is noticed within one and a half of it: an offer that
was lost with it must be answered within 10 s."""

CONNECT_SECONDS = 5.0
CLOSE_SECONDS = 0.5


class ConnectError(Exception):
    """There is no connection; the message is for a person, and holds no token."""

    def __init__(self, message: str, *, is_refused: bool = False) -> None:
        super().__init__(message)
        self.is_refused = is_refused
        """Whether the server does not know our token."""


class Websocket:
    """One connection. Who opens it also iterates `events` and runs `send_waiting`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._waiting: asyncio.Queue[str | bytes] = asyncio.Queue(MAX_WAITING)
        self._seq = 0

    @classmethod
    async def open(
        cls,
        session: aiohttp.ClientSession,
        call: Call,
        token: str,
        *,
        resume: tuple[str, int] | None = None,
    ) -> "Websocket":
        """Connect; `resume` is the id of an earlier connection and the event that comes next.

        Raises ConnectError.
        """
        url = f"ws{call.site_url.removeprefix('http')}/api/v4/websocket"
        query = {"connection_id": resume[0], "sequence_number": str(resume[1])} if resume else None
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                socket = await session.ws_connect(
                    url,
                    params=query,
                    headers={"Authorization": f"Bearer {token}"},
                    max_msg_size=MAX_MESSAGE_BYTES,
                    heartbeat=HEARTBEAT_SECONDS,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
                )
        except aiohttp.WSServerHandshakeError as problem:
            raise ConnectError(
                f"the websocket of {call.site_url} answers {problem.status}",
                is_refused=problem.status == 401,  # noqa: PLR2004 - Unauthorized
            ) from None
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as problem:
            # Not its text: that may be an address or a header as we sent them.
            kind = type(problem).__name__
            raise ConnectError(
                f"the websocket of {call.site_url} cannot be reached ({kind})"
            ) from None
        return cls(socket)

    async def events(self) -> AsyncIterator[Event]:
        """Everything that comes, until the connection ends, for whatever reason."""
        async for message in self._socket:
            if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                event = events.parse(message.data)
                if event is not None:
                    yield event

    @property
    def close_code(self) -> int | None:
        """Why it ended, by RFC 6455."""
        return self._socket.close_code

    def send(self, action: str, data: Mapping[str, object], *, is_binary: bool = False) -> bool:
        """Queue an action of the plugin's; False: it is not sent, as too much waits already."""
        self._seq += 1
        write = events.binary_frame if is_binary else events.text_frame
        try:
            self._waiting.put_nowait(write(action, self._seq, data))
        except asyncio.QueueFull:
            return False
        return True

    async def send_waiting(self) -> None:
        """Send what is queued, until the connection ends."""
        try:
            while not self._socket.closed:
                message = await self._waiting.get()
                if isinstance(message, str):
                    await self._socket.send_str(message)
                else:
                    await self._socket.send_bytes(message)
                self._waiting.task_done()
        except (aiohttp.ClientError, OSError, RuntimeError, ValueError):
            log.info("the websocket takes no more messages")

    async def flush(self) -> None:
        """Wait until what is queued has been sent."""
        await self._waiting.join()

    async def close(self) -> None:
        """End it."""
        await self._socket.close()
