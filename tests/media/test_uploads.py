# SPDX-License-Identifier: Apache-2.0

import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.media.uploads import UploadLimits, Uploads
from tests.helpers.syncs import watch_syncs


SOUND = b"sound " * 500
SHA256 = hashlib.sha256(SOUND).hexdigest()
ID = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
OTHER_ID = "6fa459ea-ee8a-3ca4-894e-db77e160355e"
THIRD_ID = "8c6bbbf0-3b8e-4c8f-9c58-0f1f5f4b7d11"
FOURTH_ID = "a0f3a1de-6b0f-4f0a-8f57-4bd6fd9f1c22"
FIFTH_ID = "c9d0c1c7-52a2-4a40-b6ff-6f0a4f0c3e33"
LIMIT_BYTES = 10_000
CLIENT_BYTES = 25_000
CLIENT_UPLOADS = 4
DAY = timedelta(days=1)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where uploads lie."""
    directory = tmp_path / "uploads"
    directory.mkdir()
    return directory


@pytest.fixture
def uploads(directory: Path) -> Uploads:
    """No uploads yet."""
    return opened(directory)


def opened(directory: Path) -> Uploads:
    """The uploads as a daemon that starts finds them."""
    limits = UploadLimits(
        max_bytes=LIMIT_BYTES, max_client_bytes=CLIENT_BYTES, max_client_uploads=CLIENT_UPLOADS
    )
    return Uploads(directory, limits=limits, retention=DAY, sees_all=lambda name: name == "boss")


def begin(
    uploads: Uploads,
    upload_id: str = ID,
    *,
    size_bytes: int = len(SOUND),
    sha256: str = SHA256,
    client: str = "maya",
    withheld_bytes: int = 0,
) -> Path:
    """Begin the upload of SOUND."""
    return uploads.begin(upload_id, size_bytes, sha256, client, withheld_bytes=withheld_bytes)


def append(path: Path, data: bytes) -> None:
    """Some bytes arrive."""
    with path.open("ab") as file:
        file.write(data)


def complete(uploads: Uploads, upload_id: str = ID) -> None:
    """Upload SOUND, whole."""
    append(begin(uploads, upload_id), SOUND)
    uploads.finish(upload_id)


def read(uploads: Uploads, upload_id: str = ID) -> bytes:
    """What a job reads of an upload."""
    with os.fdopen(uploads.open(upload_id), "rb") as file:
        return file.read()


def refused(work: Callable[[], object]) -> CallsdError:
    """What this is refused with."""
    with pytest.raises(CallsdError) as problem:
        work()
    return problem.value


class TestWhole:
    """An upload that goes well."""

    def test_complete(self, uploads: Uploads) -> None:
        """What was uploaded is the file that jobs read."""
        complete(uploads)

        record, received, is_complete = uploads.status(ID, "maya")
        assert read(uploads) == SOUND
        assert (record.size_bytes, record.sha256, record.creator) == (len(SOUND), SHA256, "maya")
        assert (received, is_complete) == (len(SOUND), True)

    def test_in_pieces(self, uploads: Uploads, directory: Path) -> None:
        """An upload goes on where it was broken off, even by another daemon."""
        append(begin(uploads), SOUND[:1000])
        assert uploads.status(ID, "maya")[1:] == (1000, False)
        later = opened(directory)

        append(begin(later), SOUND[1000:])
        later.finish(ID)

        assert read(later) == SOUND

    def test_finished_twice(self, uploads: Uploads) -> None:
        """A client that did not hear the answer may ask again."""
        complete(uploads)
        begin(uploads)
        uploads.finish(ID)

        assert uploads.status(ID, "maya")[1:] == (len(SOUND), True)

    def test_largest(self, uploads: Uploads) -> None:
        """Exactly the limit is allowed."""
        path = begin(uploads, size_bytes=LIMIT_BYTES)

        assert path.stat().st_size == 0


class TestRefusals:
    """An upload that does not."""

    def test_too_large(self, uploads: Uploads, directory: Path) -> None:
        """More than the limit is refused before a byte is sent."""
        error = refused(lambda: begin(uploads, size_bytes=LIMIT_BYTES + 1))

        assert error.reason is Reason.UPLOAD_TOO_LARGE
        assert error.metadata == {"size_bytes": "10001", "limit": "10000"}
        assert list(directory.iterdir()) == []

    @pytest.mark.parametrize(("size", "sha256"), [(1, SHA256), (len(SOUND), "0" * 64)])
    def test_begun_as_something_else(self, uploads: Uploads, size: int, sha256: str) -> None:
        """An id belongs to one file; what is there stays."""
        append(begin(uploads), SOUND[:7])

        error = refused(lambda: begin(uploads, size_bytes=size, sha256=sha256))

        assert error.reason is Reason.UPLOAD_MISMATCH
        assert uploads.status(ID, "maya")[1:] == (7, False)

    def test_incomplete(self, uploads: Uploads) -> None:
        """An upload without all of its bytes is no file yet, and says how many it has."""
        append(begin(uploads), SOUND[:7])

        for attempt in (
            partial(uploads.finish, ID),
            partial(uploads.check, ID, "maya"),
            partial(uploads.open, ID),
        ):
            error = refused(attempt)
            assert error.reason is Reason.UPLOAD_INCOMPLETE
            assert error.metadata == {"received_bytes": "7"}

    def test_all_there_but_never_verified(self, uploads: Uploads) -> None:
        """Bytes whose hash was never looked at are not used."""
        append(begin(uploads), SOUND)

        assert refused(lambda: uploads.open(ID)).reason is Reason.UPLOAD_INCOMPLETE

    @pytest.mark.parametrize("sent", [b"?" + SOUND[1:], SOUND + b"?"])
    def test_wrong_bytes(self, uploads: Uploads, directory: Path, sent: bytes) -> None:
        """Bytes that are not those announced are thrown away, and the client begins anew."""
        append(begin(uploads), sent)

        error = refused(lambda: uploads.finish(ID))

        assert error.reason is Reason.UPLOAD_MISMATCH
        assert error.metadata == {"sha256": hashlib.sha256(sent).hexdigest()}
        assert list(directory.iterdir()) == []
        complete(uploads)
        assert read(uploads) == SOUND

    def test_unknown(self, uploads: Uploads) -> None:
        """There is no upload where none was begun."""
        for attempt in (
            partial(uploads.finish, ID),
            partial(uploads.status, ID, "maya"),
            partial(uploads.check, ID, "maya"),
            partial(uploads.open, ID),
            partial(uploads.remove, ID, "maya"),
        ):
            assert refused(attempt).reason is Reason.UPLOAD_NOT_FOUND
        uploads.check_owner(ID, "maya")

    @pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff"])
    def test_strange(self, uploads: Uploads, directory: Path, content: bytes | None) -> None:
        """A directory that is no upload keeps nothing from starting, and is none."""
        (directory / ID).mkdir()
        if content is not None:
            (directory / ID / "upload.json").write_bytes(content)
        later = opened(directory)

        assert later.left_bytes == 0
        assert refused(lambda: later.status(ID, "maya")).reason is Reason.UPLOAD_NOT_FOUND
        assert refused(lambda: begin(later)).reason is Reason.UPLOAD_NOT_FOUND


class TestOwners:
    """An upload belongs to the client that began it."""

    @pytest.mark.parametrize("is_complete", [True, False])
    def test_others(self, uploads: Uploads, is_complete: bool) -> None:  # noqa: FBT001 - a parameter
        """For other clients it is not there, whatever they want of it, and stays as it is."""
        append(begin(uploads), SOUND)
        if is_complete:
            uploads.finish(ID)
        for attempt in (
            partial(begin, uploads, client="ivo"),
            partial(begin, uploads, client="ivo", size_bytes=1),
            partial(uploads.check_owner, ID, "ivo"),
            partial(uploads.status, ID, "ivo"),
            partial(uploads.check, ID, "ivo"),
            partial(uploads.remove, ID, "ivo"),
        ):
            assert refused(attempt).reason is Reason.UPLOAD_NOT_FOUND

        assert uploads.status(ID, "maya")[1:] == (len(SOUND), is_complete)

    def test_who_sees_all(self, uploads: Uploads) -> None:
        """Who administers the daemon may use all of them; they stay their owner's."""
        append(begin(uploads), SOUND[:7])
        append(begin(uploads, client="boss"), SOUND[7:])
        uploads.finish(ID)
        uploads.check(ID, "boss")

        assert uploads.status(ID, "boss")[0].creator == "maya"
        uploads.remove(ID, "boss")
        assert refused(lambda: uploads.status(ID, "maya")).reason is Reason.UPLOAD_NOT_FOUND


