# SPDX-License-Identifier: Apache-2.0
"""A Mattermost server with the Calls plugin, as far as the jobs of the plugin can see it.

It refuses what the real one refuses, in the same words, and can be made to fail (`faults`). By
hand: `python -m tests.mattermost.server --port 8065`, and `--help`.
"""

import asyncio
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler

from tests.helpers.ports import free_port
from tests.mattermost import plugin as rules
from tests.mattermost import sockets
from tests.mattermost.entering import enter
from tests.mattermost.faults import Faults
from tests.mattermost.gate import Gate
from tests.mattermost.impairments import Impairment
from tests.mattermost.job_client import (
    RECORDER,
    TRANSCRIBER,
    JobClient,
    JobServiceError,
    recording_input,
    transcribing_input,
)
from tests.mattermost.network_faults import NetworkFaults, Switches
from tests.mattermost.pages import Pages
from tests.mattermost.participants import Participant
from tests.mattermost.plugin import Plugin
from tests.mattermost.routes import BotRoutes, CoreRoutes
from tests.mattermost.sfu import BotSession, Timing
from tests.mattermost.state import Call, Channel, Job, JobType, Post, State, User, new_id
from tests.mattermost.threads import note_jobs
from tests.mattermost.uploads import MAX_FILE_SIZE, Uploads


T = TypeVar("T")

HOST = "127.0.0.1"
MAX_REQUESTS = 10_000
"""So many are remembered."""

_SHUTDOWN_SECONDS = 0.2
_POLL_SECONDS = 0.02


