# SPDX-License-Identifier: Apache-2.0
"""The bot of the Calls plugin in a call: joins, listens, shows captions, and leaves."""

import asyncio
import contextlib
import json
import logging
import ssl
import time
from typing import Any

import aiohttp

from callsd_worker.capture.call import CallClient, End, Ending, JoinError, Listener
from callsd_worker.mattermost import data_channel
from callsd_worker.mattermost.data_channel import Description
from callsd_worker.mattermost.events import CallState, Event, call_state, job_state
from callsd_worker.mattermost.link import Link
from callsd_worker.mattermost.names import LOOKERS, Names
from callsd_worker.mattermost.pace import Pace
from callsd_worker.mattermost.peer import Peer, PeerError
from callsd_worker.mattermost.rest import Config, Profile, Rest, RestError
from callsd_worker.mattermost.roster import Roster
from callsd_worker.mattermost.settings import Call, Clock, Limits, steady_clock
from callsd_worker.mattermost.start_time import StartTime
from callsd_worker.mattermost.websocket import ConnectError


log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
STATE_SECONDS = 5.0
"""For a call's state that we have asked for."""

_TEMPORARY = ("session is already connected",)
"""What the plugin says to a join that will do when it is tried again."""

_ADVICE = {
    "job not in progress": "the recording was stopped or its start has timed out; start it again",
    "no job in progress": "the recording was stopped or its start has timed out; start it again",
    "cannot join because of limits": "the server's licence limits calls",
    "forbidden": "check that the server's licence allows recordings",
}
LOOKS = 3
"""So often is asked in vain before a call that says nothing is given up."""


class _Temporary(Exception):  # noqa: N818 - it ends an attempt to join, and no more
    """An attempt to join has failed; another one may not."""


