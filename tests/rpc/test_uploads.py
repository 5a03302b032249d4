# SPDX-License-Identifier: Apache-2.0
"""MediaService: what arrives is what was announced, whole, or it is not there."""

import hashlib
import random
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace

import grpc
import pytest

from callsd.v1.job_pb2 import JOB_STATE_SUCCEEDED
from callsd.v1.media_pb2 import (
    DeleteUploadRequest,
    GetUploadRequest,
    Upload,
    UploadChunk,
    UploadMediaRequest,
    UploadStart,
)
from callsd_daemon.tokens import TokenFile
from tests.conftest import StartDaemon
from tests.helpers.api import Api
from tests.helpers.daemon import CALM, GIB, Daemon
from tests.helpers.invariants import assert_invariants
from tests.helpers.reasons import refused
from tests.helpers.waiting import eventually


MIB = 1024**2
CHUNK_BYTES = 256 * 1024
CONTENT = random.Random(7).randbytes(3 * CHUNK_BYTES + 17)  # noqa: S311 - content, not a secret

Messages = Iterator[UploadMediaRequest]


def start(upload_id: str, content: bytes = CONTENT, **fields: object) -> UploadMediaRequest:
    """The first message."""
    values: dict[str, object] = {
        "upload_id": upload_id,
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        **fields,
    }
    return UploadMediaRequest(start=UploadStart(**values))  # type: ignore[arg-type]


def chunks(content: bytes = CONTENT, *, offset: int = 0, end: int | None = None) -> Messages:
    """All other messages."""
    last = len(content) if end is None else end
    for at in range(offset, last, CHUNK_BYTES):
        data = content[at : min(at + CHUNK_BYTES, last)]
        yield UploadMediaRequest(chunk=UploadChunk(offset=at, data=data))


def send(api: Api, *messages: UploadMediaRequest) -> Upload:
    """Make one request of these messages."""
    return api.media.UploadMedia(iter(messages), timeout=20, metadata=api.metadata).upload


def get(api: Api, upload_id: str) -> Upload:
    """How an upload stands."""
    return api(api.media.GetUpload, GetUploadRequest(name=f"uploads/{upload_id}")).upload


@pytest.fixture
def upload_id() -> str:
    """A new one."""
    return str(uuid.uuid4())


class TestWhole:
    """Uploads that come to their end."""

    def test_used_by_a_job(self, api: Api, server: Daemon, upload_id: str) -> None:
        """An upload is stored as sent, and a job can read it."""
        upload = send(api, start(upload_id), *chunks())
        request = server.request()
        request.job.transcription.tracks[0].upload = upload.name
        job = server.wait(api, api(api.jobs.CreateJob, request).job.name)

        assert upload == get(api, upload_id)
        assert upload.complete
        assert upload.received_bytes == upload.size_bytes == len(CONTENT)
        assert (server.state / "uploads" / upload_id / "media").read_bytes() == CONTENT
        assert job.state == JOB_STATE_SUCCEEDED
        assert_invariants(server)

    def test_again(self, api: Api, upload_id: str) -> None:
        """Repeating a complete upload, as after a lost answer, is harmless."""
        first = send(api, start(upload_id), *chunks())

        assert send(api, start(upload_id)) == first

    @pytest.mark.reason("UPLOAD_NOT_FOUND", "JOB_STATE_CONFLICT")
    def test_delete(self, api: Api, server: Daemon, upload_id: str) -> None:
        """An upload that a job still needs is kept; afterwards it can be removed."""
        name = send(api, start(upload_id), *chunks()).name
        request = server.request("until read")
        request.job.transcription.tracks[0].upload = name
        job = api(api.jobs.CreateJob, request).job
        with refused("JOB_STATE_CONFLICT", grpc.StatusCode.FAILED_PRECONDITION):
            api(api.media.DeleteUpload, DeleteUploadRequest(name=name))
        (server.root / "tmp" / "read").touch()
        server.wait(api, job.name)
        api(api.media.DeleteUpload, DeleteUploadRequest(name=name))
        with refused("UPLOAD_NOT_FOUND", grpc.StatusCode.NOT_FOUND):
            get(api, upload_id)
        with refused("UPLOAD_NOT_FOUND"):
            api(api.media.DeleteUpload, DeleteUploadRequest(name=name))

        assert not (server.state / "uploads" / upload_id).exists()