class HostError(Exception):
    """What the host is told when the recording could not be started."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRequest:
    """A request that was answered."""

    method: str
    path: str
    status: int
    size: int
    """Of its body, as it said."""


class MattermostServer:
    """The server; an async context manager that listens on 127.0.0.1 while it is open.

    `port` = 0: a free one. `sample` = sound that the recording page plays. `max_file_size` =
    FileSettings.MaxFileSize in bytes. `is_developer_mode`: 401 of the core repeats the token.
    `registry` = of the runners. The seconds are the real ones unless a test shortens them.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        sample: Path | None = None,
        max_file_size: int = MAX_FILE_SIZE,
        is_developer_mode: bool = True,
        limits_requests: bool = True,
        live_captions: bool = True,
        registry: str = "mattermost",
        start_check_seconds: float = rules.START_CHECK_SECONDS,
        reconnect_seconds: float = rules.RECONNECT_SECONDS,
        authentication_seconds: float = sockets.AUTHENTICATION_SECONDS,
    ) -> None:
        self.port = port or free_port()
        self.faults = Faults()
        self.state = State()
        self.requests: deque[SeenRequest] = deque(maxlen=MAX_REQUESTS)
        """What was asked for, the oldest first."""
        self._registry = registry
        self._live_captions = live_captions
        self._has_transcriptions = True
        self._job_service: JobClient | None = None
        self._runner: web.AppRunner | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self.plugin = Plugin(
            self.state,
            self.faults,
            authentication_seconds=authentication_seconds,
            start_check_seconds=start_check_seconds,
            reconnect_seconds=reconnect_seconds,
        )
        self.uploads = Uploads(self.state, self.faults, max_file_size=max_file_size)
        self._gate = Gate(self.state, self.faults, limits=limits_requests)
        self._core = CoreRoutes(
            self.state, self.plugin, self.uploads, is_developer_mode=is_developer_mode
        )
        self._bot = BotRoutes(self.state, self.plugin, self.uploads, self.faults)
        self._pages = Pages(self.state, sample)
        self.faults.network = NetworkFaults(
            Switches(
                websockets=self._cut_websockets,
                udp=lambda is_on: self.plugin.media.drop_udp(is_dropping=is_on),
                plugin=self._crash_plugin,
                sessions=lambda call: self.plugin.media.close_bots(call, self.state.bot.id),
            )
        )

    async def __aenter__(self) -> Self:
        await self.start_listening()
        self._directory = tempfile.TemporaryDirectory(prefix="mattermost-")
        self.uploads.directory = Path(self._directory.name)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop_listening()
        await self.faults.network.close()
        await self.plugin.close()
        if self._job_service is not None:
            await self._job_service.close()
        if self._directory is not None:
            self._directory.cleanup()

    @property
    def url(self) -> str:
        """SiteURL."""
        return f"http://{HOST}:{self.port}"

    @property
    def bot_token(self) -> str:
        """The newest token of the bot: the one that jobs are given."""
        return self.state.bot.token

    # --- people and calls ---

    def add_user(self, username: str, first_name: str = "", last_name: str = "") -> User:
        """Give somebody an account and a session."""
        user = User(username=username, first_name=first_name, last_name=last_name)
        self.state.add_user(user)
        return user

    def start_call(
        self, *, users: Sequence[User] = (), channel: Channel | str = "Town Square"
    ) -> Call:
        """Begin a call with these users, or one of its own, in a channel, or a new one."""
        people = list(users) or [self.add_user(f"ada-{new_id()[:6]}", "Ada", "Admin")]
        if isinstance(channel, str):
            channel = Channel(display_name=channel, member_ids=[user.id for user in people])
        self.state.channels[channel.id] = channel
        post = Post(
            user_id=people[0].id, channel_id=channel.id, type="custom_calls", message="call started"
        )
        self.state.create_post(post)
        call = Call(channel_id=channel.id, post_id=post.id, owner_id=people[0].id)
        call.sessions.update((new_id(), user.id) for user in people)
        self.state.calls[channel.id] = call
        return call

    async def participant(
        self,
        call: Call,
        user: User,
        *,
        has_spoken_before: bool = False,
        sequence: int | None = None,
        timestamp: int | None = None,
        impairment: Impairment | None = None,
    ) -> Participant:
        """Somebody who can be heard; they join, unless they are in the call already."""
        return await enter(
            self.plugin,
            call,
            user,
            has_spoken_before=has_spoken_before,
            sequence=sequence,
            timestamp=timestamp,
            impairment=impairment or Impairment(),
        )

    @property
    def timing(self) -> Timing:
        """How long the SFU waits, and when it tells its candidate."""
        return self.plugin.media.timing

    def bot_session(self, call: Call) -> BotSession:
        """What the SFU has of the bot that came last."""
        return self.plugin.media.newest(call.channel_id)

    def thread(self, call: Call) -> list[Post]:
        """The posts in the call's thread, the oldest first."""
        return self.state.thread(call)

    # --- the plugin as a client of a job service ---

    async def activate(
        self,
        job_service_url: str,
        client_id: str = "",
        auth_key: str = "",
        *,
        transcriptions: bool = True,
    ) -> None:
        """Initialise the job service as the plugin does when it is activated.

        It does so once: until this has returned, and after it has failed, recordings are refused.
        JobServiceError: with the plugin's text.
        """
        if self._job_service is not None:
            await self._job_service.close()
            self._job_service = None
        self._has_transcriptions = transcriptions
        try:
            self._job_service = await JobClient.open(
                job_service_url,
                client_id,
                auth_key,
                registry=self._registry,
                transcriptions=transcriptions,
            )
        except JobServiceError as error:
            raise JobServiceError(f"failed to create job service: {error}") from error

    async def start_recording(
        self,
        call: Call,
        *,
        quality: str = "medium",
        max_duration_seconds: int = 3600,
        recorder_extras: Mapping[str, str] | None = None,
        transcriber_extras: Mapping[str, str] | None = None,
    ) -> Job:
        """The host clicks *record*. HostError: with the text that the host is shown.

        The extras stand for `MM_CALLS_RECORDER_…` and `MM_CALLS_TRANSCRIBER_…` of the server's
        environment: the rest of the name in lower case, and a string.
        """
        service = self._job_service
        if service is None:
            raise HostError(403, "Job service is not initialized")
        if call.end_at:
            raise HostError(403, "no call ongoing")
        if call.active(JobType.RECORDING) is not None:
            raise HostError(403, "recording already in progress")
        job = Job(type=JobType.RECORDING)
        job.input_data = recording_input(
            call,
            job,
            site_url=self.url,
            token=self.bot_token,
            quality=quality,
            extras=recorder_extras or {},
        )
        call.jobs.append(job)
        await self.plugin.publish_job(call, job)
        try:
            await service.create(job, RECORDER, max_duration_seconds)
        except JobServiceError as error:
            message = f"failed to create recording job: {error}"
            job.end(message)
            await self.plugin.publish_job(call, job)
            raise HostError(500, message) from error
        transcription = None
        if self._has_transcriptions:
            transcription = await self._start_transcription(
                call, service, 2 * max_duration_seconds, transcriber_extras or {}
            )
        note_jobs(self.state, call, job, transcription)
        for started in (job, transcription):
            if started is not None:
                self.plugin.watch_start(call, started)
        return job

    async def stop_recording(self, call: Call) -> None:
        """The host stops: EndAt first, then `job_stop` to the bot."""
        if call.active(JobType.RECORDING) is None:
            raise HostError(403, "no recording in progress")
        await self.plugin.stop(call)

    async def end_call(self, call: Call) -> None:
        """The host ends the call for everybody: `call_end` first, then `job_stop`."""
        await self.plugin.end(call)

    async def all_leave(self, call: Call) -> None:
        """Everybody but the bots leaves; the call ends when these have left, too."""
        await self.plugin.all_leave(call)

    # --- the server and its plugin come and go ---

    async def start_listening(self) -> None:
        """Listen, at the same port as before; all that was known still is."""
        app = web.Application(
            middlewares=[self._remember, self._gate.handle],
            client_max_size=0,  # the routes know what is too much
        )
        app.add_routes([*self._core.table(), *self._bot.table(), *self._pages.table()])
        self._runner = web.AppRunner(app, shutdown_timeout=_SHUTDOWN_SECONDS, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, self.port).start()

    async def stop_listening(self) -> None:
        """Refuse connections from now on and cut those there are: websockets see 1006."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for site in list(runner.sites):
            await site.stop()
        self.plugin.sockets.abort()
        _cut(runner)
        await runner.cleanup()

    def cut_connections(self) -> None:
        """Cut what is connected now, and go on listening."""
        assert self._runner is not None
        _cut(self._runner)

    def revoke_tokens(self) -> None:
        """Revoke all tokens of the bot."""
        bot = self.state.bot
        for token in [token for token, user in self.state.tokens.items() if user == bot.id]:
            del self.state.tokens[token]

    def new_token(self) -> str:
        """Open another session of the bot, whose token the next jobs are given."""
        return self.state.new_token(self.state.bot)

    def restart_plugin(self) -> str:
        """Disable and enable the plugin: the old token is revoked, and the new one returned."""
        self.revoke_tokens()
        return self.new_token()

    # --- for tests ---

    async def until(
        self, condition: Callable[[], T], what: str, *, timeout_seconds: float = 30.0
    ) -> T:
        """Return what `condition()` returns as soon as that is true; the server goes on serving."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        while not (found := condition()):
            assert loop.time() < deadline, f"not within {timeout_seconds:g} s: {what}"
            await asyncio.sleep(_POLL_SECONDS)
        return found

    def _cut_websockets(self, is_away: bool) -> None:  # noqa: FBT001
        self.plugin.sockets.is_away = is_away
        if is_away:
            self.plugin.sockets.cut()

    async def _crash_plugin(self, is_dead: bool) -> None:  # noqa: FBT001
        await (self.plugin.crash() if is_dead else self.plugin.revive())

    async def _start_transcription(
        self, call: Call, service: JobClient, max_duration_seconds: int, extras: Mapping[str, str]
    ) -> Job:
        job = Job(type=JobType.TRANSCRIBING)
        job.input_data = transcribing_input(
            call,
            job,
            site_url=self.url,
            token=self.bot_token,
            live_captions=self._live_captions,
            extras=extras,
        )
        captions = Job(type=JobType.CAPTIONING) if self._live_captions else None
        call.jobs.extend(one for one in (job, captions) if one is not None)
        try:
            await service.create(job, TRANSCRIBER, max_duration_seconds)
        except JobServiceError as error:
            # Seen on a real server: the row of the recording stays active, and nobody checks
            # whether that starts.
            message = f"failed to create transcribing job: {error}"
            job.end(message)
            if captions is not None:
                captions.end(message)
            raise HostError(500, message) from error
        return job

    @web.middleware
    async def _remember(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await handler(request)
        self.requests.append(
            SeenRequest(
                method=request.method,
                path=request.path,
                status=answer.status,
                size=request.content_length or 0,
            )
        )
        return answer


def _cut(runner: web.AppRunner) -> None:
    assert runner.server is not None
    for connection in list(runner.server.connections):
        if connection.transport is not None:
            connection.transport.abort()


if __name__ == "__main__":
    from tests.mattermost.by_hand import main

    main()
