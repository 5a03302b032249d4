# SPDX-License-Identifier: Apache-2.0

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.media import Uploads


SOUND = b"sound " * 500
SHA256 = hashlib.sha256(SOUND).hexdigest()
ID = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
OTHER_ID = "6fa459ea-ee8a-3ca4-894e-db77e160355e"
LIMIT_BYTES = 10_000
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
    return Uploads(directory, max_bytes=LIMIT_BYTES, retention=DAY)


def begin(uploads: Uploads, upload_id: str = ID) -> Path:
    """Begin the upload of SOUND."""
    return uploads.begin(upload_id, len(SOUND), SHA256, "maya")


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

        record, received, is_complete = uploads.status(ID)
        assert read(uploads) == SOUND
        assert (record.size_bytes, record.sha256, record.creator) == (len(SOUND), SHA256, "maya")
        assert (received, is_complete) == (len(SOUND), True)

    def test_in_pieces(self, uploads: Uploads, directory: Path) -> None:
        """An upload goes on where it was broken off, even by another daemon."""
        append(begin(uploads), SOUND[:1000])
        assert uploads.status(ID)[1:] == (1000, False)
        later = Uploads(directory, max_bytes=LIMIT_BYTES, retention=DAY)

        append(begin(later), SOUND[1000:])
        later.finish(ID)

        assert read(later) == SOUND

    def test_finished_twice(self, uploads: Uploads) -> None:
        """A client that did not hear the answer may ask again."""
        complete(uploads)
        begin(uploads)
        uploads.finish(ID)

        assert uploads.status(ID)[1:] == (len(SOUND), True)

    def test_largest(self, uploads: Uploads) -> None:
        """Exactly the limit is allowed."""
        path = uploads.begin(ID, LIMIT_BYTES, SHA256, "maya")

        assert path.stat().st_size == 0


class TestRefusals:
    """An upload that does not."""

    def test_too_large(self, uploads: Uploads, directory: Path) -> None:
        """More than the limit is refused before a byte is sent."""
        error = refused(lambda: uploads.begin(ID, LIMIT_BYTES + 1, SHA256, "maya"))

        assert error.reason is Reason.UPLOAD_TOO_LARGE
        assert error.metadata == {"size_bytes": "10001", "limit": "10000"}
        assert list(directory.iterdir()) == []

    def test_disk(self, uploads: Uploads, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the disk does not hold is refused before a byte is sent."""
        monkeypatch.setattr(
            shutil, "disk_usage", lambda _path: SimpleNamespace(free=len(SOUND) - 1)
        )

        error = refused(lambda: begin(uploads))

        assert error.reason is Reason.DISK_EXHAUSTED
        assert error.metadata == {"required": "3000", "available": "2999"}
        assert list(directory.iterdir()) == []

    @pytest.mark.parametrize(
        ("size", "sha256", "creator"),
        [(1, SHA256, "maya"), (len(SOUND), "0" * 64, "maya"), (len(SOUND), SHA256, "ivo")],
    )
    def test_begun_as_something_else(
        self, uploads: Uploads, size: int, sha256: str, creator: str
    ) -> None:
        """An id belongs to one file of one client; what is there stays."""
        append(begin(uploads), SOUND[:7])

        error = refused(lambda: uploads.begin(ID, size, sha256, creator))

        assert error.reason is Reason.UPLOAD_MISMATCH
        assert uploads.status(ID)[1:] == (7, False)

    def test_incomplete(self, uploads: Uploads) -> None:
        """An upload without all of its bytes is no file yet, and says how many it has."""
        append(begin(uploads), SOUND[:7])

        for attempt in (uploads.finish, uploads.check, uploads.open):
            error = refused(partial(attempt, ID))
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
            uploads.finish,
            uploads.status,
            uploads.check,
            uploads.open,
            uploads.remove,
        ):
            assert refused(partial(attempt, ID)).reason is Reason.UPLOAD_NOT_FOUND


class TestFullDisk:
    """No space is left, although there seemed to be."""

    @staticmethod
    def fail(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        """Let every sync fail."""

        def sync(descriptor: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", sync)

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
    def test_while_beginning(
        self, uploads: Uploads, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        """A full disk is named, and the upload can be begun when there is space again."""
        with monkeypatch.context() as full:
            self.fail(full, number)
            assert refused(lambda: begin(uploads)).reason is Reason.DISK_FULL

        complete(uploads)
        assert read(uploads) == SOUND

    def test_while_finishing(self, uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is not on the disk for good is not complete; what has arrived stays."""
        append(begin(uploads), SOUND)
        with monkeypatch.context() as full:
            self.fail(full, errno.ENOSPC)
            assert refused(lambda: uploads.finish(ID)).reason is Reason.DISK_FULL
        assert uploads.status(ID)[1:] == (len(SOUND), False)

        uploads.finish(ID)
        assert uploads.status(ID)[1:] == (len(SOUND), True)

    def test_other_trouble(self, uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
        """A disk that is broken is not called full."""
        self.fail(monkeypatch, errno.EIO)

        with pytest.raises(OSError, match="Input/output error"):
            begin(uploads)


class TestCrashes:
    """What an end at the wrong moment leaves behind."""

    def test_while_beginning(self, uploads: Uploads, directory: Path) -> None:
        """An upload that was not begun whole is begun anew."""
        draft = directory / f".{ID}"
        draft.mkdir()
        (draft / "upload.json").write_bytes(b'{"size')
        assert refused(lambda: uploads.status(ID)).reason is Reason.UPLOAD_NOT_FOUND

        complete(uploads)

        assert [place.name for place in directory.iterdir()] == [ID]

    def test_while_removing(
        self, uploads: Uploads, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An upload that was being removed is gone, and its id free."""
        complete(uploads)
        with monkeypatch.context() as crash:
            crash.setattr(shutil, "rmtree", lambda path, ignore_errors=False: None)
            uploads.remove(ID)
        assert refused(lambda: uploads.status(ID)).reason is Reason.UPLOAD_NOT_FOUND

        complete(uploads)

        assert [place.name for place in directory.iterdir()] == [ID]

    def test_record_is_on_the_disk_first(
        self, uploads: Uploads, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Before an upload has its name, what it shall be is synced: it is never half known."""
        synced: list[str] = []
        sync = os.fsync

        def watch(descriptor: int) -> None:
            synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", watch)
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
        uploads.remove(ID)

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

        assert before <= uploads.status(ID)[0].create_time <= datetime.now(UTC)
