# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from callsd_daemon.domain.admission import Admit, Decision, Host, Policy, Queue, Refuse
from callsd_daemon.domain.captions import CaptionsSpec
from callsd_daemon.domain.capture import CAPTURE, CaptureSpec
from callsd_daemon.domain.costs import captioner_cost
from callsd_daemon.domain.errors import Reason
from callsd_daemon.domain.jobs import Job, Reservation, State
from callsd_daemon.domain.recording import RECORDING
from callsd_daemon.host.probe import Probe, Spent, Use
from callsd_daemon.kinds.stored import codec
from callsd_daemon.metrics import DECISIONS
from callsd_daemon.store.database import Database
from callsd_daemon.store.transaction import Transaction
from callsd_daemon.workers.admission import (
    HOLD_SECONDS,
    AdmissionController,
    Companion,
    Verdict,
    record_decision,
)
from tests.helpers.jobs import CALL, MIB, make_job, put
from tests.helpers.kinds import KINDS


HOST = Host(
    cores_total=2.0,
    cores_external=0.0,
    memory_total_bytes=4096 * MIB,
    memory_external_bytes=0,
    disk_total_bytes=4096 * MIB,
    disk_free_bytes=4096 * MIB,
)
POLICY = Policy(headroom_cores=0.0, headroom_memory_bytes=0, headroom_disk_bytes=0)
JOB = make_job(id="new")
"""It takes one of the two cores."""


SPENT = {"job": Spent(cpu_seconds=5.0, memory_bytes=100)}
"""What the launcher says of its workers."""


class ScriptedProbe(Probe):
    """Shows what the test says."""

    def __init__(self) -> None:
        self.host = HOST
        self.asked: list[Mapping[str, Spent]] = []
        self.uses = {}

    def sample(self, spent: Mapping[str, Spent]) -> Host:
        """The machine as it is said to be."""
        self.asked.append(spent)
        return self.host


@pytest.fixture
def probe() -> ScriptedProbe:
    """An idle machine."""
    return ScriptedProbe()