class MattermostClient(CallClient):
    """One stay in a call, as the bot with this token. It is made and run on an event loop."""

    def __init__(
        self,
        call: Call,
        token: str,
        listener: Listener,
        *,
        context: ssl.SSLContext | None = None,
        clock: Clock | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._call = call
        self._token = token
        self._listener = listener
        self._context = context
        self._clock = clock or steady_clock()
        self._limits = limits or Limits()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._should_stop = False
        self._ended: asyncio.Future[Ending] | None = None
        self._pace = Pace()
        self._link: Link | None = None
        self._peer: Peer | None = None
        self._accepted: asyncio.Future[None] | None = None
        self._is_asked = False
        self._state_came = asyncio.Event()
        self._applying: asyncio.Task[None] | None = None

    async def run(self) -> Ending:
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        if self._should_stop:
            self._end(End.OVER, "stopped before the call was joined")
        problem: JoinError | None = None
        ending: Ending | None = None
        connector = aiohttp.TCPConnector(limit_per_host=8, ssl=self._context or True)
        async with (
            aiohttp.ClientSession(
                connector=connector, trust_env=True, cookie_jar=aiohttp.DummyCookieJar()
            ) as session,
            asyncio.TaskGroup() as tasks,
        ):
            self._rest = Rest(session, self._call, self._token, self._clock)
            self._names = Names(self._rest, self._on_profile)
            self._roster = Roster(self._listener, self._clock, self._names.ask)
            self._start_time = StartTime(self._rest.server_clock, self._clock)
            background = [tasks.create_task(self._names.run()) for _ in range(LOOKERS)]
            try:
                if await self._join(session, tasks):
                    background.append(tasks.create_task(self._keep_linked()))
                    background.append(tasks.create_task(self._watch()))
                ending = await self._ended
            except JoinError as refused:
                problem = refused
            finally:
                for task in background:
                    task.cancel()
                await self._leave()
        if problem is not None:
            raise problem
        assert ending is not None
        log.info("out of the call: %s", ending.message)
        return ending

    def request_stop(self) -> None:
        self._should_stop = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end, End.OVER, "told to leave")

    def show_caption(self, session_id: str, text: str, new_audio_seconds: float) -> None:
        data = {
            "session_id": session_id,
            "text": text,
            "new_audio_len_ms": float(new_audio_seconds * 1000),  # a whole number is refused
        }
        self._show("caption", session_id, data)

    def count(self, session_id: str, metric: str) -> None:
        self._show("metric", session_id, {"session_id": session_id, "metric_name": metric})

    def _show(self, action: str, session_id: str, data: dict[str, object]) -> None:
        if (
            self._link is not None
            and self._link.is_up
            and self._roster.is_present(session_id)
            and self._pace.may_send()
        ):
            self._link.send(action, data)

    # Joining

    async def _join(self, session: aiohttp.ClientSession, tasks: asyncio.TaskGroup) -> bool:
        """Join; False when it was ended before that. Raises JoinError."""
        assert self._ended is not None
        joining = asyncio.ensure_future(self._insist(session, tasks))
        waiting: set[asyncio.Future[Any]] = {joining, self._ended}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not joining.done():
                joining.cancel()
                with contextlib.suppress(asyncio.CancelledError, JoinError):
                    await joining
        if joining.cancelled():
            return False
        joining.result()
        return True

    async def _insist(self, session: aiohttp.ClientSession, tasks: asyncio.TaskGroup) -> None:
        problem = "nothing has answered"
        try:
            async with asyncio.timeout(self._limits.join_seconds):
                while True:
                    try:
                        await self._attempt(session, tasks)
                    except (_Temporary, PeerError, RestError) as failed:
                        problem = str(failed)
                        log.warning("the call cannot be joined yet: %s", problem)
                    except ConnectError as failed:
                        if failed.is_refused:
                            raise self._refused_token(str(failed)) from None
                        problem = str(failed)
                        log.warning("the call cannot be joined yet: %s", problem)
                    else:
                        return
                    await self._leave()
                    await asyncio.sleep(RETRY_SECONDS)
        except TimeoutError:
            raise JoinError(
                f"the call was not joined within {self._limits.join_seconds:.0f} s: {problem}; "
                "check that this machine reaches the server by HTTP and the call's media by UDP"
            ) from None

    def _refused_token(self, problem: str) -> JoinError:
        return JoinError(
            f"{problem}: it does not accept the bot's token; start the recording again, "
            "which gives a new one"
        )

    async def _attempt(self, session: aiohttp.ClientSession, tasks: asyncio.TaskGroup) -> None:
        config = await self._config()
        peer = self._peer = Peer(
            config.ice_servers,
            gather_seconds=self._limits.gather_seconds,
            on_ready=self._on_ready,
            on_offer=self._on_channel_offer,
            on_packet=self._roster.packet,
            on_report=self._roster.report,
        )
        link = self._link = Link(
            session,
            tasks,
            self._call,
            self._token,
            limits=self._limits,
            on_event=self._on_event,
        )
        accepted = self._accepted = asyncio.get_running_loop().create_future()
        gathering = asyncio.ensure_future(peer.offer())
        try:
            await link.connect()
            offer = await gathering
            link.send(
                "join",
                {
                    "channelID": self._call.call_id,
                    "jobID": self._call.job_id,
                    "av1Support": False,
                    # Offers then survive a gap of the websocket.
                    "dcSignaling": config.has_data_channel_signaling,
                },
            )
            await self._wait(accepted, self._limits.accept_seconds, "the plugin has not answered")
            self._applying = tasks.create_task(peer.run())
            link.send_description(data_channel.pack(offer))
            await self._wait(
                peer.ready, self._limits.connect_seconds, "the call's media was not reached"
            )
        finally:
            gathering.cancel()

    async def _wait(self, waited: asyncio.Future[None], seconds: float, problem: str) -> None:
        assert self._link is not None
        lost = asyncio.ensure_future(self._link.lost.wait())
        waiting: set[asyncio.Future[Any]] = {waited, lost}
        try:
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost.cancel()
        if waited.done():
            waited.result()
            return
        if self._link.lost.is_set():
            raise _Temporary("the websocket was lost while joining")
        raise _Temporary(f"{problem} within {seconds:.0f} s")

    async def _config(self) -> Config:
        try:
            config = await self._rest.config()
        except RestError as problem:
            if problem.status == 401:  # noqa: PLR2004 - Unauthorized
                raise self._refused_token(str(problem)) from None
            if problem.is_temporary:
                raise
            log.warning("joining without the plugin's settings: %s", problem)
            return Config(
                ice_servers=[], has_data_channel_signaling=False, needs_turn_credentials=False
            )
        if config.needs_turn_credentials:
            try:
                config.ice_servers.extend(await self._rest.turn_credentials())
            except RestError as problem:
                log.warning("joining without TURN: %s", problem)
        return config

    def _on_ready(self) -> None:
        log.info("in the call")
        self._listener.joined()

    # What the server tells

    def _on_event(self, event: Event) -> None:
        match event.name:
            case "join" | "error":
                self._on_reply(event)
            case "signal":
                self._on_signal(event)
            case "job_stop" if event.text("job_id") == self._call.job_id:
                self._end(End.OVER, "the server has stopped the job")
            case _ if event.channel_id == self._call.call_id:
                self._on_call_event(event)
            case _:
                pass  # of another call: the bot's connections are told of all

    def _on_call_event(self, event: Event) -> None:
        session_id = event.text("session_id")
        match event.name:
            case "call_end" | "call_ended":
                self._end(End.OVER, "the call has ended")
            case "call_state":
                state = call_state(event)
                if state is not None:
                    self._on_state(state)
            case "call_job_state":
                job = job_state(event)
                if job is not None and job.type == "recording":
                    self._on_start(job.start_at, is_live=True)
            case "user_joined":
                self._roster.join(session_id, event.text("user_id"))
            case "user_left":
                self._roster.leave(session_id)
            case "user_muted" | "user_unmuted":
                self._roster.mute(session_id, is_muted=event.name == "user_muted")
            case _:
                pass

    def _on_reply(self, event: Event) -> None:
        if self._accepted is None or self._accepted.done():
            if event.name == "error":
                log.warning("the plugin reports an error: %.200s", event.text("data"))
            return
        if event.name == "join":
            self._accepted.set_result(None)
            return
        text = event.text("data")[:200]
        if text in _TEMPORARY:
            self._accepted.set_exception(_Temporary(f"the plugin answers: {text}"))
            return
        advice = next((advice for key, advice in _ADVICE.items() if key in text), "")
        message = f"the plugin does not let the bot into the call: {text}"
        self._accepted.set_exception(JoinError(f"{message}; {advice}" if advice else message))

    def _on_start(self, start_at_ms: int, *, is_live: bool) -> None:
        began_seconds = self._start_time.take(start_at_ms, is_live=is_live)
        if began_seconds is not None:
            log.info("the recording of the call has begun")
            self._listener.recording_started(began_seconds)

    def _on_state(self, state: CallState) -> None:
        self._roster.replace(state.sessions or ())
        if state.recording is not None:
            self._on_start(state.recording.start_at, is_live=False)
        else:
            self._on_start(0, is_live=False)
        self._state_came.set()
        if not self._is_asked:
            return
        self._is_asked = False
        kind = self._call.job_kind
        job = state.recording if kind == "recording" else state.transcription
        if not state.sessions:
            self._end(End.OVER, "nobody is in the call any more")
        elif job is None or job.end_at > 0:
            self._end(End.OVER, "the server has stopped the job, while it could not tell us")

    # Signalling

    def _on_signal(self, event: Event) -> None:
        if self._peer is None:
            return
        try:
            signal = json.loads(event.text("data"))
        except (ValueError, RecursionError):
            return
        match signal:
            case {"type": "answer", "sdp": str(text)}:
                self._peer.accept(Description(type="answer", sdp=text))
            case {"type": "offer", "sdp": str(text)}:
                packed = self._answer(Description(type="offer", sdp=text))
                if packed is not None and self._link is not None:
                    self._link.send_description(data_channel.pack(packed))
            case {"type": "candidate", "candidate": {"candidate": str(text)}}:
                self._peer.add_candidate(text)
            case _:
                pass

    def _on_channel_offer(self, offer: Description) -> None:
        answer = self._answer(offer)
        if answer is not None and self._peer is not None:
            self._peer.send(data_channel.description_message(answer))

    def _answer(self, offer: Description) -> Description | None:
        """Answer an offer; the way it came is the way back."""
        if self._peer is None:
            return None
        try:
            answer, voices = self._peer.answer(offer)
        except PeerError as problem:
            log.warning("later voices will not be heard: %s", problem)
            return None
        try:
            self._roster.offer(voices)
        except Exception:
            # The server waits for the answer, whatever becomes of a track.
            log.exception("a track could not be taken")
        return answer

    # Staying

    async def _keep_linked(self) -> None:
        """Mend the websocket whenever it is lost."""
        link = self._link
        assert link is not None
        while True:
            await link.lost.wait()
            log.warning("the websocket is lost; connecting again")
            self._start_time.gap()
            if not await link.mend():
                away_seconds = time.monotonic() - link.lost_seconds
                message = f"the server could not be reached for {away_seconds:.0f} s"
                is_over = await self._is_over()
                self._end(End.OVER if is_over else End.LOST, message)
                return
            away_seconds = time.monotonic() - link.lost_seconds
            log.info("the websocket is back after %.1f s", away_seconds)
            self._start_time.gap()
            self._ask()
            if not await self._is_told() and await self._is_over():
                self._end(End.OVER, "the call has ended while the server could not tell us")

    async def _watch(self) -> None:
        """Find out by ourselves that the call has ended: a crashed plugin tells nobody."""
        peer = self._peer
        assert peer is not None
        patience_seconds = self._limits.silence_seconds
        looked_seconds = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.silence_seconds / 20):
                    await peer.ended.wait()
            if peer.ended.is_set():
                await self._look_after_cut()
                return
            since = max(peer.heard_seconds, self._roster.changed_seconds, looked_seconds)
            if not self._roster.should_hear:
                continue
            if time.monotonic() - since > patience_seconds:
                log.warning("nothing has come from the call for %.0f s", patience_seconds)
                await self._look_in_silence()
                looked_seconds = time.monotonic()
                # Somebody may just sit there with a microphone that does not work.
                patience_seconds = min(2 * patience_seconds, 6 * self._limits.silence_seconds)
            if peer.heard_seconds > looked_seconds:
                patience_seconds = self._limits.silence_seconds

    async def _look_in_silence(self) -> None:
        peer = self._peer
        assert peer is not None
        began_seconds = time.monotonic()
        for number in range(LOOKS):
            if number:
                await asyncio.sleep(self._limits.look_seconds)
            if peer.heard_seconds > began_seconds:
                return
            is_over = await self._is_over()
            if is_over:
                self._end(End.OVER, "the call has ended, and the server did not tell us")
            if is_over is not None:
                self._ask()
                return
        self._end(End.LOST, "nothing comes from the call, and the plugin does not answer")

    async def _look_after_cut(self) -> None:
        message = "the connection to the call's media has broken"
        log.warning("%s", message)
        for number in range(LOOKS):
            if number:
                await asyncio.sleep(self._limits.look_seconds)
            is_over = await self._is_over()
            if is_over:
                self._end(End.OVER, "the call has ended, and the server did not tell us")
                return
            if is_over is False:
                self._ask()
                if await self._is_told():
                    break
        self._end(End.LOST, message)

    async def _is_over(self) -> bool | None:
        """Ask whether the call is over; None: no answer."""
        try:
            return not await self._rest.is_active()
        except RestError as problem:
            log.info("whether the call goes on: %s", problem)
            return None

    def _ask(self) -> None:
        """Ask for the call's state; what comes then may end our stay."""
        self._state_came.clear()
        if self._link is not None and self._link.send(
            "call_state", {"channelID": self._call.call_id}
        ):
            self._is_asked = True

    async def _is_told(self) -> bool:
        try:
            async with asyncio.timeout(STATE_SECONDS):
                await self._state_came.wait()
        except TimeoutError:
            return False
        return True

    def _on_profile(self, session_id: str, profile: Profile) -> None:
        self._roster.named(session_id, profile)

    # Leaving

    def _end(self, end: End, message: str) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(Ending(end=end, message=message))

    async def _leave(self) -> None:
        """Leave as far as we are in, within the time that there is."""
        link, self._link = self._link, None
        peer, self._peer = self._peer, None
        closing = [asyncio.ensure_future(part.close()) for part in (link, peer) if part]
        try:
            if closing:
                await asyncio.wait(closing, timeout=self._limits.leave_seconds)
        finally:
            for task in closing:
                task.cancel()
            if link is not None:
                link.abort()
            if self._applying is not None:
                self._applying.cancel()
