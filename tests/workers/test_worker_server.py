# SPDX-License-Identifier: Apache-2.0
"""Who is let in, and what is said at the server."""

import asyncio
import hashlib
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import Outcome
from callsd_daemon.files import FilePool
from callsd_daemon.kinds import Assignment
from callsd_daemon.workers.session import conversation, messages
from callsd_daemon.workers.session import server as module
from callsd_daemon.workers.session.server import WorkerServer
from callsd_daemon.workers.slot import WorkerSlot
from callsd_daemon.workers.takeover import Ask
from callsd_ipc.names import OUTCOME
from callsd_ipc.v1 import worker_pb2, worker_pb2_grpc

from .conftest import GENERATION, JOB, SOUND, hello


if TYPE_CHECKING:
    from callsd_ipc.v1.worker_pb2_grpc import WorkerServiceAsyncStub as Stub


WAIT_SECONDS = 10.0
MANY_ORDERS, LONG_NAME = 10_000, "x" * 10_000
"""More than gRPC takes from one who sends to somebody that reads nothing: 100 MB."""

TEXT = b"what was said"
ARTIFACT = worker_pb2.ArtifactFile(
    file_name="words.txt",
    media_type="text/plain",
    size_bytes=len(TEXT),
    sha256=hashlib.sha256(TEXT).hexdigest(),
)

Report = worker_pb2.SessionRequest


@pytest.fixture
async def stub(server: WorkerServer) -> "AsyncIterator[Stub]":
    """A worker's end of the server."""
    async with grpc.aio.insecure_channel(server.endpoint(is_local=True).address) as channel:
        yield worker_pb2_grpc.WorkerServiceStub(channel)


class Session:
    """A worker's session, report by report."""

    def __init__(self, stub: "Stub", *reports: Report) -> None:
        self._reports: asyncio.Queue[Report | None] = asyncio.Queue()
        for report in reports:
            self._reports.put_nowait(report)
        self.call: Any = stub.Session(self._requests())

    async def _requests(self) -> AsyncIterator[Report]:
        while (report := await self._reports.get()) is not None:
            yield report

    def say(self, **report: Any) -> None:
        """Report something."""
        self._reports.put_nowait(Report(**report))

    def hang_up(self) -> None:
        """Say no more."""
        self._reports.put_nowait(None)

    async def order(self) -> worker_pb2.SessionResponse | None:
        """The next order; None when the session has ended."""
        found = await asyncio.wait_for(self.call.read(), WAIT_SECONDS)
        return None if found is grpc.aio.EOF else found

    async def orders(self) -> list[str | None]:
        """What the rest of the orders are."""
        found: list[str | None] = []
        while (order := await self.order()) is not None:
            found.append(order.WhichOneof("order"))
        return found


Dial = Callable[..., Session]


@pytest.fixture
def dial(stub: "Stub") -> Iterator[Dial]:
    """Begins sessions; options are those of the hello."""
    sessions: list[Session] = []

    def begin(**changes: object) -> Session:
        sessions.append(Session(stub, Report(hello=hello(**changes))))
        return sessions[-1]

    yield begin
    for session in sessions:
        session.call.cancel()


