# SPDX-License-Identifier: Apache-2.0

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.mattermost.client import (
    SUCCESS,
    Client,
    Recording,
    refused,
)
from tests.mattermost.routes import PLUGIN
from tests.mattermost.server import MattermostServer
from tests.mattermost.state import MIB, new_id
from tests.mattermost.threads import RECORDING_POST, TRANSCRIPTION_POST


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

    async def test_client_that_breaks_off(self, server: MattermostServer, client: Client) -> None:
        """What it has sent is kept, and the session is free for the next request."""
        call = server.start_call()
        wanted = {"channel_id": call.channel_id, "filename": "f.mp4", "file_size": 8 * MIB}
        _, _, session = await client.post("/bot/uploads", wanted)
        path = f"/bot/uploads/{session['id']}"
        upload = server.state.uploads[session["id"]]
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        head = (
            f"POST {PLUGIN}{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {server.bot_token}\r\nContent-Length: {8 * MIB}\r\n\r\n"
        )
        writer.write(head.encode() + bytes(6 * MIB))
        await writer.drain()
        writer.close()
        await server.until(lambda: upload.file_offset and not upload.is_busy, "the end of it")
        assert (await client.get(path))[2]["file_offset"] == 6 * MIB
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
