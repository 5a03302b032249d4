# SPDX-License-Identifier: Apache-2.0

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.helpers.ports import free_port
from tests.mattermost.job_client import JobServiceError, basic
from tests.mattermost.server import HostError, MattermostServer
from tests.mattermost.state import MIB, Call, Job, JobType, new_id
from tests.mattermost.threads import RECORDING_POST, TRANSCRIPTION_POST


PLUGIN = "/plugins/com.mattermost.calls"
PREFIX = "custom_com.mattermost.calls_"
RECEIVE_SECONDS = 20.0

Answer = tuple[int, str, Any]
"""Status, content type, and the body: decoded JSON, or text without white space around it."""


class JobService:
    """A job service that writes down what it is sent, and answers as it is told to."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.version: Any = {"buildVersion": "v0.9.5"}
        self.answers: dict[str, tuple[int, str]] = {}
        """Path, or type of job → status and body."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer anything."""
        body = await request.read()
        self.seen.append((request.path, dict(request.headers), body))
        if request.path == "/version":
            return web.json_response(self.version)
        key = json.loads(body).get("type", request.path)
        status, text = self.answers.get(key, (200, '{"id":"abcdefghijkl"}'))
        return web.Response(status=status, text=text)

    def bodies(self, path: str) -> list[dict[str, Any]]:
        """The JSON that was posted there."""
        return [json.loads(body) for seen, _, body in self.seen if seen == path]


@pytest.fixture
async def service() -> AsyncIterator[JobService]:
    """A job service that accepts everything."""
    service = JobService()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", service.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", service.port).start()
    yield service
    await runner.cleanup()


@pytest.fixture
async def server() -> AsyncIterator[MattermostServer]:
    """A server whose waits are short."""
    options: dict[str, Any] = {"reconnect_seconds": 0.1, "authentication_seconds": 0.2}
    async with MattermostServer(start_check_seconds=600.0, **options) as server:
        yield server


