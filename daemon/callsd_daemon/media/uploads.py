# SPDX-License-Identifier: Apache-2.0
"""Files that clients send.

An upload is a directory: `upload.json` says what it shall be, `media` holds the bytes that have
arrived, and once their hash was right there is an empty file `complete`. It belongs to the client
that began it, and for others it is not there. The space for what is still to come is set aside.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import msgspec

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.files import open_regular, sync_directory


class UploadRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the client said that the file will be."""

    size_bytes: int
    sha256: str
    creator: str
    create_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadLimits:
    """How much may be uploaded; `client` limits count all that a client keeps here."""

    max_bytes: int
    max_client_bytes: int
    max_client_uploads: int


class Uploads:
    """The uploads in one directory; a client is the name of a token.

    Methods do file I/O and block for milliseconds, unless they say more; any thread may call them.
    """

    def __init__(
        self,
        directory: Path,
        *,
        limits: UploadLimits,
        retention: timedelta,
        sees_all: Callable[[str], bool],
    ) -> None:
        """`sees_all` tells whether a client may use the uploads of all others as well."""
        self._directory = directory
        self._limits = limits
        self.retention = retention
        self._sees_all = sees_all
        self._lock = threading.Lock()
        self._kept: dict[str, UploadRecord] = {}
        self._left: dict[str, int] = {}
        """Bytes that are still to come, of uploads that are not complete."""
        self._busy: set[tuple[str, str]] = set()
        """What is being done to which upload."""
        self._take_stock()

    @property
    def left_bytes(self) -> int:
        """What all uploads together have declared and not sent yet: promised space."""
        with self._lock:
            return sum(self._left.values())

    @contextlib.contextmanager
    def sending(self, upload_id: str) -> Iterator[None]:
        """Have an upload to oneself; raises UPLOAD_BUSY."""
        with self._doing("send", upload_id):
            yield

    def begin(
        self, upload_id: str, size_bytes: int, sha256: str, client: str, *, withheld_bytes: int
    ) -> Path:
        """Create an upload, or go on with it; returns the file to append to.

        Of the free space `withheld_bytes` are not for uploads. Raises UPLOAD_TOO_LARGE,
        DISK_EXHAUSTED, SLOTS_EXHAUSTED, DISK_FULL, UPLOAD_NOT_FOUND when it is another client's,
        or UPLOAD_MISMATCH when it was begun as something else.
        """
        if size_bytes > self._limits.max_bytes:
            raise CallsdError(
                Reason.UPLOAD_TOO_LARGE,
                f"the upload has {size_bytes} bytes, and media.max_upload_bytes allows "
                f"{self._limits.max_bytes}",
                metadata={"size_bytes": str(size_bytes), "limit": str(self._limits.max_bytes)},
            )
        place = self._directory / upload_id
        if place.exists():
            known, received, is_complete = self.status(upload_id, client)
            if (known.size_bytes, known.sha256) != (size_bytes, sha256):
                raise CallsdError(
                    Reason.UPLOAD_MISMATCH,
                    f"upload {upload_id} was begun with another size or hash: choose a new id",
                )
            if not is_complete:
                self._promise(upload_id, known, max(size_bytes - received, 0), withheld_bytes)
            return place / "media"
        record = UploadRecord(
            size_bytes=size_bytes, sha256=sha256, creator=client, create_time=datetime.now(UTC)
        )
        self._promise(upload_id, record, size_bytes, withheld_bytes)
        try:
            with _naming_a_full_disk():
                (draft := self._draft(upload_id)).mkdir()
                with (draft / "upload.json").open("wb") as file:
                    file.write(msgspec.json.encode(record))
                    file.flush()
                    os.fsync(file.fileno())
                (draft / "media").touch()
                draft.rename(place)
        except BaseException:
            self._forget(upload_id)
            raise
        return place / "media"

    def append(self, upload_id: str, file: BinaryIO, data: bytes) -> None:
        """Add bytes to the file that `begin` has named; raises DISK_FULL."""
        try:
            file.write(data)
            file.flush()
        except OSError as problem:
            raise _disk_full(problem) from problem
        with self._lock:
            if upload_id in self._left:
                self._left[upload_id] -= len(data)

    def finish(self, upload_id: str) -> None:
        """Verify that all bytes are there, and put them on the disk for good; once.

        Takes as long as all of it takes to be read. Raises UPLOAD_INCOMPLETE, UPLOAD_MISMATCH,
        DISK_FULL, or UPLOAD_BUSY while it is being verified.
        """
        # Also when the stream that asked for it has gone.
        with self._doing("verify", upload_id, beside="send"):
            self._finish(upload_id)

    def _finish(self, upload_id: str) -> None:
        record, received, is_complete = self.status(upload_id, None)
        place = self._directory / upload_id
        if is_complete:
            return
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
            self._remove(upload_id)
            raise CallsdError(
                Reason.UPLOAD_MISMATCH,
                f"the bytes of upload {upload_id} have the hash {sha256}: upload them again",
                metadata={"sha256": sha256},
            )
        with _naming_a_full_disk():
            (place / "complete").touch()
            sync_directory(place)
            sync_directory(self._directory)
        with self._lock:
            self._left.pop(upload_id, None)

    def status(self, upload_id: str, client: str | None) -> tuple[UploadRecord, int, bool]:
        """The record, the bytes received, and whether it is complete.

        `client` None is the daemon itself. Raises UPLOAD_NOT_FOUND, also when it is another
        client's: nobody shall learn what others upload.
        """
        place = self._directory / upload_id
        with contextlib.suppress(OSError, msgspec.DecodeError):
            record = self._record(upload_id)
            if client is None or client == record.creator or self._sees_all(client):
                received = (place / "media").stat().st_size
                return record, received, (place / "complete").exists()
        raise CallsdError(
            Reason.UPLOAD_NOT_FOUND, f"there is no upload {upload_id}, or it has expired"
        )

    def check(self, upload_id: str, client: str | None) -> None:
        """Raise UPLOAD_NOT_FOUND or UPLOAD_INCOMPLETE unless the client can have it read."""
        record, received, complete = self.status(upload_id, client)
        if not complete:
            raise CallsdError(
                Reason.UPLOAD_INCOMPLETE,
                f"upload {upload_id} is not complete: {received} of {record.size_bytes} bytes",
                metadata={"received_bytes": str(received)},
            )

    def check_owner(self, upload_id: str, client: str) -> None:
        """Raise UPLOAD_NOT_FOUND when it is another client's; there may be none yet."""
        if (self._directory / upload_id).exists():
            self.status(upload_id, client)

    def open(self, upload_id: str) -> int:
        """Open a complete upload for a job that was accepted; raises as `check` does."""
        self.check(upload_id, None)
        return open_regular(self._directory / upload_id / "media")

    def remove(self, upload_id: str, client: str) -> None:
        """Remove an upload; raises UPLOAD_NOT_FOUND, and UPLOAD_BUSY while it is being sent."""
        self.status(upload_id, client)
        with self._doing("remove", upload_id):
            self._remove(upload_id)

    def remove_expired(self, now: datetime, needed: frozenset[str]) -> None:
        """Remove uploads that are old, that no job needs and nobody sends."""
        for place in self._directory.iterdir():
            if place.name in needed:
                continue
            try:
                age = now.timestamp() - place.stat().st_mtime
            except FileNotFoundError:  # removed by its owner in this moment
                continue
            if age > self.retention.total_seconds():
                with contextlib.suppress(CallsdError), self._doing("remove", place.name):
                    shutil.rmtree(place, ignore_errors=True)
                    self._forget(place.name)

    def _take_stock(self) -> None:
        """Find out what the daemon before this one has left."""
        for place in self._directory.iterdir():
            with contextlib.suppress(OSError, msgspec.DecodeError):  # a draft, or a stranger's
                record = self._record(place.name)
                left = record.size_bytes - (place / "media").stat().st_size
                self._kept[place.name] = record
                if not (place / "complete").exists():
                    self._left[place.name] = max(left, 0)

    def _promise(
        self, upload_id: str, record: UploadRecord, left: int, withheld_bytes: int
    ) -> None:
        """Set space aside for what is to come, if there is as much and the client may have it."""
        free = shutil.disk_usage(self._directory).free - withheld_bytes
        with self._lock:
            if upload_id not in self._kept:
                self._check_quota(record)
            others = sum(self._left.values()) - self._left.get(upload_id, 0)
            available = max(free - others, 0)
            if left > available:
                raise _refusal(
                    Reason.DISK_EXHAUSTED,
                    f"the upload takes {left} bytes more, and {available} are free: of what the "
                    f"disk has, {withheld_bytes} are kept free or promised to jobs, and {others} "
                    "to other uploads",
                    required=left,
                    available=available,
                )
            self._kept[upload_id], self._left[upload_id] = record, left

    def _check_quota(self, record: UploadRecord) -> None:
        sizes = [one.size_bytes for one in self._kept.values() if one.creator == record.creator]
        most = self._limits.max_client_uploads
        if len(sizes) >= most:
            raise _refusal(
                Reason.SLOTS_EXHAUSTED,
                f"{len(sizes)} uploads of {record.creator!r} are here, and "
                f"media.max_client_uploads allows {most}: delete those that are not needed",
                required=1,
                available=0,
                unit="uploads",
            )
        available = max(self._limits.max_client_bytes - sum(sizes), 0)
        if record.size_bytes > available:
            raise _refusal(
                Reason.DISK_EXHAUSTED,
                f"the upload has {record.size_bytes} bytes, and of the "
                f"{self._limits.max_client_bytes} that media.max_client_upload_bytes allows, "
                f"{record.creator!r} has {available} left: delete uploads that are not needed",
                required=record.size_bytes,
                available=available,
            )

    def _forget(self, upload_id: str) -> None:
        with self._lock:
            self._kept.pop(upload_id, None)
            self._left.pop(upload_id, None)

    @contextlib.contextmanager
    def _doing(self, what: str, upload_id: str, *, beside: str = "") -> Iterator[None]:
        others = {"send", "verify", "remove"} - {beside}
        with self._lock:
            if not self._busy.isdisjoint((other, upload_id) for other in others):
                raise CallsdError(
                    Reason.UPLOAD_BUSY,
                    "this upload is being sent or verified by another request right now",
                    retry_after_seconds=1.0,
                )
            self._busy.add((what, upload_id))
        try:
            yield
        finally:
            with self._lock:
                self._busy.discard((what, upload_id))

    def _remove(self, upload_id: str) -> None:
        # At once or not at all: half an upload could neither be gone on with nor begun anew.
        (self._directory / upload_id).rename(draft := self._draft(upload_id))
        try:
            shutil.rmtree(draft)
        finally:
            self._forget(upload_id)

    def _draft(self, upload_id: str) -> Path:
        """A free place for what is not an upload yet, or no longer."""
        draft = self._directory / f".{upload_id}"
        shutil.rmtree(draft, ignore_errors=True)
        return draft

    def _record(self, upload_id: str) -> UploadRecord:
        text = (self._directory / upload_id / "upload.json").read_bytes()
        return msgspec.json.decode(text, type=UploadRecord)


def _refusal(
    reason: Reason, message: str, *, required: int, available: int, unit: str = "bytes of disk"
) -> CallsdError:
    metadata = {"required": str(required), "available": str(available), "unit": unit}
    return CallsdError(reason, message, metadata=metadata)


@contextlib.contextmanager
def _naming_a_full_disk() -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _disk_full(problem) from problem


def _disk_full(problem: OSError) -> CallsdError:
    return CallsdError(Reason.DISK_FULL, f"the upload could not be written ({problem.strerror})")