class TestSpace:
    """Uploads leave what is not theirs, and get what they were promised."""

    @pytest.fixture
    def disk(self, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
        """A disk with room for three of SOUND."""
        disk = SimpleNamespace(free=3 * len(SOUND))
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: disk)
        return disk

    def test_disk(self, uploads: Uploads, directory: Path, disk: SimpleNamespace) -> None:
        """What the disk does not hold is refused before a byte is sent, with figures."""
        disk.free = len(SOUND) - 1
        error = refused(lambda: begin(uploads))

        assert error.reason is Reason.DISK_EXHAUSTED
        assert error.metadata == {
            "required": "3000",
            "available": "2999",
            "unit": "bytes of disk",
        }
        assert list(directory.iterdir()) == []
        assert uploads.left_bytes == 0

    def test_floor(self, uploads: Uploads, disk: SimpleNamespace) -> None:
        """What is kept free, or promised to jobs, is not touched: to the byte."""
        withheld = disk.free - len(SOUND)
        error = refused(lambda: begin(uploads, withheld_bytes=withheld + 1))
        assert error.metadata["available"] == "2999"

        begin(uploads, withheld_bytes=withheld)

    @pytest.mark.usefixtures("disk")
    def test_below_the_floor(self, uploads: Uploads) -> None:
        """Below the floor not a byte is accepted, and none is said to be free."""
        error = refused(lambda: begin(uploads, size_bytes=1, withheld_bytes=2**50))

        assert (error.reason, error.metadata["available"]) == (Reason.DISK_EXHAUSTED, "0")

    @pytest.mark.usefixtures("disk")
    def test_several(self, uploads: Uploads) -> None:
        """Several that are sent at once are not promised the same space, whoever sends them."""
        begin(uploads)
        begin(uploads, OTHER_ID, size_bytes=2 * len(SOUND), client="ivo")
        assert uploads.left_bytes == 3 * len(SOUND)

        error = refused(lambda: begin(uploads, THIRD_ID, size_bytes=1))

        assert error.metadata["available"] == "0"
        uploads.remove(OTHER_ID, "ivo")
        begin(uploads, THIRD_ID, size_bytes=2 * len(SOUND))

    def test_promise_is_kept(
        self, uploads: Uploads, directory: Path, disk: SimpleNamespace
    ) -> None:
        """What has arrived is on the disk and promised no more; the rest is, to the next daemon."""
        with begin(uploads).open("ab") as file:
            uploads.append(ID, file, SOUND[:1000])
        assert uploads.left_bytes == 2000
        disk.free -= 1000

        later = opened(directory)

        assert later.left_bytes == 2000
        begin(later, withheld_bytes=disk.free - 2000)
        error = refused(lambda: begin(later, withheld_bytes=disk.free - 1999))
        assert (error.metadata["required"], error.metadata["available"]) == ("2000", "1999")
        append(begin(later), SOUND[1000:])
        later.finish(ID)
        assert later.left_bytes == 0

    def test_whole_ones_need_none(self, uploads: Uploads, disk: SimpleNamespace) -> None:
        """To name a complete upload again takes no space, on a full disk either."""
        complete(uploads)
        disk.free = 0

        begin(uploads, withheld_bytes=2**50)
        uploads.finish(ID)

    def test_expired(self, uploads: Uploads) -> None:
        """What nobody has finished in time is promised no more."""
        begin(uploads)
        uploads.remove_expired(datetime.now(UTC) + 2 * DAY, frozenset())

        assert uploads.left_bytes == 0