class Client:
    """A client of the server, as its bot unless it is told otherwise."""

    def __init__(self, server: MattermostServer, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.session = session

    async def ask(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        headers: dict[str, str] | None = None,
        data: bytes | None = None,
        json: Any = None,
    ) -> Answer:
        """Ask once; a path without /api is one of the plugin."""
        url = self.server.url + (path if path.startswith("/api/") else PLUGIN + path)
        token = self.server.bot_token if token is None else token
        all_headers = {**({"Authorization": f"BEARER {token}"} if token else {}), **(headers or {})}
        body = None if data is None else io.BytesIO(data)
        async with self.session.request(
            method, url, headers=all_headers, data=body, json=json
        ) as response:
            text = (await response.text()).strip()
        return response.status, response.content_type, _decoded(text)

    async def get(self, path: str, **options: Any) -> Answer:
        """GET."""
        return await self.ask("GET", path, **options)

    async def post(self, path: str, document: Any = None, **options: Any) -> Answer:
        """POST JSON, or `data`."""
        return await self.ask("POST", path, json=document, **options)

    async def upload(self, call: Call, content: bytes, name: str = "Call.mp4") -> str:
        """Upload a file in one part and return its id."""
        wanted = {"channel_id": call.channel_id, "filename": name, "file_size": len(content)}
        _, _, session = await self.post("/bot/uploads", wanted)
        status, _, info = await self.post(f"/bot/uploads/{session['id']}", data=content)
        assert status == 200
        return str(info["id"])


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@pytest.fixture
async def client(server: MattermostServer) -> AsyncIterator[Client]:
    """A client of the server."""
    async with aiohttp.ClientSession() as session:
        yield Client(server, session)


Recording = tuple[Call, Job]


@pytest.fixture
async def recording(server: MattermostServer, service: JobService) -> Recording:
    """A call of one whose host has asked for a recording and a transcription."""
    await server.activate(service.url, "client", "k" * 32)
    call = server.start_call()
    return call, await server.start_recording(call)


def status_path(call: Call, job_id: str) -> str:
    """Where a job reports."""
    return f"/bot/calls/{call.channel_id}/jobs/{job_id}/status"


def refused(status: int, message: str) -> Answer:
    """A refusal of the plugin: JSON that says it is text."""
    return status, "text/plain", {"message": message, "status_code": status}


SUCCESS: Answer = (200, "application/json", {"message": "success", "status_code": 200})
UNAUTHORIZED: Answer = (401, "text/plain", "Unauthorized")


class TestJobService:
    """What the plugin asks of a job service, and what it makes of the answers."""

    async def test_what_is_sent_at_activation(
        self, server: MattermostServer, service: JobService
    ) -> None:
        """/version without credentials, then the runners with Basic and without Content-Type."""
        await server.activate(service.url, "client", "secret", transcriptions=True)
        (version, init) = service.seen
        assert version[0] == "/version"
        assert "Authorization" not in version[1]
        assert version[1]["User-Agent"] == "Go-http-client/1.1"
        assert init[0] == "/jobs/init"
        assert init[1]["Authorization"] == basic("client", "secret")
        assert "Content-Type" not in init[1]
        assert init[2] == (
            b'{"Runners":["mattermost/calls-recorder:v0.8.13",'
            b'"mattermost/calls-transcriber:v0.7.2"]}\n'
        )

    async def test_credentials_of_the_url(
        self, server: MattermostServer, service: JobService
    ) -> None:
        """They are used and stripped; without transcriptions there is one runner."""
        url = f"http://some:key@127.0.0.1:{service.port}/"
        await server.activate(url, transcriptions=False)
        expected = basic("some", "key")
        assert service.seen[1][1]["Authorization"] == expected
        assert service.bodies("/jobs/init") == [{"Runners": ["mattermost/calls-recorder:v0.8.13"]}]

    @pytest.mark.parametrize("version", ["", "master", "dev-1", "v0.9.0", "1.2.3"])
    async def test_versions_that_are_accepted(
        self, server: MattermostServer, service: JobService, version: str
    ) -> None:
        """Nothing, `master`, `dev…` and what is not below 0.9.0."""
        service.version = {"buildVersion": version}
        await server.activate(service.url)
        assert len(service.bodies("/jobs/init")) == 1

    @pytest.mark.parametrize("version", ["callsd-1.0", "v0.8.9", "1.0"])
    async def test_versions_that_are_refused(
        self, server: MattermostServer, service: JobService, version: str
    ) -> None:
        """All else: the job service is not initialised then."""
        service.version = {"buildVersion": version}
        with pytest.raises(JobServiceError, match="failed to create job service"):
            await server.activate(service.url)
        with pytest.raises(HostError, match="Job service is not initialized"):
            await server.start_recording(server.start_call())

    async def test_jobs(self, server: MattermostServer, service: JobService) -> None:
        """A recording and then a transcription of twice the duration, with what each needs."""
        await server.activate(service.url, "client", "k" * 32)
        call = server.start_call()
        job = await server.start_recording(
            call, recorder_extras={"width": "1920", "language": "de"}
        )
        recording, transcription = service.bodies("/jobs")
        assert recording == {
            "type": "recording",
            "max_duration_sec": 3600,
            "runner": "mattermost/calls-recorder:v0.8.13",
            "input_data": {
                "site_url": server.url,
                "call_id": call.channel_id,
                "post_id": call.post_id,
                "recording_id": job.id,
                "auth_token": server.bot_token,
                "width": "1920",
                "height": 720,
                "video_rate": 1500,
                "audio_rate": 64,
                "frame_rate": 20,
                "video_preset": "veryfast",
                "output_format": "mp4",
                "language": "de",
            },
        }
        assert transcription["type"] == "transcribing"
        assert transcription["max_duration_sec"] == 7200
        assert transcription["input_data"]["transcription_id"] == call.transcription.id
        assert transcription["input_data"]["transcribe_api_options"] == "null"
        assert job.job_id == "abcdefghijkl"
        assert [one.type for one in call.jobs] == list(JobType)
        with pytest.raises(HostError, match="recording already in progress"):
            await server.start_recording(call)

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            ((401, "{}"), "failed to create recording job: unauthorized"),
            (
                (500, '{"error":"no room","code":"500"}'),
                "failed to create recording job: request failed: no room",
            ),
            (
                (201, '{"id":"x"}'),
                "failed to create recording job: request failed with status 201 Created",
            ),
            (
                (502, "<html>"),
                (
                    "failed to create recording job: decoding http response failed: "
                    "invalid character '<' looking for beginning of value"
                ),
            ),
        ],
        ids=["401", "500", "201", "html"],
    )
    async def test_a_refused_recording(
        self, server: MattermostServer, service: JobService, answer: tuple[int, str], message: str
    ) -> None:
        """The host sees the text; nothing is active, and no transcription was asked for."""
        await server.activate(service.url)
        service.answers["recording"] = answer
        call = server.start_call()
        with pytest.raises(HostError) as error:
            await server.start_recording(call)
        assert (error.value.status, error.value.message) == (500, message)
        assert call.active(JobType.RECORDING) is None
        assert len(service.bodies("/jobs")) == 1

    async def test_a_refused_transcription(
        self, server: MattermostServer, service: JobService, client: Client
    ) -> None:
        """The host sees an error, yet the recording is active and its recorder may start."""
        await server.activate(service.url)
        service.answers["transcribing"] = (500, '{"error":"no room","code":"500"}')
        call = server.start_call()
        with pytest.raises(HostError, match="request failed: no room"):
            await server.start_recording(call)
        with pytest.raises(HostError, match="recording already in progress"):
            await server.start_recording(call)
        report = {"JobType": "recording", "Status": "started", "omitempty": ""}
        assert await client.post(status_path(call, call.recording.id), report) == SUCCESS

    @pytest.mark.parametrize("started", [JobType.RECORDING, JobType.TRANSCRIBING])
    async def test_start_check(self, service: JobService, started: JobType) -> None:
        """A job that does not start in time fails, and the other one is stopped, too."""
        async with MattermostServer(start_check_seconds=0.2) as server:
            await server.activate(service.url)
            call = server.start_call()
            await server.start_recording(call)
            job = call.newest(started)
            await server.plugin.report(
                call.channel_id, job.id, {"jobtype": started, "status": "started"}
            )
            other = next(one for one in (call.recording, call.transcription) if one is not job)
            await server.until(lambda: not other.is_active, "the check")
            name = "recording" if other is call.recording else "transcriber"
            assert other.err == (
                f"failed to start {name} job: timed out waiting for bot to join call"
            )
            if other is call.recording:
                assert not job.is_active


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


