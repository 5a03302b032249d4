# SPDX-License-Identifier: Apache-2.0
"""MediaService."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, ParamSpec

import grpc

from callsd.v1 import media_pb2, media_pb2_grpc
from callsd_daemon.domain.errors import CallsdError, Reason, invalid_fields
from callsd_daemon.files import FilePool
from callsd_daemon.kinds import Kinds
from callsd_daemon.media.uploads import Uploads
from callsd_daemon.rpc import convert, validate
from callsd_daemon.rpc.interceptor import caller
from callsd_daemon.store.database import Database
from callsd_daemon.usecases.streams import Streams
from callsd_daemon.workers.admission import AdmissionController
from callsd_daemon.workers.housekeeping import needed_uploads


MAX_CHUNK_BYTES = 256 * 1024
CHUNK_TIMEOUT_SECONDS = 60.0
"""How long an uploading client may be silent before its stream is ended; it can resume."""

P = ParamSpec("P")

Context = grpc.aio.ServicerContext[Any, Any]


class MediaService(media_pb2_grpc.MediaServiceServicer):
    """Takes media from clients that share no file system with the server."""

    def __init__(
        self,
        *,
        uploads: Uploads,
        database: Database,
        admission: AdmissionController,
        kinds: Kinds,
        streams: Streams,
        pool: FilePool,
    ) -> None:
        """`pool` is for the verifying of uploads alone, which takes long."""
        self._uploads = uploads
        self._database = database
        self._admission = admission
        self._kinds = kinds
        self._streams = streams
        self._pool = pool

    async def UploadMedia(
        self, request_iterator: AsyncIterator[media_pb2.UploadMediaRequest], context: Context
    ) -> media_pb2.UploadMediaResponse:
        """Store a file."""
        first = await _next(request_iterator)
        if first is None or first.WhichOneof("message") != "start":
            raise invalid_fields([("start", "must be the first message")])
        start = first.start
        validate.upload_start(start.upload_id, start.size_bytes, start.sha256)
        await asyncio.to_thread(self._uploads.check_owner, start.upload_id, caller.get())
        withheld = await self._database.read(self._admission.withheld_disk_bytes)
        with self._uploads.sending(start.upload_id), self._streams.open():
            path = await asyncio.to_thread(
                self._uploads.begin,
                start.upload_id,
                start.size_bytes,
                start.sha256,
                caller.get(),
                withheld_bytes=withheld,
            )
            await self._receive(request_iterator, path, start)
            await self._pool.run(self._uploads.finish, start.upload_id)
        return media_pb2.UploadMediaResponse(upload=await self._message(start.upload_id))

    async def _receive(
        self,
        requests: AsyncIterator[media_pb2.UploadMediaRequest],
        path: Path,
        start: media_pb2.UploadStart,
    ) -> None:
        size = start.size_bytes
        file = await asyncio.to_thread(path.open, "ab")
        try:
            received = file.tell()
            while (request := await _next(requests)) is not None:
                chunk = request.chunk
                if not 1 <= len(chunk.data) <= MAX_CHUNK_BYTES:
                    raise invalid_fields([("chunk.data", f"must be 1 to {MAX_CHUNK_BYTES} bytes")])
                if chunk.offset != received or received + len(chunk.data) > size:
                    raise CallsdError(
                        Reason.UPLOAD_MISMATCH,
                        f"the chunk belongs at {chunk.offset}, but {received} of {size} bytes "
                        "have arrived: go on from there",
                        metadata={"received_bytes": str(received)},
                    )
                await _to_its_end(self._uploads.append, start.upload_id, file, chunk.data)
                received += len(chunk.data)
        finally:
            await _to_its_end(file.close)

    async def GetUpload(
        self, request: media_pb2.GetUploadRequest, context: Context
    ) -> media_pb2.GetUploadResponse:
        """Return one upload."""
        upload_id = validate.upload_id(request.name)
        return media_pb2.GetUploadResponse(upload=await self._message(upload_id))

    async def DeleteUpload(
        self, request: media_pb2.DeleteUploadRequest, context: Context
    ) -> media_pb2.DeleteUploadResponse:
        """Remove an upload that no job needs."""
        upload_id = validate.upload_id(request.name)
        await asyncio.to_thread(self._uploads.status, upload_id, caller.get())
        if upload_id in await self._database.read(lambda tx: needed_uploads(tx, self._kinds)):
            raise CallsdError(
                Reason.JOB_STATE_CONFLICT, "a job that has not ended yet needs this upload"
            )
        await asyncio.to_thread(self._uploads.remove, upload_id, caller.get())
        return media_pb2.DeleteUploadResponse()

    async def _message(self, upload_id: str) -> media_pb2.Upload:
        record, received, complete = await asyncio.to_thread(
            self._uploads.status, upload_id, caller.get()
        )
        expire_time = record.create_time + timedelta(
            seconds=self._uploads.retention.total_seconds()
        )
        return media_pb2.Upload(
            name=f"uploads/{upload_id}",
            received_bytes=received,
            size_bytes=record.size_bytes,
            sha256=record.sha256,
            complete=complete,
            expire_time=convert.timestamp(expire_time),
        )


async def _to_its_end(work: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Do it on a thread, and wait for that one even when this is cancelled.

    What the thread uses stays in use: closing a file that it writes would hold up everybody, and
    the next sender would write beside it.
    """
    doing = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        await asyncio.shield(doing)
    except asyncio.CancelledError:
        await asyncio.gather(doing, return_exceptions=True)
        raise


async def _next(
    requests: AsyncIterator[media_pb2.UploadMediaRequest],
) -> media_pb2.UploadMediaRequest | None:
    try:
        async with asyncio.timeout(CHUNK_TIMEOUT_SECONDS):
            return await anext(requests, None)
    except TimeoutError:
        raise CallsdError(
            Reason.UPLOAD_INCOMPLETE,
            f"nothing came for {CHUNK_TIMEOUT_SECONDS:g} s: what has arrived is kept, go on later",
        ) from None
