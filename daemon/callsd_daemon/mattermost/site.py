# SPDX-License-Identifier: Apache-2.0
"""A Mattermost site, as the bot of its Calls plugin uses it by HTTP."""

import asyncio
import json
import os
import re
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from callsd_daemon.domain.mattermost import MattermostCall, is_identifier
from callsd_daemon.files import open_regular
from callsd_ipc.names import PLUGIN_PATH


BOT = f"{PLUGIN_PATH}/bot"
"""Where the plugin's routes for its bot begin."""

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0
"""How long a site may take to answer, from the last byte that was sent."""

SLICE_SECONDS = 900.0
"""For a part of an upload, from its first byte to the answer. With the last one the site puts the
whole file where it belongs, and who does not wait for the answer never learns the file's name."""

MAX_ANSWER_BYTES = 1024**2
MAX_PROBLEM_CHARACTERS = 300
"""So much of a refusal is told on."""

MAX_DIGITS = 18
READ_BYTES = 256 * 1024

_UNSAFE_IN_NAME = re.compile(r'[\\:*?"<>|\s/\x00-\x1f\x7f]')
MAX_NAME_CHARACTERS = 200


class SiteError(Exception):
    """A site does not do what was asked; the message is for a person, and holds no token."""

    def __init__(self, message: str, *, status: int = 0, is_from_site: bool = False) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status; 0: there was no answer."""
        self.is_from_site = is_from_site
        """Whether the site itself has answered, and nothing between us and it."""

    @property
    def is_token_refused(self) -> bool:
        """Whether the site does not know the token, or no longer."""
        return self.status == 401  # noqa: PLR2004 - Unauthorized

    @property
    def is_final(self) -> bool:
        """Whether asking again would not help, as the plugin itself has answered."""
        return self.status == 400  # noqa: PLR2004 - Bad Request


class TooLargeError(SiteError):
    """Something between us and the site takes no body of this size."""


def open_session(context: ssl.SSLContext) -> aiohttp.ClientSession:
    """Connections, which all clients of sites share."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit_per_host=8, ssl=context),
        trust_env=True,  # proxies, as everything else on this machine uses them
        cookie_jar=aiohttp.DummyCookieJar(),
    )