class TestUploads:
    """The way of a file to the server."""

    async def test_in_one_part(self, server: MattermostServer, client: Client) -> None:
        """The file is on disk, and its creator may read its info without being a member."""
        call = server.start_call()
        file_id = await client.upload(call, b"film")
        assert server.state.files[file_id].path.read_bytes() == b"film"
        _, _, info = await client.get(f"/api/v4/files/{file_id}/info")
        assert (info["id"], info["name"], info["size"]) == (file_id, "Call.mp4", 4)
        assert (info["mime_type"], "post_id" in info) == ("video/mp4", False)
        other = server.add_user("eve")
        assert (await client.get(f"/api/v4/files/{file_id}/info", token=other.token))[0] == 403

    async def test_in_parts(self, server: MattermostServer, client: Client) -> None:
        """The first has 5 MiB or more, then any will do; a finished session is gone."""
        call = server.start_call()
        wanted = {"channel_id": call.channel_id, "filename": "f.mp4", "file_size": 6 * MIB}
        status, content_type, session = await client.post("/bot/uploads", wanted)
        assert (status, content_type) == (200, "application/json")
        assert (session["type"], session["file_offset"], "path" in session) == (
            "attachment",
            0,
            False,
        )
        path = f"/bot/uploads/{session['id']}"
        assert await client.post(path, data=bytes(5 * MIB - 1)) == refused(
            400, "UploadData: First part must be at least 5242880 Bytes."
        )
        assert (await client.get(path))[2]["file_offset"] == 0
        assert (await client.post(path, data=bytes(5 * MIB)))[0] == 204
        assert (await client.get(path))[2]["file_offset"] == 5 * MIB
        assert (await client.post(path, data=b"x"))[0] == 204
        status, _, info = await client.post(path, data=bytes(2 * MIB))  # more than is missing
        assert (status, info["size"]) == (200, 6 * MIB)
        assert server.state.files[info["id"]].path.stat().st_size == 6 * MIB
        assert (await client.get(path))[0] == 404
        assert (await client.post(path, data=b"x"))[0] == 404

    async def test_max_file_size(self, server: MattermostServer, client: Client) -> None:
        """It limits a request and not a file: a longer body is cut there."""
        server.uploads.max_file_size = 6 * MIB
        call = server.start_call()
        wanted = {"channel_id": call.channel_id, "filename": "f.mp4", "file_size": 8 * MIB}
        _, _, session = await client.post("/bot/uploads", wanted)
        path = f"/bot/uploads/{session['id']}"
        assert (await client.post(path, data=bytes(8 * MIB)))[0] == 204
        assert (await client.get(path))[2]["file_offset"] == 6 * MIB

    async def test_what_is_no_upload(self, server: MattermostServer, client: Client) -> None:
        """No size, no such channel: 400."""
        call = server.start_call()
        wanted = {"channel_id": call.channel_id, "filename": "f.mp4", "file_size": 1}
        for changes in ({"file_size": 0}, {"channel_id": new_id()}, {"filename": ""}):
            assert (await client.post("/bot/uploads", wanted | changes))[0] == 400

    async def test_two_at_once(self, server: MattermostServer, client: Client) -> None:
        """While one request sends data, another one is refused."""
        call = server.start_call()
        wanted = {"channel_id": call.channel_id, "filename": "f.mp4", "file_size": 4}
        _, _, session = await client.post("/bot/uploads", wanted)
        path = f"/bot/uploads/{session['id']}"
        upload = server.state.uploads[session["id"]]
        goes_on = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield b"fi"
            await goes_on.wait()
            yield b"lm"

        headers = {"Authorization": f"Bearer {server.bot_token}"}
        url = f"{server.url}{PLUGIN}{path}"
        async with asyncio.TaskGroup() as group:
            first = group.create_task(client.session.post(url, data=body(), headers=headers))
            await server.until(lambda: upload.is_busy, "the first request")
            assert (await client.post(path, data=b"film"))[0] == 400
            goes_on.set()
        async with first.result() as response:
            assert response.status == 200

    async def test_cut_connection(self, server: MattermostServer, client: Client) -> None:
        """What came before the cut is kept, if that is enough for a first part."""
        call = server.start_call()
        wanted = {"channel_id": call.channel_id, "filename": "f.mp4", "file_size": 8 * MIB}
        _, _, session = await client.post("/bot/uploads", wanted)
        path = f"/bot/uploads/{session['id']}"
        for cut, offset in ((MIB, 0), (6 * MIB, 6 * MIB)):
            server.faults.cut_upload.once(cut)
            with pytest.raises(aiohttp.ClientError):
                await client.post(path, data=bytes(8 * MIB))
            assert (await client.get(path))[2]["file_offset"] == offset
        assert (await client.post(path, data=bytes(2 * MIB)))[0] == 200


