# SPDX-License-Identifier: Apache-2.0

import json

import pytest

from tests.mattermost.client import SUCCESS, Client, Connect, Recording, refused, status_path
from tests.mattermost.server import MattermostServer
from tests.mattermost.sockets import PREFIX
from tests.mattermost.state import new_id


class TestStatus:
    """What a job reports of itself."""

    async def test_started(self, recording: Recording, client: Client) -> None:
        """It counts once. Nobody has to have joined; nobody may join afterwards."""
        call, job = recording
        report = {"JobType": "recording", "Status": "started", "omitempty": ""}
        assert await client.post(status_path(call, job.id), report) == SUCCESS
        assert job.start_at
        assert await client.post(status_path(call, job.id), report) == refused(
            400, "job has already started"
        )

    async def test_failed(self, recording: Recording, client: Client) -> None:
        """The text is read from its odd key, and the coupled job ends as well."""
        call, job = recording
        report = {"JobType": "recording", "Status": "failed", "omitempty": "no room"}
        assert await client.post(status_path(call, job.id), report) == SUCCESS
        assert job.err == "no room"
        assert not any(one.is_active for one in call.jobs)
        assert await client.post(status_path(call, job.id), report) == refused(
            400, "no job ongoing"
        )

    async def test_refusals(
        self, server: MattermostServer, recording: Recording, client: Client
    ) -> None:
        """Each in the plugin's words."""
        call, job = recording
        path = status_path(call, job.id)
        report = {"jobtype": "recording", "status": "started"}
        for changes, where, message in (
            ({"jobtype": "captioning"}, path, "invalid job type"),
            ({}, status_path(call, new_id()), "invalid job ID"),
            ({"status": "paused"}, path, "unsupported status type"),
            ({}, path.replace(call.channel_id, new_id()), "no call ongoing"),
        ):
            assert await client.post(where, report | changes) == refused(400, message)
        await server.end_call(call)
        assert await client.post(path, report) == refused(400, "no call ongoing")