class Site:
    """A site as the bot with one token uses it. All methods raise SiteError."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str) -> None:
        self._session = session
        self._url = url
        self._token = token

    # The plugin's jobs

    async def report(
        self, call: MattermostCall, job_type: str, status: str, problem: str = ""
    ) -> None:
        """Tell that a job has started, or has failed and why."""
        await self._ask(
            "POST",
            f"{BOT}/calls/{call.call_id}/jobs/{call.job_id}/status",
            # The text's key is a slip of the plugin's, and the only one that it reads.
            {"JobType": job_type, "Status": status, "omitempty": problem},
        )

    async def file_name(self, call: MattermostCall) -> str:
        """What the call's files shall be called, without a suffix, fit for any file system."""
        answer = await self._ask("GET", f"{BOT}/calls/{call.call_id}/filename")
        name = _UNSAFE_IN_NAME.sub("_", _storable(answer.get("filename", "")))
        name = name[:MAX_NAME_CHARACTERS]
        if not name.strip("._"):
            raise SiteError("the plugin gives no name for the file")
        return name

    async def publish_recording(self, call: MattermostCall, file_id: str) -> None:
        """Post a recording into the call's thread. Done twice, there are two posts."""
        body = {"JobID": call.job_id, "PostID": call.post_id, "FileIDs": [file_id]}
        await self._ask("POST", f"{BOT}/calls/{call.call_id}/recordings", body)

    async def publish_transcription(
        self, call: MattermostCall, file_ids: Sequence[str], language: str
    ) -> None:
        """Post a transcript, its WebVTT file first. Done twice, there are two posts."""
        track = {"Title": "", "Language": language, "FileIDs": list(file_ids)}
        body = {"JobID": call.job_id, "PostID": call.post_id, "Transcriptions": [track]}
        await self._ask("POST", f"{BOT}/calls/{call.call_id}/transcriptions", body)

    # Files

    async def max_slice_bytes(self) -> int:
        """The largest body that the site takes, as far as it says so; 0 = it does not."""
        answer = await self._ask("GET", "/api/v4/config/client?format=old")
        text = str(answer.get("MaxFileSize", ""))
        return int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else 0

    async def create_upload(self, call: MattermostCall, name: str, size_bytes: int) -> str:
        """Begin an upload; returns its id."""
        body = {"channel_id": call.call_id, "filename": name, "file_size": size_bytes}
        return _identifier(await self._ask("POST", f"{BOT}/uploads", body), "upload")

    async def upload_offset(self, upload_id: str) -> int | None:
        """How much of an upload has arrived; None when the site does not know it."""
        try:
            answer = await self._ask("GET", f"{BOT}/uploads/{upload_id}")
        except SiteError as problem:
            # Proxies and a site without the plugin answer by this status, too.
            if problem.status == 404 and problem.is_from_site:  # noqa: PLR2004
                return None
            raise
        offset = answer.get("file_offset")
        if not isinstance(offset, int) or offset < 0:
            raise SiteError("the site does not tell how much of the upload has arrived")
        return offset

    async def send(self, upload_id: str, path: Path, offset: int, size_bytes: int) -> str:
        """Send a part of a file; returns the file's id when all of it is there, else "".

        Raises TooLargeError, too.
        """
        answer = await self._ask(
            "POST",
            f"{BOT}/uploads/{upload_id}",
            _read(path, offset, size_bytes),
            headers={"Content-Length": str(size_bytes), "Content-Type": "application/octet-stream"},
            answer_seconds=SLICE_SECONDS,
        )
        return _identifier(answer, "file") if answer else ""

    async def is_posted(self, file_id: str) -> bool:
        """Whether a file of the bot's belongs to a post."""
        answer = await self._ask("GET", f"/api/v4/files/{file_id}/info")
        if answer.get("id") != file_id:
            raise SiteError("the site does not tell what has become of the file")
        return bool(answer.get("post_id"))

    # Requests

    async def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | AsyncIterator[bytes] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        answer_seconds: float = 0.0,
    ) -> dict[str, Any]:
        data = json.dumps(body) if isinstance(body, Mapping) else body
        try:
            async with self._session.request(
                method,
                self._url + path,
                data=data,
                headers={"Authorization": f"Bearer {self._token}", **(headers or {})},
                allow_redirects=False,  # the token is for this site alone
                timeout=aiohttp.ClientTimeout(
                    total=SLICE_SECONDS,
                    sock_connect=CONNECT_SECONDS,
                    sock_read=answer_seconds or ANSWER_SECONDS,
                ),
            ) as response:
                content = await _content(response.content)
                status, reason = response.status, response.reason
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as problem:
            text = str(problem) or type(problem).__name__
            raise SiteError(self._redacted(f"{self._url} cannot be reached: {text}")) from None
        answer = _decoded(content)
        if status in (200, 204):
            return answer
        # Proxies answer with a page, which tells people no more than its status does.
        page = b"" if content.startswith(b"<") else content
        text = _storable(answer.get("message") or page.decode(errors="replace") or reason).strip()
        # The token is looked for in the whole text: cut in two it would not be found.
        text = self._redacted(text)[:MAX_PROBLEM_CHARACTERS]
        error = TooLargeError if status == 413 else SiteError  # noqa: PLR2004 - too large
        raise error(
            self._redacted(f"{self._url} answers {status} to {method} {path}: {text}"),
            status=status,
            is_from_site="status_code" in answer,
        )

    def _redacted(self, text: str) -> str:
        return text.replace(self._token, "***") if self._token else text


async def _content(stream: aiohttp.StreamReader) -> bytes:
    """An answer's body, which may come in parts."""
    content = b""
    while len(content) < MAX_ANSWER_BYTES:
        more = await stream.read(MAX_ANSWER_BYTES - len(content))
        if not more:
            break
        content += more
    return content


def _storable(text: object) -> str:
    """As text without halves of characters, which JSON may hold and a database may not."""
    return str(text).encode(errors="replace").decode()


def _decoded(content: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _identifier(answer: Mapping[str, Any], what: str) -> str:
    found = answer.get("id")
    if not isinstance(found, str) or not is_identifier(found):
        raise SiteError(f"the site's answer names no {what}")
    return found


async def _read(path: Path, offset: int, size_bytes: int) -> AsyncIterator[bytes]:
    """A part of a file, read beside the event loop."""
    descriptor = await asyncio.to_thread(open_regular, path)
    try:
        end = offset + size_bytes
        while offset < end:
            data = await asyncio.to_thread(
                os.pread, descriptor, min(READ_BYTES, end - offset), offset
            )
            if not data:
                raise OSError(f"{path} is shorter than it was")
            offset += len(data)
            yield data
    finally:
        os.close(descriptor)
