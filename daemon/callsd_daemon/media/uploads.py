# SPDX-License-Identifier: Apache-2.0
"""Files that clients send.

An upload is a directory: `upload.json` with size and hash as announced, `media` with the bytes
received, and an empty file `complete` once the hash is verified. It belongs to the client that
began it; for others it does not exist. Space for the missing bytes is reserved.
"""

import contextlib
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
from callsd_daemon.files import naming, open_regular, sync


class UploadRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The file as the client has announced it."""

    size_bytes: int
    sha256: str
    creator: str
    create_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadLimits:
    """How much may be uploaded; the `client` limits are for all uploads of a client together."""

    max_bytes: int
    max_client_bytes: int
    max_client_uploads: int


class Uploads:
    """The uploads in one directory; a client is the name of a token.

    Methods do file I/O and block for milliseconds if not said otherwise. They are thread-safe, and
    raise OSError beside what they say: the disk may be full, or fail.
    """

    def __init__(
        self,
        directory: Path,
        *,
        limits: UploadLimits,
        retention: timedelta,
        sees_all: Callable[[str], bool],
    ) -> None:
        """`sees_all` says whether a client may use the uploads of all others, too."""
        self._directory = directory
        self._limits = limits
        self.retention = retention
        self._sees_all = sees_all
        self._lock = threading.Lock()
        self._kept: dict[str, UploadRecord] = {}
        self._left: dict[str, int] = {}
        """Missing bytes of each incomplete upload."""
        self._busy: set[tuple[str, str]] = set()
        """Operations under way, as (operation, upload)."""
        self._take_stock()

    @property
    def left_bytes(self) -> int:
        """Missing bytes of all uploads together: reserved space."""
        with self._lock:
            return sum(self._left.values())

    @contextlib.contextmanager
    def sending(self, upload_id: str) -> Iterator[None]:
        """Exclude other senders of an upload; raises UPLOAD_BUSY."""
        with self._doing("send", upload_id):
            yield

    def begin(
        self, upload_id: str, size_bytes: int, sha256: str, client: str, *, withheld_bytes: int
    ) -> Path:
        """Create an upload, or continue it; returns the file to append to.

        `withheld_bytes` of the free space are not for uploads. Raises UPLOAD_TOO_LARGE,
        DISK_EXHAUSTED, SLOTS_EXHAUSTED, UPLOAD_NOT_FOUND when it is another client's, or
        UPLOAD_MISMATCH when it was begun with another size or hash.
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
                self._reserve(upload_id, known, max(size_bytes - received, 0), withheld_bytes)
            return place / "media"
        record = UploadRecord(
            size_bytes=size_bytes, sha256=sha256, creator=client, create_time=datetime.now(UTC)
        )
        self._reserve(upload_id, record, size_bytes, withheld_bytes)
        try:
            (draft := self._draft(upload_id)).mkdir()
            with naming(draft / "upload.json"), (draft / "upload.json").open("wb") as file:
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
        """Add bytes to the file that `begin` returned."""
        with naming(self._directory / upload_id / "media"):
            file.write(data)
            file.flush()
        with self._lock:
            if upload_id in self._left:
                self._left[upload_id] -= len(data)

    def finish(self, upload_id: str) -> None:
        """Verify size and hash, sync the file and mark it complete; once.

        Reads the whole file. Raises UPLOAD_INCOMPLETE, UPLOAD_MISMATCH, or UPLOAD_BUSY while it is
        being verified.
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
        with naming(place / "media"), (place / "media").open("rb") as file:
            os.fsync(file.fileno())
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if received > record.size_bytes or sha256 != record.sha256:
            # No part of it can be trusted: the client begins anew.
            self._remove(upload_id)
            raise CallsdError(
                Reason.UPLOAD_MISMATCH,
                f"the bytes of upload {upload_id} have the hash {sha256}: upload them again",
                metadata={"sha256": sha256},
            )
        (place / "complete").touch()
        sync(place)
        sync(self._directory)
        with self._lock:
            self._left.pop(upload_id, None)

    def status(self, upload_id: str, client: str | None) -> tuple[UploadRecord, int, bool]:
        """The record, the bytes received, and whether it is complete.

        `client` None is the daemon itself. Raises UPLOAD_NOT_FOUND, also when it is another
        client's: clients must not learn about uploads of others.
        """
        place = self._directory / upload_id
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            record = self._record(upload_id)
            if client is None or client == record.creator or self._sees_all(client):
                received = (place / "media").stat().st_size
                return record, received, (place / "complete").exists()
        raise CallsdError(
            Reason.UPLOAD_NOT_FOUND, f"there is no upload {upload_id}, or it has expired"
        )

    def check(self, upload_id: str, client: str | None) -> None:
        """Raise UPLOAD_NOT_FOUND or UPLOAD_INCOMPLETE unless a job of the client can use it."""
        record, received, complete = self.status(upload_id, client)
        if not complete:
            raise CallsdError(
                Reason.UPLOAD_INCOMPLETE,
                f"upload {upload_id} is not complete: {received} of {record.size_bytes} bytes",
                metadata={"received_bytes": str(received)},
            )

    def check_owner(self, upload_id: str, client: str) -> None:
        """Raise UPLOAD_NOT_FOUND when it is another client's; it need not exist yet."""
        if (self._directory / upload_id).exists():
            self.status(upload_id, client)

    def open(self, upload_id: str) -> int:
        """Open a complete upload for an accepted job; raises as `check` does."""
        self.check(upload_id, None)
        return open_regular(self._directory / upload_id / "media")

    def remove(self, upload_id: str, client: str) -> None:
        """Remove an upload; raises UPLOAD_NOT_FOUND, and UPLOAD_BUSY while it is being sent."""
        self.status(upload_id, client)
        with self._doing("remove", upload_id):
            self._remove(upload_id)

    def remove_expired(self, now: datetime, needed: frozenset[str]) -> None:
        """Remove uploads that have expired, unless a job needs them or somebody sends them."""
        for place in self._directory.iterdir():
            if place.name in needed:
                continue
            try:
                age = now.timestamp() - place.stat().st_mtime
            except FileNotFoundError:  # removed by its owner meanwhile
                continue
            if age > self.retention.total_seconds():
                with contextlib.suppress(CallsdError), self._doing("remove", place.name):
                    shutil.rmtree(place, ignore_errors=True)
                    self._forget(place.name)

    def _take_stock(self) -> None:
        """Read the uploads that an earlier daemon has left."""
        for place in self._directory.iterdir():
            with contextlib.suppress(OSError, msgspec.DecodeError):  # a draft, or not ours
                record = self._record(place.name)
                left = record.size_bytes - (place / "media").stat().st_size
                self._kept[place.name] = record
                if not (place / "complete").exists():
                    self._left[place.name] = max(left, 0)

    def _reserve(
        self, upload_id: str, record: UploadRecord, left: int, withheld_bytes: int
    ) -> None:
        """Reserve space for the missing bytes, if there is enough and the client may have it."""
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
        # In one step: a partly removed upload could neither be continued nor begun anew.
        (self._directory / upload_id).rename(draft := self._draft(upload_id))
        try:
            shutil.rmtree(draft)
        finally:
            self._forget(upload_id)

    def _draft(self, upload_id: str) -> Path:
        """A free path for an upload that is being created or removed."""
        draft = self._directory / f".{upload_id}"
        shutil.rmtree(draft, ignore_errors=True)
        return draft

    def _record(self, upload_id: str) -> UploadRecord:
        path = self._directory / upload_id / "upload.json"
        with naming(path):
            text = path.read_bytes()
        return msgspec.json.decode(text, type=UploadRecord)


def _refusal(
    reason: Reason, message: str, *, required: int, available: int, unit: str = "bytes of disk"
) -> CallsdError:
    metadata = {"required": str(required), "available": str(available), "unit": unit}
    return CallsdError(reason, message, metadata=metadata)
