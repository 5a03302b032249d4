# SPDX-License-Identifier: Apache-2.0
"""The websocket, over all its losses: what is lost is mended while the server still knows us."""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import aiohttp

from callsd_worker.mattermost import events
from callsd_worker.mattermost.events import Event
from callsd_worker.mattermost.settings import Call, Limits
from callsd_worker.mattermost.websocket import ConnectError, Websocket


log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.3
MAX_PAUSE_SECONDS = 1.0
_LONGER = 1.5

RESUMED_SECONDS = 0.3
"""A resumed connection begins without a word; so long is waited for the `hello` of a new one."""

MAX_HELD = 20
"""Answers that wait for the websocket. The server makes one offer at a time."""

OnEvent = Callable[[Event], None]


class Link:
    """Connects, tells of events that are for us, and sends."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        run_task: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        call: Call,
        token: str,
        *,
        limits: Limits,
        on_event: OnEvent,
    ) -> None:
        self._session = session
        self._run_task = run_task
        self._call = call
        self._token = token
        self._limits = limits
        self._on_event = on_event
        self._socket: Websocket | None = None
        self._running: list[asyncio.Task[None]] = []
        self._greeted = asyncio.Event()
        self._heard = asyncio.Event()
        self._next_seq = 0
        self._original_id = ""
        self._current_id = ""
        self._held: deque[Mapping[str, object]] = deque(maxlen=MAX_HELD)
        self._hold_until_seconds = 0.0
        self.lost = asyncio.Event()
        """Set while there is no connection, after there was one."""
        self.lost_seconds = 0.0
        """When the last one was lost (monotonic)."""

    @property
    def is_up(self) -> bool:
        """Whether something can be sent."""
        return self._socket is not None

    async def connect(self) -> None:
        """Make the first connection.

        Raises ConnectError.
        """
        self._start(await Websocket.open(self._session, self._call, self._token))
        lost = asyncio.ensure_future(self.lost.wait())
        greeted = asyncio.ensure_future(self._greeted.wait())
        try:
            await asyncio.wait(
                {lost, greeted},
                timeout=self._limits.hello_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            lost.cancel()
            greeted.cancel()
        if not self._greeted.is_set():
            raise ConnectError(
                f"the websocket of {self._call.site_url} does not greet us", is_refused=True
            )

    async def mend(self) -> bool:
        """Connect again after a loss; False: it was away for too long."""
        until_seconds = self.lost_seconds + self._limits.away_seconds
        pause_seconds = FIRST_PAUSE_SECONDS
        previous_id = self._current_id
        while (left_seconds := until_seconds - time.monotonic()) > 0:
            # Not all at once: every client of the server has lost its websocket.
            wait_seconds = pause_seconds * random.uniform(0.7, 1.3)  # noqa: S311 - no secret
            await asyncio.sleep(min(wait_seconds, left_seconds))
            pause_seconds = min(_LONGER * pause_seconds, MAX_PAUSE_SECONDS)
            try:
                async with asyncio.timeout_at(
                    asyncio.get_running_loop().time() + max(until_seconds - time.monotonic(), 0.0)
                ):
                    socket = await Websocket.open(
                        self._session,
                        self._call,
                        self._token,
                        resume=(self._current_id, self._next_seq),
                    )
            except ConnectError as problem:
                log.info("%s", problem)
                continue
            except TimeoutError:
                continue
            if await self._resume(socket, previous_id):
                return True
        return False

    async def _resume(self, socket: Websocket, previous_id: str) -> bool:
        self._heard.clear()
        # What is replayed is answered only after the server has read our `reconnect`.
        self._hold_until_seconds = float("inf")
        self._start(socket)
        try:
            async with asyncio.timeout(RESUMED_SECONDS):
                await self._heard.wait()
        except TimeoutError:
            pass
        self.send(
            "reconnect",
            {
                "channelID": self._call.call_id,
                "originalConnID": self._original_id,
                "prevConnID": previous_id,
            },
        )
        hold_seconds = self._limits.answer_hold_seconds
        self._hold_until_seconds = time.monotonic() + hold_seconds
        asyncio.get_running_loop().call_later(hold_seconds, self._release)
        return self.is_up

    def send(self, action: str, data: Mapping[str, object]) -> bool:
        """Send an action of the plugin's; False: it cannot be sent now."""
        return self._socket is not None and self._socket.send(action, data)

    def send_description(self, packed: bytes) -> None:
        """Send a session description, or keep it until that can be done."""
        self._held.append({"data": packed})
        self._release()

    async def close(self) -> None:
        """Leave the call, as far as we are in it, and end the connection."""
        socket = self._socket
        if socket is None:
            return
        self._socket = None
        if self._original_id and socket.send("leave", {}):
            await socket.flush()
        await socket.close()

    def abort(self) -> None:
        """End what runs, without a word."""
        for task in self._running:
            task.cancel()

    def _start(self, socket: Websocket) -> None:
        self._socket = socket
        self.lost.clear()
        self._running = [
            self._run_task(self._read(socket)),
            self._run_task(socket.send_waiting()),
        ]

    async def _read(self, socket: Websocket) -> None:
        try:
            async for event in socket.events():
                self._take(event)
        except Exception:
            log.exception("the websocket cannot be read")
        finally:
            for task in self._running[1:]:
                task.cancel()
            if self._socket is socket:
                self._socket = None
                self.lost_seconds = time.monotonic()
                self.lost.set()
        log.info("the websocket has ended (%s)", socket.close_code)

    def _take(self, event: Event) -> None:
        if event.name == events.HELLO:
            self._current_id = event.text("connection_id")
            self._original_id = self._original_id or self._current_id
            self._next_seq = event.seq + 1
            self._greeted.set()
            self._heard.set()
            return
        if not self._greeted.is_set():
            return
        if event.seq >= 0:
            self._next_seq = event.seq + 1
            self._heard.set()
        ours = ("", self._current_id, self._original_id)
        if event.name and event.connection_id in ours:
            try:
                self._on_event(event)
            except Exception:
                # One odd event must not cost all later ones.
                log.exception("an event %s could not be handled", event.name)

    def _release(self) -> None:
        while (
            self._held and self._socket is not None and time.monotonic() >= self._hold_until_seconds
        ):
            if not self._socket.send("sdp", self._held[0], is_binary=True):
                return
            self._held.popleft()
