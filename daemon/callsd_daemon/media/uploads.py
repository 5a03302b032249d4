# SPDX-License-Identifier: Apache-2.0
"""Files that jobs read: by path inside the configured roots, or uploaded.

An upload is a directory: `upload.json` says what it shall be, `media` holds the bytes that have
arrived, and once their hash was right there is an empty file `complete`.
"""

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.files import open_beneath, open_regular, sync_directory


class UploadRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the client said that the file will be."""

    size_bytes: int
    sha256: str
    creator: str
    create_time: datetime


class MediaRoots:
    """The directories from which jobs may read."""

    def __init__(self, roots: tuple[str, ...]) -> None:
        self._roots = tuple(Path(os.path.realpath(root)) for root in roots)

    def open(self, path: str) -> int:
        """Open the file behind `path` for reading, and return its descriptor.

        Raises PATH_FORBIDDEN when it lies outside the roots, symbolic links followed, and only
        then MEDIA_NOT_FOUND: nobody shall learn which files exist elsewhere.
        """
        try:
            real = Path(os.path.realpath(path))
        except ValueError:  # a NUL: no file has such a name, anywhere
            real = Path("/")
        root = next((root for root in self._roots if real.is_relative_to(root)), None)
        if root is None:
            roots = ", ".join(map(str, self._roots)) or "none"
            raise CallsdError(
                Reason.PATH_FORBIDDEN,
                f"{path} is outside the media roots ({roots}): upload the file, or add its "
                "directory to media.roots",
                metadata={"path": path},
            )
        try:
            # No part of it is a link now: one that has become one since is not followed.
            return open_beneath(root, real.relative_to(root))
        except OSError:
            raise CallsdError(
                Reason.MEDIA_NOT_FOUND,
                f"{path} is not a file that callsd can read",
                metadata={"path": path},
            ) from None

    def check(self, path: str) -> None:
        """Raise as `open` does."""
        os.close(self.open(path))


class Uploads:
    """The uploads in one directory. Methods do file I/O and block for milliseconds."""

    def __init__(self, directory: Path, *, max_bytes: int, retention: timedelta) -> None:
        self._directory = directory
        self.max_bytes = max_bytes
        self.retention = retention

    def begin(self, upload_id: str, size_bytes: int, sha256: str, creator: str) -> Path:
        """Create an upload, or go on with it; returns the file to append to.

        Raises UPLOAD_TOO_LARGE, DISK_EXHAUSTED, DISK_FULL, or UPLOAD_MISMATCH when the upload was
        begun as something else.
        """
        if size_bytes > self.max_bytes:
            raise CallsdError(
                Reason.UPLOAD_TOO_LARGE,
                f"the upload has {size_bytes} bytes, and media.max_upload_bytes allows "
                f"{self.max_bytes}",
                metadata={"size_bytes": str(size_bytes), "limit": str(self.max_bytes)},
            )
        place = self._directory / upload_id
        record = UploadRecord(
            size_bytes=size_bytes, sha256=sha256, creator=creator, create_time=datetime.now(UTC)
        )
        if place.exists():
            known = self._record(upload_id)
            if (known.size_bytes, known.sha256, known.creator) != (size_bytes, sha256, creator):
                raise CallsdError(
                    Reason.UPLOAD_MISMATCH,
                    f"upload {upload_id} was begun with another size or hash: choose a new id",
                )
        else:
            free = shutil.disk_usage(self._directory).free
            if size_bytes > free:
                raise CallsdError(
                    Reason.DISK_EXHAUSTED,
                    f"the upload has {size_bytes} bytes, and the disk has {free} left",
                    metadata={"required": str(size_bytes), "available": str(free)},
                )
            draft = self._draft(upload_id)
            with _naming_a_full_disk():
                draft.mkdir()
                with (draft / "upload.json").open("wb") as file:
                    file.write(msgspec.json.encode(record))
                    file.flush()
                    os.fsync(file.fileno())
                (draft / "media").touch()
                draft.rename(place)
        return place / "media"

    def finish(self, upload_id: str) -> None:
        """Verify that all bytes are there, and put them on the disk for good.

        Raises UPLOAD_INCOMPLETE, UPLOAD_MISMATCH or DISK_FULL.
        """
        place, record = self._directory / upload_id, self._record(upload_id)
        received = (place / "media").stat().st_size
        if received < record.size_bytes:
            raise CallsdError(
                Reason.UPLOAD_INCOMPLETE,
                f"{received} of {record.size_bytes} bytes have arrived: go on from there",
                metadata={"received_bytes": str(received)},
            )
        with (place / "media").open("rb") as file, _naming_a_full_disk():
            os.fsync(file.fileno())
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if received > record.size_bytes or sha256 != record.sha256:
            # Nothing of it can be trusted: the client begins anew.
            self.remove(upload_id)
            raise CallsdError(
                Reason.UPLOAD_MISMATCH,
                f"the bytes of upload {upload_id} have the hash {sha256}: upload them again",
                metadata={"sha256": sha256},
            )
        with _naming_a_full_disk():
            (place / "complete").touch()
            sync_directory(place)
            sync_directory(self._directory)

    def status(self, upload_id: str) -> tuple[UploadRecord, int, bool]:
        """The record, the bytes received, and whether it is complete; raises UPLOAD_NOT_FOUND."""
        place, record = self._directory / upload_id, self._record(upload_id)
        return record, (place / "media").stat().st_size, (place / "complete").exists()

    def check(self, upload_id: str) -> None:
        """Raise UPLOAD_NOT_FOUND or UPLOAD_INCOMPLETE unless it can be read."""
        record, received, complete = self.status(upload_id)
        if not complete:
            raise CallsdError(
                Reason.UPLOAD_INCOMPLETE,
                f"upload {upload_id} is not complete: {received} of {record.size_bytes} bytes",
                metadata={"received_bytes": str(received)},
            )

    def open(self, upload_id: str) -> int:
        """Open a complete upload for reading; raises UPLOAD_NOT_FOUND or UPLOAD_INCOMPLETE."""
        self.check(upload_id)
        return open_regular(self._directory / upload_id / "media")

    def remove(self, upload_id: str) -> None:
        """Remove an upload; raises UPLOAD_NOT_FOUND."""
        self._record(upload_id)
        # At once or not at all: half an upload could neither be gone on with nor begun anew.
        (self._directory / upload_id).rename(draft := self._draft(upload_id))
        shutil.rmtree(draft)

    def remove_expired(self, now: datetime, needed: frozenset[str]) -> None:
        """Remove uploads that are old and that no job needs."""
        for place in self._directory.iterdir():
            if place.name in needed:
                continue
            try:
                age = now.timestamp() - place.stat().st_mtime
            except FileNotFoundError:  # removed by its owner in this moment
                continue
            if age > self.retention.total_seconds():
                shutil.rmtree(place, ignore_errors=True)

    def _draft(self, upload_id: str) -> Path:
        """A free place for what is not an upload yet, or no longer."""
        draft = self._directory / f".{upload_id}"
        shutil.rmtree(draft, ignore_errors=True)
        return draft

    def _record(self, upload_id: str) -> UploadRecord:
        try:
            text = (self._directory / upload_id / "upload.json").read_bytes()
        except OSError:
            raise CallsdError(
                Reason.UPLOAD_NOT_FOUND, f"there is no upload {upload_id}, or it has expired"
            ) from None
        return msgspec.json.decode(text, type=UploadRecord)


@contextlib.contextmanager
def _naming_a_full_disk() -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CallsdError(
            Reason.DISK_FULL, f"the upload could not be written ({problem.strerror})"
        ) from problem
