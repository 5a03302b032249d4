# SPDX-License-Identifier: Apache-2.0
"""Logs, artifacts and uploads: bytes that go on where a broken connection stopped them."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID, uuid4

import grpc

from callsd._errors import CallsdError, IntegrityError, InvalidRequestError
from callsd._resume import Backoff, Resumable
from callsd.v1.job_pb2 import (
    Artifact,
    FetchArtifactRequest,
    FetchArtifactResponse,
    ReadLogRequest,
    ReadLogResponse,
)
from callsd.v1.media_pb2 import Upload, UploadChunk, UploadMediaRequest, UploadStart


CHUNK_BYTES = 256 << 10
"""Bytes in one message of an upload: the most that the API allows."""

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all, from whatever thread does the work."""


class LogReading(Resumable[ReadLogRequest, ReadLogResponse, bytes]):
    """A job's log from an offset on."""

    def __init__(self, name: str, *, offset: int, follow: bool, backoff: Backoff) -> None:
        super().__init__(backoff)
        self._name = name
        self._offset = offset
        self._follow = follow

    def request(self) -> ReadLogRequest:
        """From the first byte not seen yet."""
        return ReadLogRequest(name=self._name, offset=self._offset, follow=self._follow)

    def receive(self, response: ReadLogResponse) -> Iterator[bytes]:
        """The bytes of one message."""
        # Followed as the server has it: a log that was cut short begins again at zero.
        self._offset = response.offset + len(response.data)
        if response.data:
            yield response.data

    def ended(self) -> None:
        """A log that ends has been read."""


class Download(Resumable[FetchArtifactRequest, FetchArtifactResponse, Artifact]):
    """One artifact on its way into a file, which appears whole and verified or not at all.

    A context manager: leaving it removes what was not finished.
    """

    def __init__(
        self, name: str, destination: Path, *, progress: Progress | None, backoff: Backoff
    ) -> None:
        super().__init__(backoff)
        self._name = name
        self._destination = destination
        self._progress = progress
        self._hash = hashlib.sha256()
        self._offset = 0
        self._artifact: Artifact | None = None
        # In the destination's own directory, because a rename does not cross file systems.
        descriptor, path = tempfile.mkstemp(
            dir=destination.parent, prefix=f".{destination.name}.", suffix=".part"
        )
        self._file = os.fdopen(descriptor, "wb")
        self._part = Path(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)

    def request(self) -> FetchArtifactRequest:
        """From the first byte not there yet."""
        return FetchArtifactRequest(name=self._name, offset=self._offset)

    def receive(self, response: FetchArtifactResponse) -> Iterator[Artifact]:
        """Write the bytes of one message; yields nothing but the artifact, once known."""
        if self._artifact is None and response.HasField("artifact"):
            self._artifact = response.artifact
            yield response.artifact
        _check_offset(response.offset, self._offset, self._name)
        self._file.write(response.data)
        self._hash.update(response.data)
        self._offset += len(response.data)
        if self._progress and self._artifact is not None:
            self._progress(self._offset, self._artifact.size_bytes)

    def ended(self) -> None:
        """Complete when all announced bytes are there; otherwise the stream goes on."""
        if self._artifact is None or self._offset < self._artifact.size_bytes:
            super().ended()

    def finish(self) -> Artifact:
        """Verify what has arrived and put it in its place.

        Raises:
            IntegrityError: Length or SHA-256 differ from what was announced.
        """
        artifact = self._artifact
        if (
            artifact is None
            or artifact.size_bytes != self._offset
            or artifact.sha256 != self._hash.hexdigest()
        ):
            raise _mismatch(f"{self._name}: the bytes received do not have the announced hash")
        self._file.flush()
        os.fsync(self._file.fileno())
        # A temporary file is for our eyes only; a finished one gets what the umask allows.
        self._part.chmod(0o666 & ~_umask())
        self._part.replace(self._destination)
        return artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFile:
    """A file to be uploaded, as it was when it was hashed."""

    path: Path
    size_bytes: int
    sha256: str

    @classmethod
    def read(cls, path: Path) -> Self:
        """Hash a file. Reads all of it.

        Raises:
            InvalidRequestError: It is empty.
        """
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size_bytes = file.tell()
        if not size_bytes:
            raise InvalidRequestError(
                f"{path} is empty: there is no sound in it to send",
                code=grpc.StatusCode.INVALID_ARGUMENT,
                reason="INPUT_INVALID",
            )
        return cls(path=path, size_bytes=size_bytes, sha256=digest)


class Uploading:
    """One file on its way to the server, over as many requests as it takes."""

    def __init__(
        self,
        file: LocalFile,
        *,
        upload_id: UUID | None,
        progress: Progress | None,
        backoff: Backoff,
    ) -> None:
        self.backoff = backoff
        self._file = file
        self._id = str(upload_id or uuid4())
        self._progress = progress
        self._offset = 0

    @property
    def name(self) -> str:
        """Name of the upload, for GetUpload."""
        return f"uploads/{self._id}"

    def messages(self) -> Iterator[UploadMediaRequest]:
        """What to send now: the start, then the bytes from the current offset on."""
        yield UploadMediaRequest(
            start=UploadStart(
                upload_id=self._id, size_bytes=self._file.size_bytes, sha256=self._file.sha256
            )
        )
        # A position of its own: gRPC may still be reading an abandoned stream's messages.
        offset = self._offset
        with self._file.path.open("rb") as file:
            file.seek(offset)
            while data := file.read(CHUNK_BYTES):
                yield UploadMediaRequest(chunk=UploadChunk(offset=offset, data=data))
                offset += len(data)
                if self._progress:
                    self._progress(min(offset, self._file.size_bytes), self._file.size_bytes)

    def found(self, upload: Upload | None) -> Upload | None:
        """Go on from what the server has (None: nothing); returns the upload if that is all.

        The server is asked before each try: also before the first, as an id given by the caller
        may be that of an upload begun earlier.

        Raises:
            IntegrityError: The upload of this id is of another file.
        """
        self._offset = upload.received_bytes if upload else 0
        if upload and (upload.size_bytes, upload.sha256) != (
            self._file.size_bytes,
            self._file.sha256,
        ):
            raise _mismatch(f"{self.name} is an upload of another file than {self._file.path}")
        self.backoff.answered()
        return upload if upload and upload.complete else None

    def failed(self, error: CallsdError) -> float:
        """Seconds to wait before the next try.

        Raises:
            CallsdError: `error` itself, when the upload cannot go on.
        """
        # For a while after a cut the server may still hold the lost stream: it refuses this one, or
        # has stored more since it was asked how much has arrived.
        is_passing = error.reason == "UPLOAD_BUSY" or "received_bytes" in error.metadata
        return self.backoff.failed(error, is_passing=is_passing)


def _check_offset(actual: int, expected: int, name: str) -> None:
    if actual != expected:
        raise _mismatch(f"{name}: the server sent byte {actual} where {expected} was due")


def _mismatch(message: str) -> IntegrityError:
    return IntegrityError(message, code=grpc.StatusCode.DATA_LOSS)


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