class TestPublishing:
    """The way of a file into the thread of its call."""

    async def test_recording(
        self, server: MattermostServer, recording: Recording, client: Client
    ) -> None:
        """A post in the thread with the file, also after the call; twice asked is two posts."""
        call, job = recording
        await server.end_call(call)
        file_id = await client.upload(call, b"film")
        document = {"JobID": job.id, "PostID": call.post_id, "FileIDs": [file_id]}
        path = f"/bot/calls/{call.channel_id}/recordings"
        assert await client.post(path, document) == SUCCESS
        (post,) = server.thread(call)
        assert (post.type, post.file_ids) == (RECORDING_POST, [file_id])
        assert post.props == {"recording_id": job.id, "call_post_id": call.post_id}
        _, _, info = await client.get(f"/api/v4/files/{file_id}/info")
        assert info["post_id"] == post.id
        known = server.state.posts[call.post_id].props["recordings"][job.id]
        assert (known["file_id"], known["post_id"]) == (file_id, post.id)
        assert await client.post(path, document) == SUCCESS
        assert [one.file_ids for one in server.thread(call)] == [[file_id], []]

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("PostID", "", "PostID should not be empty"),
            ("FileIDs", [], "invalid FileIDs length"),
            ("JobID", "", "JobID should not be empty"),
        ],
    )
    async def test_refused_recording(
        self, server: MattermostServer, client: Client, key: str, value: Any, message: str
    ) -> None:
        """Each in the plugin's words."""
        call = server.start_call()
        document = {"JobID": "j", "PostID": call.post_id, "FileIDs": ["f"]} | {key: value}
        answer = await client.post(f"/bot/calls/{call.channel_id}/recordings", document)
        assert answer == refused(400, message)

    async def test_transcription(
        self, server: MattermostServer, recording: Recording, client: Client
    ) -> None:
        """A post with the text; the captions go to the post of the recording as well."""
        call, job = recording
        film, vtt, text = [
            await client.upload(call, b"x", name) for name in ("f.mp4", "f.vtt", "f.txt")
        ]
        base = f"/bot/calls/{call.channel_id}"
        document = {"JobID": job.id, "PostID": call.post_id, "FileIDs": [film]}
        assert await client.post(f"{base}/recordings", document) == SUCCESS
        part = {"Title": "", "Language": "en", "FileIDs": [vtt, text]}
        transcription_id = call.transcription.id
        transcription = {
            "JobID": transcription_id,
            "PostID": call.post_id,
            "Transcriptions": [part],
        }
        path = f"{base}/transcriptions"
        assert await client.post(path, transcription | {"JobID": new_id()}) == refused(
            500, "unexpected data found in transcriptions post prop"
        )
        for changes, message in (
            ({"Language": ""}, "language should not be empty"),
            ({"FileIDs": [vtt]}, "invalid FileIDs length"),
        ):
            wrong = transcription | {"Transcriptions": [part | changes]}
            assert await client.post(path, wrong) == refused(400, message)
        assert await client.post(path, transcription) == SUCCESS
        first, second = server.thread(call)
        captions = [{"title": "en", "language": "en", "file_id": vtt}]
        assert (second.type, second.file_ids) == (TRANSCRIPTION_POST, [text])
        assert second.props["captions"] == first.props["captions"] == captions
        assert server.state.files[vtt].post_id == call.post_id