async def refused(work: Any) -> grpc.StatusCode:
    """How this is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as problem:
        await asyncio.wait_for(work, WAIT_SECONDS)
    return problem.value.code()


class TestHello:
    """Who is let in."""

    async def test_its_worker(self, dial: Dial, slot: WorkerSlot) -> None:
        """The worker with the token is told how much of its log is there, and its work."""
        await slot.log.take(0, b"words")
        session = dial()
        first, second = await session.order(), await session.order()

        assert first == worker_pb2.SessionResponse(log_kept=worker_pb2.LogKept(offset=5))
        assert second is not None
        assert second.assignment.transcription.model_name == "base"
        assert slot.arrived.is_set()

    async def test_one_that_knows_its_work(self, dial: Dial, slot: WorkerSlot) -> None:
        """A worker that dials again is not given its work again, nor is that looked up."""
        session = dial(is_assigned=True)
        session.hang_up()

        assert await session.orders() == ["log_kept"]
        assert slot.arrived.is_set()
        assert slot._assignment is None

    async def test_of_the_release_before(self, dial: Dial, slot: WorkerSlot) -> None:
        """A worker of the version before, which has its work, is let in and reports."""
        session = dial(protocol_version=1)
        session.say(status=worker_pb2.Status(phase="working"))
        session.hang_up()

        assert await session.orders() == ["log_kept"]
        assert slot.progress is not None
        assert slot.progress.phase == "working"

    @pytest.mark.parametrize("version", [-1, 0, 3])
    async def test_of_another_release(self, dial: Dial, slot: WorkerSlot, version: int) -> None:
        """A worker whose words we do not know is told so, with the versions that we know."""
        with pytest.raises(grpc.aio.AioRpcError) as problem:
            await dial(protocol_version=version).order()

        assert problem.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert f"versions 1 to 2 with its workers, not {version}" in str(problem.value.details())
        assert not slot.arrived.is_set()

    @pytest.mark.parametrize(
        "changes",
        [
            {"token": "another"},
            {"token": ""},
            {"generation": GENERATION - 1},
            {"generation": GENERATION + 1},
            {"job_id": "other"},
            {"job_id": ""},
        ],
    )
    async def test_strangers(
        self, dial: Dial, slot: WorkerSlot, changes: dict[str, object]
    ) -> None:
        """Who has no slot, another token or another generation is turned away for good."""
        assert await refused(dial(**changes).order()) is grpc.StatusCode.PERMISSION_DENIED
        assert not slot.arrived.is_set()

    async def test_expected(self, dial: Dial, server: WorkerServer, slot: WorkerSlot) -> None:
        """A worker whose slot is not ready yet dials again; once it is cleared it need not."""
        server.clear(JOB)
        server.expect(JOB)
        assert await refused(dial().order()) is grpc.StatusCode.UNAVAILABLE

        server.keep(JOB, slot)
        assert await dial().order() is not None
        server.clear(JOB)
        assert await refused(dial().order()) is grpc.StatusCode.PERMISSION_DENIED

    async def test_silence(self, stub: "Stub", monkeypatch: pytest.MonkeyPatch) -> None:
        """Who dials and says nothing is hung up on."""
        monkeypatch.setattr(module, "HELLO_TIMEOUT_SECONDS", 0.05)

        assert await refused(Session(stub).order()) is grpc.StatusCode.INVALID_ARGUMENT

    async def test_too_long(self, dial: Dial, slot: WorkerSlot) -> None:
        """A hello that is longer than any of ours is not looked at."""
        long = "x" * module.MAX_HELLO_BYTES
        assert await refused(dial(token=long).order()) is grpc.StatusCode.INVALID_ARGUMENT
        assert not slot.arrived.is_set()

    async def test_no_such_work(self, server: WorkerServer, dial: Dial, slot: WorkerSlot) -> None:
        """A worker whose work cannot be done is sent away, and who sent it learns why."""
        refusal = CallsdError(Reason.MEDIA_NOT_FOUND, "it is gone")

        async def resolve() -> Assignment:
            raise refusal

        slot._resolve = resolve
        session = dial()
        await session.order()

        assert await refused(session.order()) is grpc.StatusCode.PERMISSION_DENIED
        assert slot.refusal is refusal
        assert not slot.arrived.is_set()


class TestSession:
    """What is said once a worker is in."""

    async def test_stop(self, dial: Dial, slot: WorkerSlot) -> None:
        """A worker is told to end, in the session that it has or in its next one."""
        session = dial(is_assigned=True)
        await session.order()
        slot.request_stop(7.5)
        for one in (session, dial(is_assigned=True)):
            while (order := await one.order()) is not None and not order.HasField("stop"):
                pass
            assert order is not None
            assert order.stop.grace_seconds == 7.5

    async def test_log(self, dial: Dial, slot: WorkerSlot, directory: Path) -> None:
        """A worker's log arrives, and no more of it at once than is allowed."""
        session = dial(is_assigned=True)
        session.say(log=worker_pb2.LogData(offset=0, data=b"words\n"))
        session.say(log=worker_pb2.LogData(offset=6, data=b"x" * (messages.MAX_LOG_BYTES + 1)))
        session.hang_up()
        await session.orders()

        assert (directory / "log.txt").read_bytes() == b"words\n" + b"x" * messages.MAX_LOG_BYTES

    async def test_nothing_saved(self, dial: Dial, slot: WorkerSlot) -> None:
        """A worker that has found nothing to save is waited for no longer."""
        session = dial(is_assigned=True)
        session.say(nothing_saved=worker_pb2.NothingSaved())
        await asyncio.wait_for(slot.is_over.wait(), WAIT_SECONDS)

    async def test_outcome(self, dial: Dial, slot: WorkerSlot, directory: Path) -> None:
        """An outcome is kept as it was told, and then the worker hears so."""
        outcome = worker_pb2.Outcome(generation=GENERATION, failure_reason="INTERNAL")
        session = dial(is_assigned=True)
        await session.order()
        session.say(outcome=outcome)
        verdict = await session.order()

        assert verdict == worker_pb2.SessionResponse(verdict=worker_pb2.OutcomeVerdict())
        assert (directory / OUTCOME).read_bytes() == outcome.SerializeToString()
        assert slot.is_over.is_set()

    async def test_outcome_of_another_one(
        self, dial: Dial, slot: WorkerSlot, directory: Path
    ) -> None:
        """An outcome of another generation is passed over; the worker's own one counts."""
        session = dial(is_assigned=True)
        for generation in (GENERATION - 1, GENERATION + 1):
            session.say(outcome=worker_pb2.Outcome(generation=generation))
        session.say(status=worker_pb2.Status(phase="later"))
        session.hang_up()

        assert await session.orders() == ["log_kept"]
        assert slot.progress is not None
        assert not slot.is_over.is_set()
        assert not (directory / OUTCOME).exists()

    async def test_unusable(self, dial: Dial, slot: WorkerSlot, directory: Path) -> None:
        """A worker whose outcome cannot be used is told why, and need not bring it again."""
        bad = worker_pb2.ArtifactFile(file_name="../words.txt")
        session = dial(is_assigned=True)
        await session.order()
        session.say(outcome=worker_pb2.Outcome(generation=GENERATION, artifacts=[bad]))
        order = await session.order()

        assert order is not None
        assert order.verdict.problem == "it names a file that cannot be one"
        assert slot.is_over.is_set()
        assert not (directory / OUTCOME).exists()

    async def test_told_twice(self, dial: Dial, directory: Path) -> None:
        """An outcome that is told again in one session has one verdict."""
        session = dial(is_assigned=True)
        await session.order()
        for _ in range(2):
            session.say(outcome=worker_pb2.Outcome(generation=GENERATION))
        verdict = await session.order()
        session.hang_up()

        assert verdict is not None
        assert verdict.HasField("verdict")
        assert await session.orders() == []


