# SPDX-License-Identifier: Apache-2.0
"""An uploader goes away while the disk is slow."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from callsd.v1.media_pb2 import UploadChunk, UploadMediaRequest, UploadStart
from callsd_daemon.files import FilePool
from callsd_daemon.media.uploads import Uploads
from callsd_daemon.rpc.media import MediaService


WAIT_SECONDS = 10.0


class SlowUploads:
    """Writes as soon as it may."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = threading.Event()
        self._loop = asyncio.get_running_loop()

    def append(self, _upload_id: str, file: BinaryIO, data: bytes) -> None:
        """Add bytes, slowly."""
        self._loop.call_soon_threadsafe(self.begun.set)
        assert self.go_on.wait(WAIT_SECONDS)
        file.write(data)


async def one_chunk() -> AsyncIterator[UploadMediaRequest]:
    """What is sent before the sender falls silent."""
    yield UploadMediaRequest(chunk=UploadChunk(offset=0, data=b"sound"))
    await asyncio.Event().wait()


async def test_goes_on_beside(tmp_path: Path) -> None:
    """What is being written is written to its end, others go on meanwhile, and then it is over."""
    uploads, nothing = SlowUploads(), cast(Any, None)
    service = MediaService(
        uploads=cast(Uploads, uploads),
        database=nothing,
        admission=nothing,
        kinds=nothing,
        streams=nothing,
        pool=cast(FilePool, None),
    )
    path, start = tmp_path / "media", UploadStart(upload_id="one", size_bytes=100)
    sending = asyncio.create_task(service._receive(one_chunk(), path, start))
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            await uploads.begun.wait()
        sending.cancel()
        done, _ = await asyncio.wait([sending], timeout=0.1)
        assert not done
    finally:
        uploads.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(WAIT_SECONDS):
            await sending

    assert path.read_bytes() == b"sound"
