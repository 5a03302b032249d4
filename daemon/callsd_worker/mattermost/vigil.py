# SPDX-License-Identifier: Apache-2.0
"""Keeps us in the call, and finds out by ourselves when it is over: not everything is told."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from callsd_worker.capture.call import End
from callsd_worker.mattermost.connection import Connection
from callsd_worker.mattermost.events import CallState
from callsd_worker.mattermost.rest import Rest, RestError
from callsd_worker.mattermost.roster import Roster
from callsd_worker.mattermost.settings import Call, Limits


log = logging.getLogger(__name__)

STATE_SECONDS = 5.0
"""For a call's state that we have asked for."""

LOOKS = 3
"""So often is asked in vain before a call that says nothing is given up."""

_UNTOLD = "the call has ended, and the server could not tell us"


class Vigil:
    """Over one connection. Its owner runs `keep_linked` and `watch`, and hands states over."""

    def __init__(
        self,
        connection: Connection,
        call: Call,
        *,
        limits: Limits,
        rest: Rest,
        roster: Roster,
        on_gap: Callable[[], None],
        on_end: Callable[[End, str], None],
    ) -> None:
        self._link = connection.link
        self._peer = connection.peer
        self._call = call
        self._limits = limits
        self._rest = rest
        self._roster = roster
        self._on_gap = on_gap
        self._on_end = on_end
        self._is_asked = False
        self._told = asyncio.Event()

    def take(self, state: CallState) -> None:
        """Take the call's state: one that we have asked for may end our stay."""
        self._told.set()
        if not self._is_asked:
            return
        self._is_asked = False
        is_recording = self._call.job_kind == "recording"
        job = state.recording if is_recording else state.transcription
        if not state.sessions:
            self._on_end(End.OVER, "nobody is in the call any more")
        elif job is None or job.end_at > 0:
            self._on_end(End.OVER, "the server has stopped the job, and could not tell us")

    async def keep_linked(self) -> None:
        """Mend the websocket whenever it is lost."""
        while True:
            await self._link.lost.wait()
            log.warning("the websocket is lost; connecting again")
            self._on_gap()
            is_back = await self._link.mend()
            away_seconds = time.monotonic() - self._link.lost_seconds
            if not is_back:
                if await self._is_over():
                    self._on_end(End.OVER, _UNTOLD)
                self._on_end(
                    End.LOST,
                    f"the server's websocket could not be reached for {away_seconds:.0f} s, "
                    "and the server forgets a participant after 10 s",
                )
                return
            log.info("the websocket is back after %.1f s", away_seconds)
            self._on_gap()
            # A stop in the gap is never repeated.
            self._ask()
            if not await self._is_told() and await self._is_over():
                self._on_end(End.OVER, _UNTOLD)

    async def watch(self) -> None:
        """Look whether the call goes on when its media do not: a crashed plugin tells nobody."""
        silence_seconds = patience_seconds = self._limits.silence_seconds
        looked_seconds = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(silence_seconds / 20):
                    await self._peer.ended.wait()
            if self._peer.ended.is_set():
                await self._look_after_break()
                return
            if self._peer.heard_seconds > looked_seconds:
                patience_seconds = silence_seconds
            since_seconds = max(
                self._peer.heard_seconds, self._roster.changed_seconds, looked_seconds
            )
            if not self._roster.should_hear or time.monotonic() - since_seconds < patience_seconds:
                continue
            log.warning("nothing has come from the call for %.0f s", patience_seconds)
            await self._look_in_silence()
            looked_seconds = time.monotonic()
            # Somebody may just sit there with a microphone that does not work.
            patience_seconds = min(2 * patience_seconds, 6 * silence_seconds)

    async def _look_in_silence(self) -> None:
        began_seconds = time.monotonic()
        for number in range(LOOKS):
            if number:
                await asyncio.sleep(self._limits.look_seconds)
            if self._peer.heard_seconds > began_seconds:
                return
            is_over = await self._is_over()
            if is_over:
                self._on_end(End.OVER, _UNTOLD)
            if is_over is not None:
                self._ask()
                return
        self._on_end(End.LOST, "nothing comes from the call, and the plugin does not answer")

    async def _look_after_break(self) -> None:
        log.warning("the connection to the call's media has broken")
        for number in range(LOOKS):
            if number:
                await asyncio.sleep(self._limits.look_seconds)
            is_over = await self._is_over()
            if is_over:
                self._on_end(End.OVER, _UNTOLD)
                return
            if is_over is False:
                self._ask()
                if await self._is_told():
                    break
        self._on_end(End.LOST, "the connection to the call's media has broken")

    async def _is_over(self) -> bool | None:
        """Ask whether the call is over; None: no answer."""
        try:
            return not await self._rest.is_active()
        except RestError as problem:
            log.info("whether the call goes on: %s", problem)
            return None

    def _ask(self) -> None:
        self._told.clear()
        if self._link.send("call_state", {"channelID": self._call.call_id}):
            self._is_asked = True

    async def _is_told(self) -> bool:
        try:
            async with asyncio.timeout(STATE_SECONDS):
                await self._told.wait()
        except TimeoutError:
            return False
        return True
