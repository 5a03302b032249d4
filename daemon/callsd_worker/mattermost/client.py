# SPDX-License-Identifier: Apache-2.0
"""The bot of the Calls plugin in a call: joins, listens, shows captions, and leaves."""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Coroutine
from typing import Any

import aiohttp

from callsd_worker.capture.call import CallClient, End, Ending, JoinError, Listener
from callsd_worker.mattermost.connection import Connection, TemporaryError
from callsd_worker.mattermost.events import CallState, Event, JobState, call_state, job_state
from callsd_worker.mattermost.names import LOOKERS, Names
from callsd_worker.mattermost.peer import PeerError
from callsd_worker.mattermost.rest import Config, Profile, Rest, RestError
from callsd_worker.mattermost.roster import Roster
from callsd_worker.mattermost.settings import Call, Clock, Limits, steady_clock
from callsd_worker.mattermost.start_time import StartTime
from callsd_worker.mattermost.vigil import Vigil
from callsd_worker.mattermost.websocket import ConnectError


log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""Between attempts to join."""

MAX_CAPTION_CHARACTERS = 500
"""The server drops the connection that sends more than 8 KiB at once, and JSON takes up to 12 bytes
for a character."""


class MattermostClient(CallClient):
    """One stay in a call, as the bot with this token."""

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
        self._ended: asyncio.Future[Ending] | None = None
        self._should_stop = False
        self._tasks: asyncio.TaskGroup | None = None
        self._connection: Connection | None = None
        self._vigil: Vigil | None = None

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
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
            ) as session,
            asyncio.TaskGroup() as self._tasks,
        ):
            self._rest = Rest(session, self._call, self._token, self._clock)
            self._names = Names(self._rest, self._on_profile)
            self._roster = Roster(self._listener, self._clock, self._names.ask)
            self._start_time = StartTime(self._rest.server_clock, self._clock)
            background = [self._run_task(self._names.run()) for _ in range(LOOKERS)]
            try:
                if await self._join(session):
                    assert self._vigil is not None
                    background.append(self._run_task(self._vigil.keep_linked()))
                    background.append(self._run_task(self._vigil.watch()))
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

    def show_caption(self, session_id: str, text: str, new_audio_seconds: float) -> bool:
        data = {
            "session_id": session_id,
            "text": text[-MAX_CAPTION_CHARACTERS:],
            "new_audio_len_ms": float(new_audio_seconds * 1000),  # a whole number is refused
        }
        return self._show("caption", session_id, data)

    def count(self, session_id: str, metric: str) -> None:
        self._show("metric", session_id, {"session_id": session_id, "metric_name": metric})

    def _show(self, action: str, session_id: str, data: dict[str, object]) -> bool:
        connection = self._connection
        return (
            connection is not None
            and self._roster.is_present(session_id)
            and connection.link.send(action, data)
        )

    # Joining

    async def _join(self, session: aiohttp.ClientSession) -> bool:
        """Join; False when our stay was ended before that. Raises JoinError."""
        assert self._ended is not None
        joining = asyncio.ensure_future(self._insist(session))
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

    async def _insist(self, session: aiohttp.ClientSession) -> None:
        problem = "the server has not answered"
        try:
            async with asyncio.timeout(self._limits.join_seconds):
                while True:
                    try:
                        await self._attempt(session)
                    except (TemporaryError, PeerError, RestError, ConnectError) as failed:
                        problem = str(failed)
                        if isinstance(failed, ConnectError) and failed.is_refused:
                            raise _refused_token(problem) from None
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

    async def _attempt(self, session: aiohttp.ClientSession) -> None:
        config = await self._config()
        connection = self._connection = Connection(
            session,
            self._run_task,
            self._call,
            self._token,
            limits=self._limits,
            servers=config.ice_servers,
            roster=self._roster,
            on_ready=self._on_ready,
            on_event=self._on_event,
        )
        self._vigil = Vigil(
            connection,
            self._call,
            limits=self._limits,
            rest=self._rest,
            roster=self._roster,
            on_gap=self._start_time.gap,
            on_end=self._end,
        )
        await connection.join(uses_data_channel=config.has_data_channel_signaling)

    async def _config(self) -> Config:
        try:
            config = await self._rest.config()
        except RestError as problem:
            if problem.status == 401:  # noqa: PLR2004 - Unauthorized
                raise _refused_token(str(problem)) from None
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
            case "job_stop":
                if event.text("job_id") == self._call.job_id:
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
                self._on_state(call_state(event))
            case "call_job_state":
                job = job_state(event)
                if job is not None and job.type == "recording":
                    self._on_recording(job, is_live=True)
            case "user_joined":
                self._roster.join(session_id, event.text("user_id"))
            case "user_left":
                self._roster.leave(session_id)
            case "user_muted" | "user_unmuted":
                self._roster.mute(session_id, is_muted=event.name == "user_muted")
            case _:
                pass

    def _on_state(self, state: CallState | None) -> None:
        if state is None:
            log.warning("the call's state cannot be read")
            return
        self._roster.replace(state.sessions or ())
        self._on_recording(state.recording or JobState(), is_live=False)
        if self._vigil is not None:
            self._vigil.take(state)

    def _on_recording(self, job: JobState, *, is_live: bool) -> None:
        # One that has ended is not the recording that we are here for.
        start_at_ms = 0 if job.end_at > 0 else job.start_at
        began_seconds = self._start_time.take(start_at_ms, is_live=is_live)
        if began_seconds is not None:
            log.info("the recording of the call has begun")
            self._listener.recording_started(began_seconds)

    def _on_profile(self, session_id: str, profile: Profile) -> None:
        self._roster.named(session_id, profile)

    # Leaving

    def _end(self, end: End, message: str) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(Ending(end=end, message=message))

    async def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _run_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._tasks is not None
        task = self._tasks.create_task(self._run_safely(work))
        # What is cancelled before it has begun has not taken its work up.
        task.add_done_callback(lambda _: work.close())
        return task

    async def _run_safely(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            # What was captured so far must not be lost with it.
            log.exception("a part of the call's client has failed")
            self._end(End.LOST, "the connection to the call has failed: see the log")


def _refused_token(problem: str) -> JoinError:
    return JoinError(
        f"{problem}: it does not accept the bot's token; start the recording again, "
        "which gives a new one"
    )
