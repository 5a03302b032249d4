# SPDX-License-Identifier: Apache-2.0
"""The routes of the plugin for its bot, and of the core, as far as a job uses them."""

import json
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from tests.mattermost.answers import (
    bearer_token,
    core_error,
    fold,
    json_answer,
    no_permission,
    page_not_found,
    status_answer,
)
from tests.mattermost.faults import Faults
from tests.mattermost.plugin import Plugin, RefusedError
from tests.mattermost.sockets import SERVER_VERSION
from tests.mattermost.state import State, User
from tests.mattermost.threads import publish_recording, publish_transcription
from tests.mattermost.uploads import Uploads


PLUGIN = "/plugins/com.mattermost.calls"
ID = "[a-z0-9]{26}"

MAX_BODY_BYTES = 1024 * 1024
NAME_LENGTH = 24

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c63d8e8d3f61f000526027e11a35c480000000049454e44ae426082"
)
"""A profile picture of one pixel."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class BotRoutes:
    """`/bot/…`: what jobs of the plugin use. Nobody but its bot may."""

    def __init__(self, state: State, plugin: Plugin, uploads: Uploads, faults: Faults) -> None:
        self._faults = faults
        self._state = state
        self._plugin = plugin
        self._uploads = uploads

    def table(self) -> list[web.RouteDef]:
        """Where is what."""
        bot = f"{PLUGIN}/bot"
        call = f"{bot}/calls/{{call_id:{ID}}}"
        return [
            web.post(f"{call}/jobs/{{job_id:{ID}}}/status", self._status),
            web.get(f"{call}/sessions/{{session_id:{ID}}}/profile", self._profile),
            web.get(f"{call}/filename", self._filename),
            web.post(f"{call}/recordings", self._recordings),
            web.post(f"{call}/transcriptions", self._transcriptions),
            web.get(f"{bot}/channels/{{channel_id:{ID}}}", self._channel),
            web.get(f"{bot}/users/{{user_id:{ID}}}/image", self._image),
            web.post(f"{bot}/uploads", self._uploads.create),
            web.post(f"{bot}/uploads/{{upload_id:{ID}}}", self._uploads.data),
            web.get(f"{bot}/uploads/{{upload_id:{ID}}}", self._uploads.read),
        ]

    async def _status(self, request: web.Request) -> web.StreamResponse:
        call_id, job_id = request.match_info["call_id"], request.match_info["job_id"]
        return await _answered(
            request, lambda document: self._plugin.report(call_id, job_id, document)
        )

    async def _recordings(self, request: web.Request) -> web.StreamResponse:
        call_id = request.match_info["call_id"]

        async def publish(document: dict[str, Any]) -> None:
            if (is_due := self._faults.late_post.take(request.path)) is not None:
                await is_due.wait()
            await publish_recording(self._state, call_id, document)

        return await _answered(request, publish)

    async def _transcriptions(self, request: web.Request) -> web.StreamResponse:
        call_id = request.match_info["call_id"]
        return await _answered(
            request, lambda document: publish_transcription(self._state, call_id, document)
        )

    async def _profile(self, request: web.Request) -> web.StreamResponse:
        call = self._state.ongoing(request.match_info["call_id"])
        if call is None:
            raise RefusedError(400, "no call ongoing")
        user_id = call.sessions.get(request.match_info["session_id"])
        if user_id is None:
            raise RefusedError(404, "not found")
        return json_answer(self._state.users[user_id].document())

    async def _filename(self, request: web.Request) -> web.StreamResponse:
        channel = self._state.channels.get(request.match_info["call_id"])
        if channel is None:
            raise RefusedError(500, "failed to get channel")
        name = channel.display_name.replace(" ", "_")
        if len(name) > NAME_LENGTH:
            name = name[:NAME_LENGTH] + "…"
        name = re.sub(r"[^a-zA-Z0-9._-]", "_", name)
        now = datetime.now(UTC).strftime("%Y-%m-%d_%H-%M-%S")
        return json_answer({"filename": f"Call_{name}_{now}"})

    async def _channel(self, request: web.Request) -> web.StreamResponse:
        channel = self._state.channels.get(request.match_info["channel_id"])
        return json_answer(None if channel is None else channel.document())

    async def _image(self, request: web.Request) -> web.StreamResponse:
        if request.match_info["user_id"] not in self._state.users:
            return page_not_found()
        return web.Response(body=PNG, content_type="image/png")


async def _answered(
    request: web.Request, work: Callable[[dict[str, Any]], Awaitable[None]]
) -> web.StreamResponse:
    body = await request.content.read(MAX_BODY_BYTES + 1)
    while len(body) <= MAX_BODY_BYTES and (more := await request.content.read(MAX_BODY_BYTES)):
        body += more
    if len(body) > MAX_BODY_BYTES:
        raise RefusedError(400, "http: request body too large")
    try:
        document = fold(json.loads(body))
    except (ValueError, TypeError) as error:
        raise RefusedError(400, str(error)) from error
    await work(document)
    return status_answer(200, "success")


class CoreRoutes:
    """`/api/v4/…`: what the bot may look up itself."""

    def __init__(
        self,
        state: State,
        plugin: Plugin,
        uploads: Uploads,
        *,
        is_developer_mode: bool,
    ) -> None:
        self._state = state
        self._plugin = plugin
        self._uploads = uploads
        self._is_developer_mode = is_developer_mode

    def table(self) -> list[web.RouteDef]:
        """Where is what."""
        api = "/api/v4"
        return [
            web.get(f"{api}/websocket", self._plugin.sockets.handle),
            web.get(f"{api}/system/ping", self._ping),
            web.get(f"{api}/config/client", self._config),
            web.get(f"{api}/users/me", self._for_user(self._me)),
            web.get(f"{api}/users/{{id:{ID}}}", self._for_user(self._user)),
            web.get(f"{api}/channels/{{id:{ID}}}", self._for_user(self._channel)),
            web.get(f"{api}/posts/{{id:{ID}}}", self._for_user(self._post)),
            web.get(f"{api}/files/{{id:{ID}}}/info", self._for_user(self._file)),
            web.get(f"{api}/files/{{id:{ID}}}", self._for_user(self._content)),
        ]

    def _for_user(
        self, work: Callable[[User, str], web.StreamResponse]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            token = bearer_token(request.headers)
            user_id = self._state.tokens.get(token)
            if user_id is None:
                return self._unauthorized(token)
            return work(self._state.users[user_id], request.match_info.get("id", ""))

        return handle

    def _unauthorized(self, token: str) -> web.Response:
        # In developer mode the answer repeats the token in clear (seen on a real server).
        detail = f"token={token}" if self._is_developer_mode and token else ""
        return core_error(
            401,
            "api.context.session_expired.app_error",
            "Invalid or expired session, please login again.",
            detail,
        )

    async def _ping(self, _request: web.Request) -> web.StreamResponse:
        return json_answer({"status": "OK"})

    async def _config(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("format") != "old":
            return core_error(
                501,
                "api.config.client.old_format.app_error",
                "New format for the client configuration is not supported yet. "
                "Please specify format=old in the query string.",
            )
        token = bearer_token(request.headers)
        if token and token not in self._state.tokens:
            return self._unauthorized(token)
        version = SERVER_VERSION.rpartition(".test")[0]
        config = {
            "BuildNumber": "test",
            "Version": ".".join(version.split(".")[:3]),
            "SiteURL": str(request.url.origin()),
        }
        if token:
            config["MaxFileSize"] = str(self._uploads.max_file_size)
            config["EnableFileAttachments"] = "true"
        return json_answer(config)

    def _me(self, user: User, _id: str) -> web.StreamResponse:
        return json_answer(user.document())

    def _user(self, _user: User, user_id: str) -> web.StreamResponse:
        found = self._state.users.get(user_id)
        if found is None:
            return core_error(404, "app.user.missing_account.const", "Unable to find the user.")
        return json_answer(found.document())

    def _channel(self, user: User, channel_id: str) -> web.StreamResponse:
        channel = self._state.channels.get(channel_id)
        if channel is None:
            return core_error(
                404, "app.channel.get.existing.app_error", "Unable to find the existing channel."
            )
        if user.id not in channel.member_ids:
            return no_permission()
        return json_answer(channel.document())

    def _post(self, user: User, post_id: str) -> web.StreamResponse:
        post = self._state.posts.get(post_id)
        if post is None or not self._is_member(user, post.channel_id):
            return no_permission()  # a post that does not exist is not told apart
        return json_answer(post.document())

    def _file(self, user: User, file_id: str) -> web.StreamResponse:
        file = self._state.files.get(file_id)
        if file is None:
            return core_error(404, "app.file_info.get.app_error", "Unable to get the file info.")
        if file.creator_id != user.id and not self._is_member(user, file.channel_id):
            return no_permission()
        answer = json_answer(file.document())
        answer.headers["Cache-Control"] = "max-age=2592000, private"
        return answer

    def _content(self, user: User, file_id: str) -> web.StreamResponse:
        answer = self._file(user, file_id)
        if answer.status != 200:
            return answer
        file = self._state.files[file_id]
        return web.FileResponse(file.path, headers={"Content-Type": "application/octet-stream"})

    def _is_member(self, user: User, channel_id: str) -> bool:
        channel = self._state.channels.get(channel_id)
        return channel is not None and user.id in channel.member_ids