async def test_takes_no_orders(
    dial: Dial, slot: WorkerSlot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for a worker that takes no orders is bounded; it is told so when it takes them."""
    asked = 0

    async def collect(outcome: Outcome, raw: bytes, ask: Ask) -> None:
        nonlocal asked
        while asked < MANY_ORDERS:
            await ask(LONG_NAME, 0)
            asked += 1

    monkeypatch.setattr(conversation, "ORDER_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(slot.takeover, "collect", collect)
    session = dial(is_assigned=True)
    session.say(outcome=worker_pb2.Outcome(generation=GENERATION))
    await asyncio.wait_for(slot.is_over.wait(), WAIT_SECONDS)

    assert asked < MANY_ORDERS
    while (order := await session.order()) is not None and not order.HasField("verdict"):
        pass
    assert order is not None
    assert order.verdict.problem == "its worker takes no orders"


async def test_replaced_in_a_jam(
    dial: Dial, slot: WorkerSlot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session whose worker takes no orders ends like others when another one replaces it."""

    async def collect(outcome: Outcome, raw: bytes, ask: Ask) -> None:
        for _ in range(MANY_ORDERS):
            await ask(LONG_NAME, 0)

    monkeypatch.setattr(conversation, "ORDER_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(slot.takeover, "collect", collect)
    session = dial(is_assigned=True)
    session.say(outcome=worker_pb2.Outcome(generation=GENERATION))
    await asyncio.wait_for(slot.is_over.wait(), WAIT_SECONDS)
    another = dial(is_assigned=True)

    assert await another.order() is not None
    assert set(await session.orders()) == {"log_kept", "send"}


def parts(
    *data: bytes, name: str = "words.txt", offset: int = 0, **changes: object
) -> Iterator[worker_pb2.SendFileRequest]:
    """A file that is sent."""
    start = worker_pb2.SendFileStart(hello=hello(**changes), file_name=name, offset=offset)
    yield worker_pb2.SendFileRequest(start=start)
    for part in data:
        yield worker_pb2.SendFileRequest(data=part)


class TestFiles:
    """Files, in both directions."""

    async def test_sent(self, dial: Dial, stub: "Stub", directory: Path) -> None:
        """What an outcome names is asked for, and goes on where it was cut off."""
        session = dial(is_assigned=True)
        await session.order()
        session.say(outcome=worker_pb2.Outcome(generation=GENERATION, artifacts=[ARTIFACT]))
        assert (await session.order()) == worker_pb2.SessionResponse(
            send=worker_pb2.SendOrder(file_name="words.txt", offset=0)
        )
        assert (await stub.SendFile(parts(TEXT[:5]))).size_bytes == 5
        assert (await session.order()) == worker_pb2.SessionResponse(
            send=worker_pb2.SendOrder(file_name="words.txt", offset=5)
        )
        assert (await stub.SendFile(parts(TEXT[5:9], TEXT[9:], offset=5))).size_bytes == len(TEXT)
        verdict = await session.order()

        assert verdict == worker_pb2.SessionResponse(verdict=worker_pb2.OutcomeVerdict())
        assert (directory / "artifacts" / "words.txt").read_bytes() == TEXT
        assert (directory / OUTCOME).exists()

    async def test_session_breaks(self, dial: Dial, stub: "Stub", directory: Path) -> None:
        """What has arrived is not asked for again in the next session."""
        outcome = worker_pb2.Outcome(generation=GENERATION, artifacts=[ARTIFACT])
        first = dial(is_assigned=True)
        first.say(outcome=outcome)
        while (order := await first.order()) is not None and not order.HasField("send"):
            pass
        first.call.cancel()
        second = dial(is_assigned=True)
        second.say(outcome=outcome)
        while (order := await second.order()) is not None and not order.HasField("send"):
            pass
        await stub.SendFile(parts(TEXT))

        assert await second.order() is not None
        assert (directory / "artifacts" / "words.txt").read_bytes() == TEXT

    async def test_not_asked_for(self, stub: "Stub", directory: Path) -> None:
        """Nobody sends what was not asked for, and only the worker itself sends anything."""
        for wrong, code in (
            (parts(TEXT), grpc.StatusCode.FAILED_PRECONDITION),
            (parts(TEXT, name="../words.txt"), grpc.StatusCode.FAILED_PRECONDITION),
            (parts(TEXT, token="another"), grpc.StatusCode.PERMISSION_DENIED),
            (parts(TEXT, job_id="other"), grpc.StatusCode.PERMISSION_DENIED),
            (iter(()), grpc.StatusCode.INVALID_ARGUMENT),
        ):
            assert await refused(stub.SendFile(wrong)) is code
        assert list((directory / "artifacts").iterdir()) == []

    async def read(self, stub: "Stub", name: str) -> bytes:
        """A file, as a worker reads it."""
        request = worker_pb2.ReadFileRequest(hello=hello(), name=name)
        return b"".join([part.data async for part in stub.ReadFile(request)])

    async def test_read(self, stub: "Stub") -> None:
        """A file of the assignment arrives whole."""
        assert await self.read(stub, "media/0") == SOUND

    @pytest.mark.parametrize(
        "name", ["media/1", "media/../0", "/etc/passwd", "", "model/x", "x" * 10_000]
    )
    async def test_not_its_own(self, stub: "Stub", name: str) -> None:
        """What the assignment does not name is not there."""
        assert await refused(self.read(stub, name)) is grpc.StatusCode.PERMISSION_DENIED

    async def test_gone(self, stub: "Stub", media: Path) -> None:
        """A file that is gone is told as that."""
        media.unlink()

        assert await refused(self.read(stub, "media/0")) is grpc.StatusCode.NOT_FOUND

    async def test_not_ready(self, stub: "Stub", server: WorkerServer, slot: WorkerSlot) -> None:
        """A worker whose slot is not ready yet asks again."""
        server.clear(JOB)
        server.expect(JOB)
        assert await refused(self.read(stub, "media/0")) is grpc.StatusCode.UNAVAILABLE

        server.keep(JOB, slot)
        assert await self.read(stub, "media/0") == SOUND

    async def test_too_many_at_once(self, stub: "Stub", media: Path) -> None:
        """A worker reads few files at once; when it has read them, it may go on."""
        # More than what is on its way at any time.
        media.write_bytes(bytes(32 * 1024 * 1024))
        request = worker_pb2.ReadFileRequest(hello=hello(), name="media/0")
        calls = [stub.ReadFile(request) for _ in range(module.MAX_FILE_REQUESTS)]
        for call in calls:
            await call.read()
        assert await refused(self.read(stub, "media/0")) is grpc.StatusCode.RESOURCE_EXHAUSTED

        for call in calls:
            while await call.read() is not grpc.aio.EOF:
                pass
        assert len(await self.read(stub, "media/0")) == media.stat().st_size


class TestSockets:
    """The server itself."""

    @pytest.mark.parametrize(("shared", "expected"), [(0o700, 0o600), (0o750, 0o660)])
    async def test_modes(self, runtime: Path, pool: FilePool, shared: int, expected: int) -> None:
        """Sockets are for whom their directory is for; what a dead daemon left is replaced."""
        runtime.chmod(shared)
        for name in ("door.sock", "files.sock"):
            (runtime / name).write_bytes(b"left")
        server = WorkerServer(runtime, pool)
        await server.open()
        modes = {path.name: path.stat().st_mode for path in runtime.iterdir()}
        await server.close()

        assert {name: stat.S_IMODE(mode) for name, mode in modes.items()} == {
            "door.sock": expected,
            "files.sock": expected,
        }
        assert {stat.S_ISSOCK(mode) for mode in modes.values()} == {True}

    async def test_no_server_for_others(self, server: WorkerServer) -> None:
        """Where workers of other machines are not wanted, there is none for them."""
        with pytest.raises(LookupError):
            server.endpoint(is_local=False)