class TestCut:
    """Uploads that break."""

    @pytest.mark.reason("UPLOAD_INCOMPLETE")
    def test_resume(self, api: Api, server: Daemon, upload_id: str) -> None:
        """After a cut a client asks how much is there, and goes on from that byte."""
        with refused("UPLOAD_INCOMPLETE", grpc.StatusCode.FAILED_PRECONDITION) as refusal:
            send(api, start(upload_id), *chunks(end=CHUNK_BYTES + 5))
        upload = get(api, upload_id)
        assert not upload.complete
        assert upload.received_bytes == CHUNK_BYTES + 5
        assert refusal.error.metadata["received_bytes"] == str(CHUNK_BYTES + 5)
        request = server.request()
        request.job.transcription.tracks[0].upload = upload.name
        with refused("UPLOAD_INCOMPLETE"):
            api(api.jobs.CreateJob, request)

        done = send(api, start(upload_id), *chunks(offset=CHUNK_BYTES + 5))

        assert done.complete
        assert (server.state / "uploads" / upload_id / "media").read_bytes() == CONTENT

    def test_client_vanishes(self, api: Api, upload_id: str) -> None:
        """What a client sent before it vanished is kept, and its stream does not block the next."""
        never = threading.Event()

        def some() -> Messages:
            yield start(upload_id)
            yield from chunks(end=CHUNK_BYTES)
            never.wait(20)

        call = api.media.UploadMedia.future(some(), timeout=20, metadata=api.metadata)
        eventually(lambda: _received(api, upload_id) == CHUNK_BYTES, "the first chunk is there")
        call.cancel()
        never.set()

        def finish() -> bool:
            try:
                return send(api, start(upload_id), *chunks(offset=CHUNK_BYTES)).complete
            except grpc.RpcError:
                return False

        eventually(finish, "the upload goes on")

    def test_daemon_killed(self, server: Daemon, upload_id: str) -> None:
        """An upload goes on with the next daemon."""
        with refused("UPLOAD_INCOMPLETE"):
            send(server.api(), start(upload_id), *chunks(end=CHUNK_BYTES))
        server.kill()
        api = server.start().api()

        assert get(api, upload_id).received_bytes == CHUNK_BYTES
        assert send(api, start(upload_id), *chunks(offset=CHUNK_BYTES)).complete


def _received(api: Api, upload_id: str) -> int:
    try:
        return get(api, upload_id).received_bytes
    except grpc.RpcError:
        return -1


def stranger(one: Daemon, *more: str) -> Api:
    """The API with another token that may create jobs."""
    tokens = TokenFile(one.state / "tokens.json")
    return one.api(tokens.create(f"other-{uuid.uuid4().hex[:8]}", ("jobs.write", *more)))


class TestOthers:
    """An upload belongs to the token that began it."""

    @pytest.mark.reason("UPLOAD_NOT_FOUND")
    def test_not_there(self, server: Daemon, upload_id: str) -> None:
        """For another token it is not there: to look at, go on with, remove or have transcribed."""
        owner, other = stranger(server), stranger(server)
        with refused("UPLOAD_INCOMPLETE"):
            send(owner, start(upload_id), *chunks(end=CHUNK_BYTES))
        name = f"uploads/{upload_id}"
        request = server.request()
        request.job.transcription.tracks[0].upload = name
        for _ in range(2):
            for attempt in (
                lambda: get(other, upload_id),
                lambda: send(other, start(upload_id), *chunks(offset=CHUNK_BYTES)),
                lambda: send(other, start(upload_id, b"x")),
                lambda: other(other.media.DeleteUpload, DeleteUploadRequest(name=name)),
                lambda: other(other.jobs.CreateJob, request),
            ):
                with refused("UPLOAD_NOT_FOUND", grpc.StatusCode.NOT_FOUND):
                    attempt()
            arrived = get(owner, upload_id).received_bytes
            assert send(owner, start(upload_id), *chunks(offset=arrived)).complete

        owner(owner.jobs.CreateJob, request)

    @pytest.mark.reason("UPLOAD_NOT_FOUND")
    def test_not_busy_either(self, server: Daemon, upload_id: str) -> None:
        """While it is sent, or a job needs it, it is not there for another token all the same."""
        owner, other, never = stranger(server), stranger(server), threading.Event()

        def slow() -> Messages:
            yield start(upload_id)
            yield from chunks(end=CHUNK_BYTES)
            never.wait(20)
            yield from chunks(offset=CHUNK_BYTES)

        call = owner.media.UploadMedia.future(slow(), timeout=20, metadata=owner.metadata)
        eventually(lambda: _received(owner, upload_id) == CHUNK_BYTES, "the upload is under way")
        deletion = DeleteUploadRequest(name=f"uploads/{upload_id}")
        with refused("UPLOAD_NOT_FOUND"):
            send(other, start(upload_id))
        with refused("UPLOAD_NOT_FOUND"):
            other(other.media.DeleteUpload, deletion)
        never.set()
        assert call.result().upload.complete
        request = server.request("until taken")
        request.job.transcription.tracks[0].upload = deletion.name
        job = owner(owner.jobs.CreateJob, request).job
        with refused("UPLOAD_NOT_FOUND"):
            other(other.media.DeleteUpload, deletion)
        (server.root / "tmp" / "taken").touch()
        server.wait(server.api(), job.name)

    def test_administrators(self, api: Api, server: Daemon, upload_id: str) -> None:
        """The owner of the daemon and who has the scope admin may use those of all."""
        admin = stranger(server, "admin")
        name = send(stranger(server), start(upload_id), *chunks()).name
        request = server.request()
        request.job.transcription.tracks[0].upload = name
        for who in (api, admin):
            assert get(who, upload_id).complete
            job = who(who.jobs.CreateJob, request).job
            assert server.wait(api, job.name).state == JOB_STATE_SUCCEEDED
        admin(admin.media.DeleteUpload, DeleteUploadRequest(name=name))


