# SPDX-License-Identifier: Apache-2.0

import asyncio

import aiohttp
import pytest

from tests.mattermost.client import (
    UNAUTHORIZED,
    Client,
    Connect,
    Recording,
    refused,
)
from tests.mattermost.routes import PLUGIN
from tests.mattermost.server import MattermostServer
from tests.mattermost.state import MIB, new_id


class TestGate:
    """Who is let in."""

    async def test_who_may(self, server: MattermostServer, client: Client) -> None:
        """The bot alone; without a valid token it is 401, and of anybody else 403, in text."""
        path = f"/bot/channels/{server.start_call().channel_id}"
        user = server.add_user("ada")
        assert (await client.get(path))[0] == 200
        assert await client.get(path, token="x") == UNAUTHORIZED
        assert await client.get(path, token="") == UNAUTHORIZED
        assert await client.get(path, token=user.token) == (403, "text/plain", "Forbidden")

    async def test_restarted_plugin(self, server: MattermostServer, client: Client) -> None:
        """The old token is revoked, and the core repeats it in its answer; a new one works."""
        old = server.bot_token
        new = server.restart_plugin()
        path = f"/bot/channels/{server.start_call().channel_id}"
        assert await client.get(path, token=old) == UNAUTHORIZED
        status, content_type, answer = await client.get("/api/v4/users/me", token=old)
        assert (status, content_type) == (401, "application/json")
        assert answer["id"] == "api.context.session_expired.app_error"
        assert answer["detailed_error"] == f"token={old}"
        assert (await client.get(path, token=new))[0] == 200

    async def test_limiter(self, server: MattermostServer, client: Client) -> None:
        """Ten look-ups at once, and no more, of each user; the bot's own routes have no limit."""
        answers = [await client.get("/config") for _ in range(11)]
        assert [status for status, _, _ in answers] == [200] * 10 + [429]
        assert answers[-1] == (
            429,
            "text/plain",
            {"message": "too many requests", "status_code": 429},
        )
        assert (await client.get("/config", token=server.add_user("ada").token))[0] == 200
        path = f"/bot/calls/{server.start_call().channel_id}/filename"
        assert {(await client.get(path))[0] for _ in range(20)} == {200}

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({}, 403),
            ({"X-Calls-Recorder": "true"}, 200),
            ({"X-Calls-Recorder": "1"}, 403),
            ({"Referer": "http://elsewhere/"}, 403),
            ({"User-Agent": "Mattermost Electron"}, 200),
        ],
    )
    async def test_pages(self, client: Client, headers: dict[str, str], status: int) -> None:
        """They want the recorder's header, and no token."""
        path = "/standalone/recording.html?call_id=x&job_id=y"
        answer = await client.get(path, token="", headers=headers)
        assert answer[0] == status
        if status == 403:
            assert answer == (403, "text/plain", "Forbidden")
        else:
            assert "calls-recording-view" in answer[2]

    async def test_a_script_of_the_page(self, server: MattermostServer, client: Client) -> None:
        """What the page itself loads is served, as it names the page."""
        headers = {"Referer": f"{server.url}{PLUGIN}/standalone/recording.html"}
        status, content_type, _ = await client.get(
            "/standalone/recording.js", token="", headers=headers
        )
        assert (status, content_type) == (200, "text/javascript")


