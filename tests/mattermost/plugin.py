# SPDX-License-Identifier: Apache-2.0
"""What the Calls plugin decides: who may join, what states mean, when whose job ends."""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

from tests.mattermost.bots import Bots
from tests.mattermost.faults import Faults
from tests.mattermost.links import Links
from tests.mattermost.media import FirstOffers, Media
from tests.mattermost.sockets import PREFIX, Connection, Sockets
from tests.mattermost.state import Call, Job, JobType, State, now_ms


START_CHECK_SECONDS = 60.0
"""So long a job has from its creation to `started`."""

RECONNECT_SECONDS = 10.0
"""So long a session outlives its websocket."""

CLOSING_SECONDS = 5.0
"""So long after the end of a call its sessions are closed."""

_COUPLED = {
    JobType.RECORDING: JobType.TRANSCRIBING,
    JobType.TRANSCRIBING: JobType.RECORDING,
}
_NAMES = {JobType.RECORDING: "recording", JobType.TRANSCRIBING: "transcriber"}


class RefusedError(Exception):
    """The plugin refuses, with this status and text."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Plugin:
    """The plugin without its routes. It owns the tasks that wait for something not to happen."""

    def __init__(
        self,
        state: State,
        faults: Faults,
        *,
        authentication_seconds: float,
        start_check_seconds: float,
        reconnect_seconds: float,
    ) -> None:
        self.media = Media()
        self.is_dead = False
        """It has crashed: no event of any kind is sent."""
        self._state = state
        self._faults = faults
        self._start_check_seconds = start_check_seconds
        self._reconnect_seconds = reconnect_seconds
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving: set[asyncio.Task[None]] = set()
        """Those of them that wait for a session to be taken up again."""
        self._links = Links()
        self._first_offers = FirstOffers(self.media, self._close_late)
        self.sockets = Sockets(
            state,
            on_action=self._on_action,
            on_closed=self._on_closed,
            authentication_seconds=authentication_seconds,
        )
        self.bots = Bots(self, state, self._links)

    async def close(self) -> None:
        """End what still waits."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.media.close()

    async def settled(self) -> None:
        """Wait until it is decided what becomes of the sessions whose websockets are gone."""
        await asyncio.gather(*self._leaving)

    # --- events ---

    async def publish(self, call: Call, event: str, data: dict[str, Any]) -> None:
        """Tell everybody in the call, and the bot."""
        if self.is_dead:
            return
        people = set(call.sessions.values()) - {self._state.bot.id}
        await self.sockets.send(event, data, channel_id=call.channel_id, human_ids=people)

    async def publish_job(self, call: Call, job: Job, **changes: Any) -> None:
        """Tell the state of a job; `changes` = fields in which it is told differently."""
        state = {**job.state(), **changes}
        await self.publish(call, "call_job_state", {"callID": call.channel_id, "jobState": state})

    async def send_stop(self, job: Job) -> None:
        """Ask a job to stop; whoever is not connected now is never asked again."""
        if not self.is_dead:
            await self.sockets.send_to_bot("job_stop", {"job_id": job.id})

    # --- states ---

    def watch_start(self, call: Call, job: Job) -> None:
        """Begin the 60 s in which the job has to start."""
        self._later(self._check_start(call, job))

    async def report(self, channel_id: str, job_id: str, report: dict[str, Any]) -> None:
        """Take what a job says of itself: keys in lower case. RefusedError: it is not accepted."""
        call = self._state.ongoing(channel_id)
        if call is None:
            raise RefusedError(400, "no call ongoing")
        if report.get("jobtype") not in {JobType.RECORDING, JobType.TRANSCRIBING}:
            raise RefusedError(400, "invalid job type")
        job = call.active(JobType(report["jobtype"]))
        if job is None:
            raise RefusedError(400, "no job ongoing")
        if job.id != job_id:
            raise RefusedError(400, "invalid job ID")
        match report.get("status"):
            case "failed":
                # The error's key is a slip of the original; any other key is not seen.
                await self._fail(call, job, str(report.get("omitempty", "")))
            case "started" if job.start_at:
                raise RefusedError(400, "job has already started")
            case "started":
                await self._started(call, job)
            case _:
                raise RefusedError(400, "unsupported status type")

    async def stop(self, call: Call) -> None:
        """The host stops: EndAt first, then the events; each is sent twice."""
        stopped = [job for job in call.jobs if job.is_active]
        for job in stopped:
            job.end()
        workers = [job for job in reversed(stopped) if job.type is not JobType.CAPTIONING]
        for _ in range(2):
            for job in workers:
                await self.send_stop(job)
        for job in stopped:
            await self.publish_job(call, job)

    async def end(self, call: Call) -> None:
        """The host ends the call: `call_end` first, then the jobs; sessions are closed later."""
        call.end_at = now_ms()
        await self.publish(call, "call_end", {"channelID": call.channel_id})
        await self.stop(call)
        self._later(self._close_sessions(call))

    async def all_leave(self, call: Call) -> None:
        """Everybody but the bots leaves; the call ends when these have left, too."""
        for session_id, user_id in list(call.sessions.items()):
            if user_id != self._state.bot.id:
                await self.leave(call, session_id)

    async def leave(self, call: Call, session_id: str) -> None:
        """A session is over. A bot that leaves an active job has ended it."""
        user_id = call.sessions.pop(session_id, None)
        if user_id is None:
            return
        call.unmuted.discard(session_id)
        self._links.forget(session_id)
        await self.media.close_session(session_id)
        is_bot = user_id == self._state.bot.id
        if is_bot:
            left = next((one for one in call.jobs if one.bot_conn_id == session_id), None)
            if left is not None and left.is_active:
                left.end()
                await self.publish_job(call, left)
                await self._stop_coupled(call, left)
            else:
                for job in call.jobs:
                    if job is not left and job.bot_conn_id in call.sessions:
                        await self.send_stop(job)  # others are told once more
        else:
            data = {"user_id": user_id, "session_id": session_id, "channelID": call.channel_id}
            await self.publish(call, "user_left", data)
            if not set(call.sessions.values()) - {self._state.bot.id}:
                await self.stop(call)
        if not call.sessions and not call.end_at:
            call.end_at = now_ms()
            await self.publish(call, "call_end", {"channelID": call.channel_id})

    async def _started(self, call: Call, job: Job) -> None:
        job.start_at = now_ms()
        await self.publish_job(call, job)
        captions = call.active(JobType.CAPTIONING)
        if job.type is JobType.TRANSCRIBING and captions is not None:
            captions.start_at = job.start_at
            await self.publish_job(call, captions)

    async def _fail(self, call: Call, job: Job, err: str) -> None:
        job.end(err)
        await self.publish_job(call, job)
        await self._stop_coupled(call, job)

    async def _stop_coupled(self, call: Call, ended: Job) -> None:
        if ended.type is JobType.TRANSCRIBING:
            self._end_captions(call)
        other = call.active(_COUPLED[ended.type])
        if other is None:
            return
        other.end()
        if other.type is JobType.TRANSCRIBING:
            self._end_captions(call)
        await self.send_stop(other)
        await self.publish_job(call, other)

    def _end_captions(self, call: Call) -> None:
        captions = call.active(JobType.CAPTIONING)
        if captions is not None:
            captions.end()

    async def _check_start(self, call: Call, job: Job) -> None:
        await asyncio.sleep(self._start_check_seconds)
        if job.start_at or not job.is_active:
            return
        err = f"failed to start {_NAMES[job.type]} job: timed out waiting for bot to join call"
        recording = call.active(JobType.RECORDING)
        if job.type is JobType.TRANSCRIBING and recording is not None:
            # Seen on a real server: the recording is told to stop, and its state carries the
            # error while `end_at` is 0. Its row ends when the recorder leaves.
            job.end(err)
            self._end_captions(call)
            await self.publish_job(call, job)
            await self.send_stop(recording)
            await self.publish_job(call, recording, err=err)
        else:
            await self._fail(call, job, err)

    async def _close_sessions(self, call: Call) -> None:
        await asyncio.sleep(CLOSING_SECONDS)
        call.sessions.clear()
        await self.media.close_call(call.channel_id)

    async def _close_late(self, session_id: str) -> None:
        for call in list(self._state.calls.values()):
            await self.leave(call, session_id)

    async def crash(self) -> None:
        """Die, without a word to anybody."""
        self.is_dead = True
        self._faults.plugin_crashed.always()
        await self.media.die()

    async def revive(self) -> None:
        """Start again: there is no call any more, and nobody is told."""
        for call in self._state.calls.values():
            call.end_at = call.end_at or now_ms()
            call.sessions.clear()
            await self.media.close_call(call.channel_id)
        self.media.ticker.is_silent = False
        self.media.drop_udp(is_dropping=False)
        self._links.clear()
        self._faults.plugin_crashed.reset()
        self.is_dead = False

    # --- the websocket ---

    async def _on_action(self, connection: Connection, action: str, data: dict[str, Any]) -> None:
        if self._faults.plugin_disabled.is_on or self._faults.plugin_crashed.is_on:
            return  # the websocket is the core's and stays open; nobody answers
        channel_id = str(data.get("channelID", ""))
        ongoing = self._state.ongoing(channel_id)
        match action:
            case "join":
                await self._on_join(connection, channel_id, data)
            case "sdp" | "ice":
                await self.bots.signal(connection, action, data)
            case "caption" | "metric":
                await self.bots.caption(connection, action, data)
            case "leave":
                session_id = self._links.session_of(connection.id)
                for call in list(self._state.calls.values()):
                    await self.leave(call, session_id)
            case "reconnect":
                if ongoing is not None:
                    self._reconnect(connection, ongoing, data)
            case "call_state" if ongoing is not None:
                await self._send_state(connection, ongoing)
            case _:
                pass  # media and reactions: jobs that record a page send none

    async def _on_join(self, connection: Connection, channel_id: str, data: dict[str, Any]) -> None:
        try:
            call = self._admit(connection, channel_id, str(data.get("jobID", "")))
        except RefusedError as refusal:
            error = {"data": refusal.message, "connID": connection.id}
            await connection.send(f"{PREFIX}error", error, connection_id=connection.id)
        else:
            await self._join(connection, call, uses_channel=bool(data.get("dcSignaling")))

    def _reconnect(self, connection: Connection, call: Call, data: dict[str, Any]) -> None:
        origin, before = str(data.get("originalConnID", "")), str(data.get("prevConnID", ""))
        if origin not in call.sessions:
            return
        self._links.take_up(origin, connection.id)
        for job in call.jobs:
            if job.bot_conn_id == before:
                # The session keeps its old name, so when the bot leaves now, its job is not found
                # and stays active (seen on a real server).
                job.bot_conn_id = connection.id

    def _admit(self, connection: Connection, channel_id: str, job_id: str) -> Call:
        """The call that may be joined. RefusedError: it may not."""
        assert connection.user is not None
        channel, call = self._state.channels.get(channel_id), self._state.calls.get(channel_id)
        is_bot = connection.user is self._state.bot
        if channel is None or not (is_bot or connection.user.id in channel.member_ids):
            raise RefusedError(403, "forbidden")
        if is_bot and not job_id:
            raise RefusedError(400, "JobID should not be empty for bot connections")
        if call is None or call.end_at:
            raise RefusedError(400, "no job in progress" if is_bot else "call has ended")
        if connection.id in call.sessions:
            raise RefusedError(400, "session is already connected")
        if is_bot:
            self._admit_bot(connection, call, job_id)
        return call

    def _admit_bot(self, connection: Connection, call: Call, job_id: str) -> None:
        jobs = [call.active(JobType.RECORDING), call.active(JobType.TRANSCRIBING)]
        if jobs == [None, None]:
            raise RefusedError(400, "no job in progress")
        job = next((one for one in jobs if one is not None and one.id == job_id), None)
        if job is None or job.start_at:
            raise RefusedError(400, "job not in progress or already started")
        job.bot_conn_id = connection.id

    async def _join(self, connection: Connection, call: Call, *, uses_channel: bool) -> None:
        user = connection.user
        assert user is not None
        call.sessions[connection.id] = user.id
        self._links.begin(connection.id)
        if user is self._state.bot:
            session = self.bots.open(connection.id, call, uses_channel=uses_channel)
            job = call.active(JobType.TRANSCRIBING)
            if job is not None and job.bot_conn_id == connection.id:
                # The page that recorders open here has no media, so nobody waits for its offer.
                self._later(self._first_offers.watch(session))
        joined = {"connID": connection.id}
        await connection.send(f"{PREFIX}join", joined, connection_id=connection.id)
        recording = call.active(JobType.RECORDING)
        if user is not self._state.bot:
            data = {"user_id": user.id, "session_id": connection.id, "channelID": call.channel_id}
            await self.publish(call, "user_joined", data)
        elif recording is not None:
            state = {"callID": call.channel_id, "jobState": recording.state()}
            await connection.send(
                f"{PREFIX}call_job_state", state, user_id=user.id, connection_id=connection.id
            )
        await self._send_state(connection, call)

    async def _send_state(self, connection: Connection, call: Call) -> None:
        document = json.dumps(call.document(self._state.bot.id))
        data = {"channel_id": call.channel_id, "call": document}
        assert connection.user is not None
        await connection.send(
            f"{PREFIX}call_state",
            data,
            user_id=connection.user.id,
            connection_id=connection.id,
        )

    async def _on_closed(self, connection: Connection) -> None:
        self.bots.forget(connection)
        if (lost := self._links.lose(connection.id)) is not None:
            self._later(self._time_out(*lost), among=self._leaving)

    async def _time_out(self, session_id: str, mark: object) -> None:
        await asyncio.sleep(self._reconnect_seconds)
        if self.is_dead or not self._links.is_lost_since(session_id, mark):
            return
        for call in list(self._state.calls.values()):
            await self.leave(call, session_id)

    def _later(
        self, work: Coroutine[Any, Any, None], *, among: set[asyncio.Task[None]] | None = None
    ) -> None:
        task = asyncio.create_task(work)
        for tasks in (self._tasks, among):
            if tasks is not None:
                tasks.add(task)
                task.add_done_callback(tasks.discard)