@pytest.fixture(scope="module")
def sparing(shared_daemon: StartDaemon) -> Daemon:
    """A daemon that takes few uploads, and small ones."""
    return shared_daemon(
        config={
            "media": {
                "max_upload_bytes": 1000,
                "max_client_uploads": 2,
                "max_client_upload_bytes": 10,
            }
        }
    )


class TestRefused:
    """Uploads that are not in order."""

    @pytest.mark.reason("UPLOAD_MISMATCH", "UPLOAD_NOT_FOUND")
    def test_wrong_bytes(self, api: Api, upload_id: str) -> None:
        """Bytes with another hash are thrown away, and the id can be used anew."""
        wrong = b"x" + CONTENT[1:]
        with refused("UPLOAD_MISMATCH", grpc.StatusCode.INVALID_ARGUMENT):
            send(api, start(upload_id), *chunks(wrong))
        with refused("UPLOAD_NOT_FOUND"):
            get(api, upload_id)

        assert send(api, start(upload_id), *chunks()).complete

    @pytest.mark.reason("UPLOAD_MISMATCH")
    def test_other_file(self, api: Api, upload_id: str) -> None:
        """An id that was begun as something else is refused."""
        with refused("UPLOAD_INCOMPLETE"):
            send(api, start(upload_id), *chunks(end=CHUNK_BYTES))
        for message in (start(upload_id, CONTENT[:-1]), start(upload_id, sha256="0" * 64)):
            with refused("UPLOAD_MISMATCH"):
                send(api, message)

    @pytest.mark.reason("UPLOAD_MISMATCH")
    @pytest.mark.parametrize("offset", [1, -1, CHUNK_BYTES, 2**63 - 1])
    def test_wrong_place(self, api: Api, upload_id: str, offset: int) -> None:
        """A chunk that does not follow the last one is refused, with where it should be."""
        chunk = UploadMediaRequest(chunk=UploadChunk(offset=offset, data=b"abc"))
        with refused("UPLOAD_MISMATCH") as refusal:
            send(api, start(upload_id), chunk)

        assert refusal.error.metadata["received_bytes"] == "0"

    @pytest.mark.reason("UPLOAD_MISMATCH")
    def test_more_than_announced(self, api: Api, upload_id: str) -> None:
        """Not a byte more is stored than was announced."""
        with refused("UPLOAD_MISMATCH"):
            send(api, start(upload_id, b"abc"), *chunks(b"abcd"))

        assert get(api, upload_id).received_bytes == 0

    @pytest.mark.reason("UPLOAD_TOO_LARGE")
    def test_too_large(self, sparing: Daemon, upload_id: str) -> None:
        """What is beyond the limit is refused before a byte is stored."""
        with refused("UPLOAD_TOO_LARGE", grpc.StatusCode.INVALID_ARGUMENT) as refusal:
            send(sparing.api(), start(upload_id), *chunks())

        assert refusal.error.metadata["limit"] == "1000"
        assert not (sparing.state / "uploads" / upload_id).exists()

    @pytest.mark.reason("DISK_EXHAUSTED")
    def test_below_the_floor(self, daemon: StartDaemon, upload_id: str) -> None:
        """Where jobs are refused for want of disk space, uploads are: not a byte is accepted."""
        one = daemon(config={"admission": {"headroom_disk_bytes": 2**50}})
        with refused("DISK_EXHAUSTED", grpc.StatusCode.RESOURCE_EXHAUSTED) as refusal:
            send(one.api(), start(upload_id, b"x"), *chunks(b"x"))

        assert refusal.error.metadata["required"] == "1"
        assert refusal.error.metadata["available"] == "0"
        assert list((one.state / "uploads").iterdir()) == []

    @pytest.mark.reason("DISK_EXHAUSTED")
    def test_promised_to_an_upload(self, daemon: StartDaemon, upload_id: str) -> None:
        """Space that an upload has declared is not promised to a job, until the upload is gone."""
        room = replace(CALM, disk_free_bytes=GIB + 65 * MIB)
        one = daemon(machine=room, config={"admission": {"headroom_disk_bytes": GIB}})
        api = one.api()
        with refused("UPLOAD_INCOMPLETE"):
            send(api, start(upload_id, size_bytes=2 * MIB), *chunks(end=CHUNK_BYTES))
        with refused("DISK_EXHAUSTED") as refusal:
            one.create(api)
        one.restart()
        with refused("DISK_EXHAUSTED"):
            one.create(api := one.api())
        api(api.media.DeleteUpload, DeleteUploadRequest(name=f"uploads/{upload_id}"))

        assert float(refusal.error.metadata["available"]) == pytest.approx(
            63 * MIB + CHUNK_BYTES, rel=1e-4
        )
        assert one.wait(api, one.create(api).job.name).state == JOB_STATE_SUCCEEDED

    @pytest.mark.reason("SLOTS_EXHAUSTED", "DISK_EXHAUSTED")
    def test_quota(self, sparing: Daemon) -> None:
        """One client's uploads have a limit by count and by bytes; another client's are apart."""
        api, other = stranger(sparing), stranger(sparing)
        first, second = str(uuid.uuid4()), str(uuid.uuid4())
        send(api, start(first, b"abcdefg"), *chunks(b"abcdefg"))
        with refused("DISK_EXHAUSTED", grpc.StatusCode.RESOURCE_EXHAUSTED) as refusal:
            send(api, start(second, b"abcd"), *chunks(b"abcd"))
        assert refusal.error.metadata["required"] == "4"
        assert refusal.error.metadata["available"] == "3"
        send(api, start(second, b"abc"), *chunks(b"abc"))
        with refused("SLOTS_EXHAUSTED", grpc.StatusCode.RESOURCE_EXHAUSTED) as refusal:
            send(api, start(str(uuid.uuid4()), b"x"), *chunks(b"x"))
        assert refusal.error.metadata["unit"] == "uploads"
        assert send(other, start(str(uuid.uuid4()), b"abc"), *chunks(b"abc")).complete
        api(api.media.DeleteUpload, DeleteUploadRequest(name=f"uploads/{first}"))

        assert send(api, start(str(uuid.uuid4()), b"abc"), *chunks(b"abc")).complete

    @pytest.mark.reason("FIELD_INVALID")
    def test_first_message(self, api: Api, upload_id: str) -> None:
        """The first message says what is coming, in order; all that is wrong is named at once."""
        for messages in ((), tuple(chunks(b"abc")), (UploadMediaRequest(),)):
            with refused("FIELD_INVALID", grpc.StatusCode.INVALID_ARGUMENT):
                send(api, *messages)
        bad = start("../../etc", size_bytes=0, sha256="ABC")
        with refused("FIELD_INVALID") as refusal:
            send(api, bad)

        fields = {violation.field for violation in refusal.error.field_violations}
        assert fields == {"start.upload_id", "start.size_bytes", "start.sha256"}

    @pytest.mark.reason("FIELD_INVALID")
    @pytest.mark.parametrize("size", [0, CHUNK_BYTES + 1])
    def test_chunk_size(self, api: Api, upload_id: str, size: int) -> None:
        """Chunks have 1 byte to 256 KiB."""
        chunk = UploadMediaRequest(chunk=UploadChunk(data=b"x" * size))
        with refused("FIELD_INVALID"):
            send(api, start(upload_id), chunk)

    @pytest.mark.reason("UPLOAD_BUSY")
    def test_two_at_once(self, api: Api, upload_id: str) -> None:
        """One upload is sent by one stream at a time, and not removed meanwhile."""
        never = threading.Event()

        def slow() -> Messages:
            yield start(upload_id)
            yield from chunks(end=CHUNK_BYTES)
            never.wait(20)

        call = api.media.UploadMedia.future(slow(), timeout=20, metadata=api.metadata)
        eventually(
            lambda: _received(api, upload_id) == CHUNK_BYTES, "the first stream is under way"
        )
        with refused("UPLOAD_BUSY", grpc.StatusCode.ABORTED):
            send(api, start(upload_id))
        with refused("UPLOAD_BUSY", grpc.StatusCode.ABORTED):
            api(api.media.DeleteUpload, DeleteUploadRequest(name=f"uploads/{upload_id}"))
        never.set()
        assert call.code() is grpc.StatusCode.FAILED_PRECONDITION