@pytest.fixture
def admission(probe: ScriptedProbe) -> AdmissionController:
    """The decisions for that machine."""
    return AdmissionController(probe, POLICY, KINDS, lambda: SPENT)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A new database."""
    database = Database(tmp_path / "callsd.db", codec())
    yield database
    database.close()


def counted(decision: str, reason: str) -> float:
    """How many decisions of this kind the metrics show."""
    return DECISIONS.labels(decision=decision, reason=reason)._value.get()  # type: ignore[no-any-return]


async def decided(
    admission: AdmissionController, database: Database, *, may_queue: bool = True
) -> Verdict:
    """What is decided about the new job."""
    return await database.read(lambda tx: admission.decide(tx, JOB, may_queue=may_queue))


async def test_latest_look(
    admission: AdmissionController, probe: ScriptedProbe, database: Database
) -> None:
    """Decisions are made by the latest look at the machine, which knows our workers."""
    probe.host = replace(HOST, cores_external=1.5)
    before = datetime.now(UTC)
    assert (await decided(admission, database)).decision == Admit()

    probe.uses = {"job": Use(cores=0.5, memory_bytes=100)}
    await admission.sample()

    assert probe.asked == [{}, SPENT]
    assert admission.uses == {"job": Use(cores=0.5, memory_bytes=100)}
    assert before <= admission.host_time <= datetime.now(UTC)
    assert (await decided(admission, database)).decision == Queue(
        position=1, reason=Reason.CPU_EXHAUSTED
    )


async def test_queue_before_a_new_job(admission: AdmissionController, database: Database) -> None:
    """A new job goes behind those that wait, and is told what the first of them waits for."""
    await database.write(put(make_job(id="first", waiting_for=Reason.MEMORY_EXHAUSTED)))
    await database.write(put(make_job(id="second", waiting_for=Reason.CPU_EXHAUSTED)))

    queued = (await decided(admission, database)).decision
    refused = (await decided(admission, database, may_queue=False)).decision

    assert queued == Queue(position=3, reason=Reason.MEMORY_EXHAUSTED)
    assert isinstance(refused, Refuse)
    assert refused.reason is Reason.MEMORY_EXHAUSTED


async def test_first_of_the_queue(admission: AdmissionController, database: Database) -> None:
    """The job that has waited longest is not held back by those behind it."""
    first = await database.write(put(make_job(id="first")))
    await database.write(put(make_job(id="second")))

    verdict = await database.read(lambda tx: admission.decide_next(tx, first, waited_seconds=0))

    assert verdict.decision == Admit()


async def test_accounts_show_what_is_promised(
    admission: AdmissionController, database: Database
) -> None:
    """What is reserved is what active jobs hold."""
    await database.write(put(make_job(id="runs", state=State.RUNNING)))
    await database.write(put(make_job(id="waits")))

    disk, cores, memory = (await database.read(admission.accounts)).values()

    assert (disk.reserved, cores.reserved, memory.reserved) == (64 * MIB, 1.0, 500 * MIB)


async def test_decisions_are_counted_when_told(
    admission: AdmissionController, database: Database
) -> None:
    """Deciding counts nothing, as often as it is done; what is told is counted, by its reason."""
    await database.write(put(make_job(id="one", state=State.RUNNING)))
    await database.write(put(make_job(id="two", state=State.RUNNING)))
    before = [counted("queue", "CPU_EXHAUSTED"), counted("refuse", "CPU_EXHAUSTED")]

    record_decision(JOB, await decided(admission, database))
    record_decision(JOB, await decided(admission, database, may_queue=False))
    await decided(admission, database)
    await decided(admission, database, may_queue=False)

    after = [counted("queue", "CPU_EXHAUSTED"), counted("refuse", "CPU_EXHAUSTED")]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1.0, 1.0]


CAPTIONED = CaptureSpec(call=CALL, captions=CaptionsSpec(model="base"))
NEED = Reservation(cores=0.5, memory_bytes=100 * MIB, disk_bytes=10 * MIB)
COMPANION = Companion(kind=CAPTURE, spec=CAPTIONED, reservation=NEED)
FILM = make_job(id="film", kind=RECORDING)
"""It takes one of the two cores, and half of the other one is held for its companion."""
CAPTURE_JOB = make_job(id="capture", kind=CAPTURE, spec=CAPTIONED, reservation=NEED)
CAPTIONER = captioner_cost("base")


class Desk:
    """Decides about live jobs, and starts those that are admitted; its clock is the test's."""

    def __init__(self, database: Database, probe: ScriptedProbe) -> None:
        self.seconds = 1000.0
        self._database = database
        self._admission = AdmissionController(
            probe, POLICY, KINDS, dict, now_seconds=lambda: self.seconds
        )

    async def ask(
        self,
        job: Job,
        *,
        companion: Companion | None = None,
        is_owed: bool = False,
        companion_of: str = "",
    ) -> Decision:
        """What is decided about a job, in the transaction that starts it."""

        def work(tx: Transaction) -> Decision:
            verdict = self._admission.decide(
                tx,
                job,
                may_queue=False,
                companion=companion,
                is_owed=is_owed,
                companion_of=companion_of,
            )
            if isinstance(verdict.decision, Admit):
                tx.put(replace(job, state=State.STARTING))
            return verdict.decision

        return await self._database.write(work)

    async def reserved(self) -> Reservation:
        """All that is promised."""
        found = await self._database.read(self._admission.accounts)
        return Reservation(**{name: account.reserved for name, account in found.items()})  # type: ignore[arg-type]


@pytest.fixture
def desk(database: Database, probe: ScriptedProbe) -> Desk:
    """Decisions about jobs that come in pairs."""
    return Desk(database, probe)


