# SPDX-License-Identifier: Apache-2.0
"""What one join opens: a websocket, a media connection, and the signalling between them."""

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import aiohttp
from aiortc import RTCIceServer

from callsd_worker.capture.call import JoinError
from callsd_worker.mattermost import data_channel
from callsd_worker.mattermost.data_channel import Description
from callsd_worker.mattermost.events import Event
from callsd_worker.mattermost.link import Link
from callsd_worker.mattermost.peer import Peer, PeerError
from callsd_worker.mattermost.roster import Roster
from callsd_worker.mattermost.settings import Call, Limits


log = logging.getLogger(__name__)

MAX_PROBLEM_CHARACTERS = 200

_TEMPORARY = ("session is already connected",)
"""What the plugin says to a join that will do when it is tried again."""

_START_AGAIN = "the recording was stopped or its start has timed out; start it again"
_ADVICE = {
    "job not in progress": _START_AGAIN,
    "no job in progress": _START_AGAIN,
    "cannot join because of limits": "the server's licence limits calls",
    "forbidden": "check that the server's licence allows recordings",
}

RunTask = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
"""Runs something until it is cancelled; its exceptions end nothing else."""


class TemporaryError(Exception):
    """A join has failed, and another one may not; the message is for a person."""


class Connection:
    """One join, and what comes of it. `on_event` gets what is not signalling."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        run_task: RunTask,
        call: Call,
        token: str,
        *,
        limits: Limits,
        servers: Sequence[RTCIceServer],
        roster: Roster,
        on_ready: Callable[[], None],
        on_event: Callable[[Event], None],
    ) -> None:
        self._run_task = run_task
        self._call = call
        self._limits = limits
        self._roster = roster
        self._on_other_event = on_event
        self._accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._applying: asyncio.Task[None] | None = None
        self.link = Link(session, run_task, call, token, limits=limits, on_event=self._on_event)
        self.peer = Peer(
            servers,
            gather_seconds=limits.gather_seconds,
            on_ready=on_ready,
            on_offer=self._on_channel_offer,
            on_packet=roster.packet,
            on_report=roster.report,
        )

    async def join(self, *, uses_data_channel: bool) -> None:
        """Join the call and wait until its media can come.

        Raises JoinError; ConnectError, PeerError and TemporaryError when it may be tried again.
        """
        gathering = asyncio.ensure_future(self.peer.offer())
        try:
            await self.link.connect()
            offer = await gathering
        finally:
            if not gathering.cancel() and not gathering.cancelled():
                gathering.exception()  # a failure of both is told as that of the websocket
        self.link.send(
            "join",
            {
                "channelID": self._call.call_id,
                "jobID": self._call.job_id,
                "av1Support": False,
                # Later offers then survive a gap of the websocket.
                "dcSignaling": uses_data_channel,
            },
        )
        limits = self._limits
        await self._wait(self._accepted, limits.accept_seconds, "the plugin has not answered")
        self._applying = self._run_task(self.peer.run())
        self.link.send_description(data_channel.pack(offer))
        await self._wait(
            self.peer.ready, limits.connect_seconds, "the call's media could not be reached"
        )

    async def close(self) -> None:
        """Leave the call as far as we are in it, and end everything within the time there is."""
        closing = [asyncio.ensure_future(part.close()) for part in (self.link, self.peer)]
        try:
            await asyncio.wait(closing, timeout=self._limits.leave_seconds)
        finally:
            for task in closing:
                task.cancel()
            self.link.abort()
            if self._applying is not None:
                self._applying.cancel()

    async def _wait(self, waited: asyncio.Future[None], seconds: float, problem: str) -> None:
        lost = asyncio.ensure_future(self.link.lost.wait())
        waiting: set[asyncio.Future[Any]] = {waited, lost}
        try:
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost.cancel()
        if waited.done():
            waited.result()
            return
        if self.link.lost.is_set():
            raise TemporaryError("the websocket was lost while joining")
        raise TemporaryError(f"{problem} within {seconds:.0f} s")

    def _on_event(self, event: Event) -> None:
        match event.name:
            case "join":
                if not self._accepted.done():
                    self._accepted.set_result(None)
            case "error":
                self._on_error(event.text("data")[:MAX_PROBLEM_CHARACTERS])
            case "signal":
                self._on_signal(event.text("data"))
            case _:
                self._on_other_event(event)

    def _on_error(self, text: str) -> None:
        if self._accepted.done():
            log.warning("the plugin reports an error: %s", text)
            return
        if text in _TEMPORARY:
            self._accepted.set_exception(TemporaryError(f"the plugin answers: {text}"))
            return
        advice = next((advice for key, advice in _ADVICE.items() if key in text), "")
        message = f"the plugin does not let the bot into the call: {text}"
        self._accepted.set_exception(JoinError(f"{message}; {advice}" if advice else message))

    def _on_signal(self, text: str) -> None:
        try:
            signal = json.loads(text)
        except (ValueError, RecursionError):
            return
        match signal:
            case {"type": "answer", "sdp": str(sdp)}:
                self.peer.accept(Description(type="answer", sdp=sdp))
            case {"type": "offer", "sdp": str(sdp)}:
                answer = self._answer(Description(type="offer", sdp=sdp))
                if answer is not None:
                    self.link.send_description(data_channel.pack(answer))
            case {"type": "candidate", "candidate": {"candidate": str(candidate)}}:
                self.peer.add_candidate(candidate)
            case _:
                pass

    def _on_channel_offer(self, offer: Description) -> None:
        answer = self._answer(offer)
        if answer is not None:
            self.peer.send(data_channel.description_message(answer))

    def _answer(self, offer: Description) -> Description | None:
        """Answer an offer; the way it came is the way back."""
        try:
            answer, voices = self.peer.answer(offer)
        except PeerError as problem:
            log.warning("later voices will not be heard: %s", problem)
            return None
        try:
            self._roster.offer(voices)
        except Exception:
            # The server waits for the answer, whatever becomes of a track.
            log.exception("a track could not be taken")
        return answer