class TestLookUps:
    """What a job looks up."""

    async def test_of_the_plugin(self, server: MattermostServer, client: Client) -> None:
        """Names, pictures, configuration, whether there is a call."""
        user = server.add_user("ada", "Ada", "Lovelace")
        call = server.start_call(users=[user], channel="Ein Kanal mit Umläuten und mehr")
        _, _, answer = await client.get(f"/bot/calls/{call.channel_id}/filename")
        assert answer["filename"].startswith("Call_Ein_Kanal_mit_Uml_uten_u__20")
        (session_id,) = call.sessions
        _, _, profile = await client.get(
            f"/bot/calls/{call.channel_id}/sessions/{session_id}/profile"
        )
        assert (profile["id"], profile["first_name"]) == (user.id, "Ada")
        path = f"/bot/calls/{call.channel_id}/sessions/{new_id()}/profile"
        assert await client.get(path) == refused(404, "not found")
        _, _, channel = await client.get(f"/bot/channels/{call.channel_id}")
        assert channel["display_name"] == "Ein Kanal mit Umläuten und mehr"
        assert (await client.get(f"/calls/{call.channel_id}/active"))[2] == {"active": True}
        assert (await client.get("/turn-credentials"))[0] == 403
        assert (await client.get("/version", token=""))[2]["version"] == "1.12.2"
        await server.end_call(call)
        assert (await client.get(f"/calls/{call.channel_id}/active"))[2] == {"active": False}
        assert await client.get(path) == refused(400, "no call ongoing")

    async def test_of_the_core(self, server: MattermostServer, client: Client) -> None:
        """The bot reads itself and the limits; it is a member of no channel."""
        call = server.start_call()
        _, _, config = await client.get("/api/v4/config/client?format=old")
        assert config["MaxFileSize"] == str(100 * MIB)
        _, _, user = await client.get("/api/v4/users/me")
        assert (user["username"], user["is_bot"]) == ("calls", True)
        for path in (f"channels/{call.channel_id}", f"posts/{call.post_id}"):
            status, _, answer = await client.get(f"/api/v4/{path}")
            assert (status, answer["id"]) == (403, "api.context.permissions.app_error")

    async def test_unknown_routes(self, client: Client) -> None:
        """They are answered with Go's text, as are ids that are none."""
        expected = (404, "text/plain", "404 page not found")
        assert await client.get("/bot/nothing") == expected
        assert await client.get("/bot/channels/TOO-SHORT") == expected


class TestFaults:
    """What goes wrong when it is told to."""

    async def test_of_the_plugin(self, server: MattermostServer, client: Client) -> None:
        """Each is answered as it was seen; the core goes on; afterwards all is well again."""
        path = f"/bot/calls/{server.start_call().channel_id}/filename"
        faults = server.faults
        faults.plugin_disabled.times(2)
        for _ in range(2):
            assert await client.get(path) == (404, "text/plain", "404 page not found")
        assert (await client.get(path))[0] == 200
        faults.plugin_crashed.always()
        for _ in range(3):
            status, content_type, _ = await client.get(path)
            assert (status, content_type) == (500, "text/plain")
        assert (await client.get("/api/v4/users/me"))[0] == 200
        faults.reset()
        faults.too_many_requests.once(path="/filename")
        assert (await client.get("/config"))[0] == 200
        assert (await client.get(path))[0] == 429
        faults.internal_error.once("no luck")
        assert await client.get(path) == refused(500, "no luck")
        assert (await client.get(path))[0] == 200
        assert [one.status for one in server.requests].count(429) == 1

    async def test_proxy(self, server: MattermostServer, client: Client) -> None:
        """A body that is too large for the proxy is answered in HTML."""
        server.faults.too_large.always(MIB)
        status, content_type, text = await client.post("/bot/uploads", data=bytes(MIB + 1))
        assert (status, content_type) == (413, "text/html")
        assert "413 Request Entity Too Large" in text
        assert (await client.get("/version"))[0] == 200

    async def test_server_that_is_down(
        self, server: MattermostServer, client: Client, connect: Connect
    ) -> None:
        """It refuses connections, websockets break; it comes back with all that it knew."""
        socket = await connect()
        await socket.event("hello")
        call = server.start_call()
        file_id = await client.upload(call, b"film")
        await server.stop_listening()
        assert await socket.closed() == 1006
        with pytest.raises(aiohttp.ClientConnectorError):
            await client.get("/version")
        await server.start_listening()
        assert (await client.get(f"/api/v4/files/{file_id}/info"))[0] == 200

    async def test_lost_answer(
        self, server: MattermostServer, recording: Recording, client: Client
    ) -> None:
        """The post is made, but nobody is told."""
        call, job = recording
        file_id = await client.upload(call, b"film")
        server.faults.lost_answer.once()
        document = {"JobID": job.id, "PostID": call.post_id, "FileIDs": [file_id]}
        with pytest.raises(aiohttp.ClientError):
            await client.post(f"/bot/calls/{call.channel_id}/recordings", document)
        assert len(server.thread(call)) == 1
        _, _, info = await client.get(f"/api/v4/files/{file_id}/info")
        assert info["post_id"] == server.thread(call)[0].id

    async def test_slow_answer(self, server: MattermostServer, client: Client) -> None:
        """What was asked for is done at once, and answered later."""
        server.faults.slow.once(600.0)
        call = server.start_call()
        wanted = {"channel_id": call.channel_id, "filename": "f.mp4", "file_size": 1}
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(client.post("/bot/uploads", wanted))
            await server.until(lambda: server.state.uploads, "the session")
            assert not asked.done()
            asked.cancel()