class TestCompanion:
    """Room for a job that will be asked for in a moment."""

    async def test_both_must_fit(self, desk: Desk) -> None:
        """A job that would fit alone is refused when its companion would not, and nothing stays."""
        greedy = replace(COMPANION, reservation=Reservation(cores=1.5))

        decision = await desk.ask(FILM, companion=greedy)

        assert isinstance(decision, Refuse)
        assert (decision.reason, decision.required) == (Reason.CANNOT_FIT, 2.5)
        assert await desk.reserved() == Reservation()
        assert await desk.ask(FILM) == Admit()

    async def test_room_is_held(self, desk: Desk) -> None:
        """Who comes in between does not get it; the companion does, and it is charged once."""
        assert await desk.ask(FILM, companion=COMPANION) == Admit()
        both = FILM.reservation + NEED + CAPTIONER
        assert await desk.reserved() == both

        other = await desk.ask(make_job(id="other", kind=RECORDING))
        assert isinstance(other, Refuse)
        assert other.reason is Reason.CPU_EXHAUSTED

        assert await desk.ask(CAPTURE_JOB, companion_of="film") == Admit()
        assert await desk.reserved() == both

    async def test_decided_anew(self, desk: Desk, database: Database) -> None:
        """A decision that could not be written is made again as if it had not been made."""
        for _ in range(2):
            assert await desk.ask(FILM, companion=COMPANION) == Admit()
            await database.write(lambda tx: tx.delete("film"))

        assert await desk.reserved() == NEED + CAPTIONER

    async def test_only_its_own(self, desk: Desk) -> None:
        """What is held with one job is not for the companion of another."""
        assert await desk.ask(FILM, companion=COMPANION) == Admit()
        large = replace(CAPTURE_JOB, reservation=Reservation(cores=0.75))

        assert isinstance(await desk.ask(large, companion_of="another film"), Refuse)

    async def test_freed_after_a_while(self, desk: Desk) -> None:
        """A companion that does not come loses its room then, and not before."""
        assert await desk.ask(FILM, companion=COMPANION) == Admit()
        desk.seconds += HOLD_SECONDS - 0.001
        assert await desk.reserved() == FILM.reservation + NEED + CAPTIONER
        desk.seconds += 0.001
        assert await desk.reserved() == FILM.reservation

        assert await desk.ask(make_job(id="other", kind=RECORDING)) == Admit()

    async def test_what_is_over_is_forgotten(self, desk: Desk) -> None:
        """However many jobs lose their companions, only what still counts is remembered."""
        for number in range(5):
            film = replace(FILM, id=f"film{number}", reservation=Reservation(cores=0.1))
            assert await desk.ask(film, companion=COMPANION) == Admit()
            desk.seconds += HOLD_SECONDS

        assert list(desk._admission._held) == ["film4"]

    async def test_one_captioner(self, desk: Desk) -> None:
        """A worker that serves several captures is charged once for all that go on."""
        small = replace(COMPANION, reservation=Reservation(cores=0.1))
        for name in ("one", "two"):
            film = replace(FILM, id=name, reservation=Reservation(cores=0.1))
            assert await desk.ask(film, companion=small) == Admit()
            capture = replace(CAPTURE_JOB, id=f"{name}'s", reservation=small.reservation)
            assert await desk.ask(capture, companion_of=name) == Admit()

        assert (await desk.reserved()).memory_bytes == CAPTIONER.memory_bytes

    async def test_without_captions(self, desk: Desk) -> None:
        """A capture that shows none needs no captioner."""
        mute = replace(COMPANION, spec=CaptureSpec(call=CALL))
        assert await desk.ask(FILM, companion=mute) == Admit()

        assert await desk.reserved() == FILM.reservation + NEED


class TestOwed:
    """A job that belongs to one that was accepted."""

    async def test_beyond_room(self, desk: Desk) -> None:
        """It is admitted without room, and the log tells of it."""
        assert await desk.ask(replace(FILM, reservation=Reservation(cores=2.0))) == Admit()
        assert isinstance(await desk.ask(CAPTURE_JOB), Refuse)
        with capture_logs() as said:
            assert await desk.ask(CAPTURE_JOB, is_owed=True) == Admit()

        assert said == [
            {
                "event": "admitted_beyond_room",
                "log_level": "warning",
                "job_id": "capture",
                "reason": Reason.CPU_EXHAUSTED,
            }
        ]

    async def test_within_room(self, desk: Desk) -> None:
        """Where there is room there is nothing to tell."""
        with capture_logs() as said:
            assert await desk.ask(CAPTURE_JOB, is_owed=True) == Admit()

        assert said == []

    async def test_begins_later(self, desk: Desk) -> None:
        """What begins after a job that goes on waits for that, whatever the machine carries."""
        assert await desk.ask(replace(FILM, reservation=Reservation(cores=2.0))) == Admit()
        later = make_job(id="later", after_jobs=("gone", "film"))

        assert await desk.ask(later, is_owed=True) == Queue(position=0, reason=None)