class Socket:
    """A websocket of the server."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.seen: list[dict[str, Any]] = []

    async def event(self, name: str) -> dict[str, Any]:
        """The next event of this name; those before it are passed over."""
        async with asyncio.timeout(RECEIVE_SECONDS):
            while True:
                message = await self.socket.receive_json()
                self.seen.append(message)
                if message.get("event") in {name, PREFIX + name}:
                    return dict(message)

    async def act(self, action: str, **data: Any) -> None:
        """Send an action of the plugin."""
        await self.socket.send_json({"action": PREFIX + action, "seq": 1, "data": data})

    async def closed(self) -> int | None:
        """Wait for the end and return its code."""
        async with asyncio.timeout(RECEIVE_SECONDS):
            while not self.socket.closed:
                await self.socket.receive()
        return self.socket.close_code


Connect = Callable[..., Awaitable[Socket]]


@pytest.fixture
async def connect(server: MattermostServer, client: Client) -> Connect:
    """Opens websockets, with the bot's token in the header unless it is told otherwise."""

    async def open_one(token: str | None = None) -> Socket:
        token = server.bot_token if token is None else token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"{server.url}/api/v4/websocket"
        return Socket(await client.session.ws_connect(url, headers=headers))

    return open_one


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


def test_payload_of_the_page() -> None:
    """The fragment is URL-safe base64 of JSON, padding kept: the page undoes both."""
    payload = base64.urlsafe_b64encode(json.dumps({"token": "a" * 26}).encode()).decode()
    undone = payload.replace("-", "+").replace("_", "/")
    assert json.loads(base64.b64decode(undone)) == {"token": "a" * 26}
