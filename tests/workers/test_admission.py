# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from callsd_daemon.domain.admission import Admit, Host, Policy, Queue, Refuse
from callsd_daemon.domain.errors import Reason
from callsd_daemon.domain.jobs import State
from callsd_daemon.host.probe import Probe, Spent, Use
from callsd_daemon.kinds.stored import codec
from callsd_daemon.metrics import DECISIONS
from callsd_daemon.store.database import Database
from callsd_daemon.workers.admission import AdmissionController, Verdict, record_decision
from tests.helpers.jobs import MIB, make_job, put
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