class TestWebsocket:
    """Events."""

    async def test_hello(self, server: MattermostServer, connect: Connect) -> None:
        """It comes first, whether the token is in the header or sent as a challenge."""
        by_header = await connect()
        hello = await by_header.event("hello")
        assert (hello["seq"], len(hello["data"]["connection_id"])) == (0, 26)
        by_challenge = await connect("")
        challenge = {
            "seq": 1,
            "action": "authentication_challenge",
            "data": {"token": server.bot_token},
        }
        await by_challenge.socket.send_json(challenge)
        await by_challenge.event("hello")

    async def test_bad_token(self, connect: Connect) -> None:
        """There is a websocket, but no hello, and it breaks after a while."""
        socket = await connect("nobody")
        assert await socket.closed() == 1006
        assert socket.seen == []

    async def test_join(self, recording: Recording, connect: Connect) -> None:
        """The bot joins with the id of an active job; then it is told the state."""
        call, job = recording
        socket = await connect()
        session_id = (await socket.event("hello"))["data"]["connection_id"]
        for job_id, message in (
            ("", "JobID should not be empty for bot connections"),
            (new_id(), "job not in progress or already started"),
        ):
            await socket.act("join", channelID=call.channel_id, jobID=job_id)
            error = await socket.event("error")
            assert error["data"] == {"data": message, "connID": session_id}
        await socket.act("join", channelID=call.channel_id, jobID=job.id)
        assert (await socket.event("join"))["data"] == {"connID": session_id}
        state = await socket.event("call_job_state")
        assert state["data"]["callID"] == call.channel_id
        assert state["data"]["jobState"]["type"] == "recording"
        document = json.loads((await socket.event("call_state"))["data"]["call"])
        assert [one["user_id"] for one in document["sessions"]] == [
            call.owner_id
        ]  # bots are hidden
        assert document["recording"]["end_at"] == 0
        assert job.bot_conn_id == session_id

    async def test_no_join_after_the_start(
        self, server: MattermostServer, recording: Recording, connect: Connect
    ) -> None:
        """A job that has started is joined by nobody; one that is over even less."""
        call, job = recording
        socket = await connect()
        report = {"jobtype": "recording", "status": "started"}
        await server.plugin.report(call.channel_id, job.id, report)
        await socket.act("join", channelID=call.channel_id, jobID=job.id)
        assert "already started" in (await socket.event("error"))["data"]["data"]
        await server.stop_recording(call)
        await socket.act("join", channelID=call.channel_id, jobID=job.id)
        assert (await socket.event("error"))["data"]["data"] == "no job in progress"

    async def test_stop(
        self, server: MattermostServer, recording: Recording, connect: Connect
    ) -> None:
        """The rows are ended first; all of the bot's connections are told, and twice."""
        call, job = recording
        sockets = [await connect(), await connect()]
        for socket in sockets:
            await socket.event("hello")
        await server.stop_recording(call)
        assert not any(one.is_active for one in call.jobs)
        for socket in sockets:
            stops = [(await socket.event("job_stop"))["data"]["job_id"] for _ in range(4)]
            assert stops == [call.transcription.id, job.id] * 2
            state = await socket.event("call_job_state")
            assert state["data"]["jobState"]["end_at"] > 0
            assert state["data"]["channelID"] == call.channel_id
            assert state["broadcast"]["user_id"] == server.state.bot.id

    async def test_end_of_the_call(
        self, server: MattermostServer, recording: Recording, connect: Connect
    ) -> None:
        """`call_end` comes before `job_stop`."""
        call, _ = recording
        socket = await connect()
        await socket.event("hello")
        await server.end_call(call)
        await socket.event("job_stop")
        assert [one["event"] for one in socket.seen][1] == f"{PREFIX}call_end"

    @pytest.mark.parametrize("is_polite", [True, False])
    async def test_the_bot_leaves(
        self,
        server: MattermostServer,
        recording: Recording,
        connect: Connect,
        *,
        is_polite: bool,
    ) -> None:
        """Its job ends and the coupled one; without a word, when its time to come back is over."""
        call, job = recording
        socket = await connect()
        await socket.act("join", channelID=call.channel_id, jobID=job.id)
        await socket.event("call_state")
        if is_polite:
            await socket.act("leave")
        else:
            await socket.socket.close()
        await server.until(lambda: not job.is_active, "the end of the recording")
        await server.until(lambda: not call.transcription.is_active, "the end of the other job")

    async def test_everybody_leaves(
        self, server: MattermostServer, recording: Recording, connect: Connect
    ) -> None:
        """The jobs are stopped; the call ends when the bot has left, too."""
        call, job = recording
        socket = await connect()
        await socket.act("join", channelID=call.channel_id, jobID=job.id)
        await socket.event("call_state")
        await server.all_leave(call)
        await socket.event("job_stop")
        assert not call.end_at
        await socket.act("leave")
        await socket.event("call_end")
        assert call.end_at

    async def test_reconnect(
        self, server: MattermostServer, recording: Recording, connect: Connect
    ) -> None:
        """A session goes on in another websocket; if that one leaves, too, no job ends."""
        call, job = recording
        first = await connect()
        await first.act("join", channelID=call.channel_id, jobID=job.id)
        session_id = (await first.event("join"))["data"]["connID"]
        second = await connect()
        await second.event("hello")
        await second.act(
            "reconnect", channelID=call.channel_id, originalConnID=session_id, prevConnID=session_id
        )
        await second.act("call_state", channelID=call.channel_id)
        await second.event("call_state")
        await first.socket.close()
        await server.until(lambda: session_id not in server.plugin.sockets.connections, "the end")
        await server.plugin.settled()
        assert session_id in call.sessions
        await second.act("leave")
        await server.until(lambda: session_id not in call.sessions, "the end of the session")
        assert job.is_active
