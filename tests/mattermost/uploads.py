# SPDX-License-Identifier: Apache-2.0
"""Upload sessions of the bot: create, send data, resume. Contents go to a directory on disk."""

import json
from pathlib import Path

import aiohttp
from aiohttp import web

from tests.mattermost.answers import fold, json_answer
from tests.mattermost.faults import Faults
from tests.mattermost.plugin import RefusedError
from tests.mattermost.state import MIB, File, State, Upload, new_id


MIN_FIRST_PART_BYTES = 5 * MIB
MAX_FILE_SIZE = 100 * MIB
"""FileSettings.MaxFileSize: the server's default. It limits a request, not a file."""

_BLOCK_BYTES = 64 * 1024


class Uploads:
    """The routes of the uploads; `max_file_size` may be changed at any time."""

    def __init__(self, state: State, faults: Faults, *, max_file_size: int) -> None:
        self._state = state
        self._faults = faults
        self.directory = Path()
        """Where the contents go; there is one while the server is open."""
        self.max_file_size = max_file_size

    async def create(self, request: web.Request) -> web.StreamResponse:
        """`POST /bot/uploads`: id, type and user are the plugin's own, whatever is asked for."""
        try:
            wanted = fold(json.loads(await request.read()))
        except (ValueError, TypeError) as error:
            raise RefusedError(400, str(error)) from error
        size, name = wanted.get("file_size"), Path(str(wanted.get("filename", ""))).name
        channel_id = str(wanted.get("channel_id", ""))
        if not isinstance(size, int) or size <= 0:
            raise RefusedError(400, "UploadSession.IsValid: Invalid value for FileSize")
        if not name:
            raise RefusedError(400, "UploadSession.IsValid: Invalid value for Filename")
        if channel_id not in self._state.channels:
            raise RefusedError(400, "CreateUploadSession: Cannot upload to the given channel.")
        upload_id = new_id()
        self._state.uploads[upload_id] = upload = Upload(
            id=upload_id,
            user_id=self._state.bot.id,
            channel_id=channel_id,
            filename=name,
            file_size=size,
            path=self.directory / upload_id,
        )
        return json_answer(upload.document())

    async def read(self, request: web.Request) -> web.StreamResponse:
        """`GET /bot/uploads/{id}`: where to go on."""
        return json_answer(self._upload(request).document())

    async def data(self, request: web.Request) -> web.StreamResponse:
        """`POST /bot/uploads/{id}`: 204 = there is something missing yet."""
        upload = self._upload(request)
        if upload.user_id != self._state.bot.id:
            raise RefusedError(403, "not allowed to upload data for this session")
        if upload.is_busy:
            raise RefusedError(
                400, "UploadData: Unable to upload data from more than one request at a time."
            )
        upload.is_busy = True
        try:
            await self._append(request, upload)
        finally:
            upload.is_busy = False
        if upload.file_offset < upload.file_size:
            return web.Response(status=204)
        return json_answer(self._finish(upload).document())

    async def _append(self, request: web.Request, upload: Upload) -> None:
        """Write down what comes; what came before a broken connection is kept as well."""
        written, error = await self._write(request, upload)
        is_first = upload.file_offset == 0
        if is_first and written < MIN_FIRST_PART_BYTES and written != upload.file_size:
            upload.path.unlink(missing_ok=True)
            if error is not None:
                raise error
            raise RefusedError(
                400, f"UploadData: First part must be at least {MIN_FIRST_PART_BYTES} Bytes."
            )
        upload.file_offset += written
        if error is not None:
            raise error

    async def _write(
        self, request: web.Request, upload: Upload
    ) -> tuple[int, ConnectionError | None]:
        limit = min(upload.file_size - upload.file_offset, self.max_file_size)
        cut = self._faults.cut_upload.take(request.path)
        seen = written = 0
        with upload.path.open("ab" if upload.file_offset else "wb") as file:
            try:
                async for block in request.content.iter_chunked(_BLOCK_BYTES):
                    kept = block if cut is None else block[: max(0, cut - seen)]
                    seen += len(block)
                    # What is over the limit is read, so that the answer gets through, and dropped.
                    part = kept[: limit - written]
                    file.write(part)
                    written += len(part)
                    if cut is not None and seen >= cut:
                        if request.transport is not None:
                            request.transport.abort()
                        return written, ConnectionResetError("cut on purpose")
            except (OSError, aiohttp.ClientError, web.RequestPayloadError) as error:
                return written, ConnectionResetError(str(error))
        return written, None

    def _finish(self, upload: Upload) -> File:
        del self._state.uploads[upload.id]
        file = File(
            creator_id=upload.user_id,
            channel_id=upload.channel_id,
            name=upload.filename,
            size=upload.file_size,
            path=upload.path,
        )
        self._state.files[file.id] = file
        return file

    def _upload(self, request: web.Request) -> Upload:
        upload = self._state.uploads.get(request.match_info["upload_id"])
        if upload is None:
            raise RefusedError(404, "GetUpload: Failed to get upload.")
        return upload