class TestQuota:
    """What one client may keep here."""

    def test_bytes(self, uploads: Uploads, directory: Path) -> None:
        """All of a client's uploads together have a limit, complete or not, kept over restarts."""
        complete(uploads)
        begin(uploads, OTHER_ID, size_bytes=LIMIT_BYTES)
        begin(uploads, THIRD_ID, size_bytes=LIMIT_BYTES)
        for one in (uploads, opened(directory)):
            error = refused(partial(begin, one, FOURTH_ID, size_bytes=2001))
            assert error.reason is Reason.DISK_EXHAUSTED
            assert (error.metadata["required"], error.metadata["available"]) == ("2001", "2000")
        begin(uploads, FIFTH_ID, size_bytes=LIMIT_BYTES, client="ivo")

        begin(uploads, FOURTH_ID, size_bytes=2000)

    def test_count(self, uploads: Uploads, directory: Path) -> None:
        """So has their number; who deletes one may send another, and known ones go on."""
        ids = (ID, OTHER_ID, THIRD_ID, FOURTH_ID)
        for upload_id in ids:
            begin(uploads, upload_id, size_bytes=1)
        for one in (uploads, opened(directory)):
            error = refused(partial(begin, one, FIFTH_ID, size_bytes=1))
            assert error.reason is Reason.SLOTS_EXHAUSTED
            assert error.metadata == {"required": "1", "available": "0", "unit": "uploads"}
        begin(uploads, ID, size_bytes=1)
        begin(uploads, FIFTH_ID, size_bytes=1, client="ivo")
        uploads.remove(ID, "maya")

        begin(uploads, ID, size_bytes=1)

    def test_at_once(self, uploads: Uploads) -> None:
        """Who begins many at once gets no more than one after the other."""
        names = [f"1b4e28ba-2fa1-11d2-883f-{number:012d}" for number in range(16)]

        def attempt(name: str) -> bool:
            try:
                begin(uploads, name, size_bytes=1)
            except CallsdError:
                return False
            return True

        with ThreadPoolExecutor(len(names)) as threads:
            assert sum(threads.map(attempt, names)) == CLIENT_UPLOADS

    def test_what_failed_does_not_count(
        self, uploads: Uploads, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What could not be begun, or was thrown away, takes nothing of it."""
        for _ in range(2 * CLIENT_UPLOADS):
            with monkeypatch.context() as full:
                TestDisk.fail(full, errno.ENOSPC)
                with pytest.raises(OSError, match="No space left"):
                    begin(uploads)
            append(begin(uploads), b"?" * len(SOUND))
            refused(lambda: uploads.finish(ID))

        assert uploads.left_bytes == 0


class TestVerifying:
    """The hash of an upload is computed once."""

    @pytest.fixture
    def hashed(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """An entry for each file that was read."""
        hashed: list[int] = []
        digest = hashlib.file_digest

        def watch(file: Any, name: str) -> Any:
            hashed.append(1)
            return digest(file, name)

        monkeypatch.setattr(hashlib, "file_digest", watch)
        return hashed

    def test_once(self, uploads: Uploads, directory: Path, hashed: list[int]) -> None:
        """However often it is named afterwards, to the next daemon as well: it is read once."""
        complete(uploads)
        for one in (uploads, opened(directory)):
            for _ in range(10):
                begin(one)
                one.finish(ID)

        assert len(hashed) == 1

    def test_one_at_a_time(
        self, uploads: Uploads, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While it is verified, for a stream that may have gone, nobody verifies or removes it."""
        reading, go_on = threading.Event(), threading.Event()
        digest = hashlib.file_digest

        def slow(file: Any, name: str) -> Any:
            reading.set()
            assert go_on.wait(10)
            return digest(file, name)

        monkeypatch.setattr(hashlib, "file_digest", slow)
        append(begin(uploads), SOUND)
        with ThreadPoolExecutor(1) as threads:
            done = threads.submit(uploads.finish, ID)
            try:
                assert reading.wait(10)
                for attempt in (
                    partial(uploads.finish, ID),
                    partial(uploads.remove, ID, "maya"),
                    uploads.sending(ID).__enter__,
                ):
                    assert refused(attempt).reason is Reason.UPLOAD_BUSY
                uploads.remove_expired(datetime.now(UTC) + 2 * DAY, frozenset())
            finally:
                go_on.set()
            done.result(10)

        assert read(uploads) == SOUND

    def test_while_it_is_sent(self, uploads: Uploads) -> None:
        """What is being sent is not removed, does not expire, and is not sent twice."""
        append(begin(uploads), SOUND)
        with uploads.sending(ID):
            for attempt in (partial(uploads.remove, ID, "maya"), uploads.sending(ID).__enter__):
                assert refused(attempt).reason is Reason.UPLOAD_BUSY
            uploads.remove_expired(datetime.now(UTC) + 2 * DAY, frozenset())
            uploads.finish(ID)

        uploads.remove(ID, "maya")


class TestDisk:
    """The disk is full, although there seemed to be space, or fails."""

    @staticmethod
    def fail(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        """Let every sync fail."""

        def sync(descriptor: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", sync)

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
    def test_while_beginning(
        self, uploads: Uploads, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        """The file is named, and the upload can be begun when the disk is well again."""
        with monkeypatch.context() as failing:
            self.fail(failing, number)
            with pytest.raises(OSError, match=r"upload\.json"):
                begin(uploads)

        complete(uploads)
        assert read(uploads) == SOUND

    def test_while_finishing(self, uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is not on the disk for good is not complete; what has arrived stays."""
        append(begin(uploads), SOUND)
        with monkeypatch.context() as failing:
            self.fail(failing, errno.ENOSPC)
            with pytest.raises(OSError, match="media"):
                uploads.finish(ID)
        assert uploads.status(ID, "maya")[1:] == (len(SOUND), False)

        uploads.finish(ID)
        assert uploads.status(ID, "maya")[1:] == (len(SOUND), True)


class TestCrashes:
    """What an end at the wrong moment leaves behind."""

    def test_while_beginning(self, uploads: Uploads, directory: Path) -> None:
        """An upload that was not begun whole is begun anew."""
        draft = directory / f".{ID}"
        draft.mkdir()
        (draft / "upload.json").write_bytes(b'{"size')
        assert refused(lambda: uploads.status(ID, "maya")).reason is Reason.UPLOAD_NOT_FOUND

        complete(uploads)

        assert [place.name for place in directory.iterdir()] == [ID]

    def test_while_removing(
        self, uploads: Uploads, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An upload that was being removed is gone, and its id free."""
        complete(uploads)
        with monkeypatch.context() as crash:
            crash.setattr(shutil, "rmtree", lambda path, ignore_errors=False: None)
            uploads.remove(ID, "maya")
        assert refused(lambda: uploads.status(ID, "maya")).reason is Reason.UPLOAD_NOT_FOUND

        complete(uploads)

        assert [place.name for place in directory.iterdir()] == [ID]

    def test_record_is_on_the_disk_first(
        self, uploads: Uploads, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Before an upload has its name, what it shall be is synced: it is never half known."""
        synced = watch_syncs(monkeypatch)
        begin(uploads)
        assert synced == ["upload.json"]

        append(begin(uploads), SOUND)
        uploads.finish(ID)

        assert synced[1:] == ["media", ID, "uploads"]


class TestEnd:
    """Uploads are removed, by their owner or by time."""

    def test_removed(self, uploads: Uploads, directory: Path) -> None:
        """A removed upload leaves nothing."""
        complete(uploads)
        uploads.remove(ID, "maya")

        assert list(directory.iterdir()) == []

    def test_expired(self, uploads: Uploads, directory: Path) -> None:
        """After the retention an upload goes, complete or not, unless a job needs it."""
        complete(uploads)
        begin(uploads, OTHER_ID)
        (directory / ".draft").mkdir()
        now = datetime.now(UTC)

        uploads.remove_expired(now + DAY - timedelta(minutes=1), frozenset())
        assert {place.name for place in directory.iterdir()} == {ID, OTHER_ID, ".draft"}

        uploads.remove_expired(now + DAY + timedelta(minutes=1), frozenset({ID}))
        assert [place.name for place in directory.iterdir()] == [ID]

        uploads.remove_expired(now + DAY + timedelta(minutes=1), frozenset())
        assert list(directory.iterdir()) == []

    def test_removed_meanwhile(
        self, uploads: Uploads, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An upload that its owner removes in the same moment disturbs nothing."""
        begin(uploads)
        begin(uploads, OTHER_ID)
        places = [directory / "gone", directory / ID, directory / OTHER_ID]
        monkeypatch.setattr(Path, "iterdir", lambda _self: iter(places))

        uploads.remove_expired(datetime.now(UTC) + 2 * DAY, frozenset())

        assert not any(place.exists() for place in places)

    def test_record_of_the_time(self, uploads: Uploads) -> None:
        """An upload knows when it was begun."""
        before = datetime.now(UTC)
        begin(uploads)

        assert before <= uploads.status(ID, "maya")[0].create_time <= datetime.now(UTC)
