# SPDX-License-Identifier: Apache-2.0
"""What follows from a decision follows once, when the decision is on the disk."""

import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
from structlog.testing import capture_logs

from callsd_daemon.domain.admission import Host, Policy
from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import Job, State
from callsd_daemon.files import FilePool
from callsd_daemon.host.probe import Probe
from callsd_daemon.kinds.stored import codec
from callsd_daemon.metrics import DECISIONS, JOBS_ENDED, WORKERS_LOST
from callsd_daemon.store import database as store
from callsd_daemon.store.database import Database
from callsd_daemon.workers import ending, patient_store
from callsd_daemon.workers.admission import AdmissionController
from callsd_daemon.workers.captions.calls import Calls
from callsd_daemon.workers.ending import EndRules
from callsd_daemon.workers.launchers.launcher import Launcher, WorkerId
from callsd_daemon.workers.runner import JobRunner
from callsd_daemon.workers.session.server import WorkerServer
from callsd_daemon.workers.supervisor import Supervisor
from tests.helpers.jobs import MIB, NOW, WORKER, make_job, put
from tests.helpers.kinds import KINDS


END_RULES = EndRules(max_attempts=1, retention=timedelta(days=1))
KILLED = ending.killed("the worker was killed by SIGKILL", signal="SIGKILL")


class SmallProbe(Probe):
    """A machine of one core, with room for one job."""

    def __init__(self) -> None:
        self.cores = 1.0
        self.uses = {}

    def sample(self, sessions: object) -> Host:
        """The same at any time, but for its cores."""
        return Host(
            cores_total=self.cores,
            cores_external=0.0,
            memory_total_bytes=4096 * MIB,
            memory_external_bytes=0,
            disk_total_bytes=4096 * MIB,
            disk_free_bytes=4096 * MIB,
        )


class NoWorkers:
    """Starts none, and has none to look after."""

    epoch = "boot"

    async def sweep(self, worker: WorkerId) -> bool:
        """Nothing is left."""
        return True

    def discard(self, name: str) -> None:
        """There is no directory."""


class Office:
    """Supervisor and runner over a real store; no worker is ever started."""

    def __init__(self, directory: Path) -> None:
        self.database = Database(directory / "callsd.db", codec())
        self.probe = SmallProbe()
        policy = Policy(headroom_cores=0.0, headroom_memory_bytes=0, headroom_disk_bytes=0)
        self.admission = AdmissionController(self.probe, policy, KINDS, dict)
        self.runner = JobRunner(
            database=self.database,
            server=cast(WorkerServer, None),
            launcher=cast(Launcher, NoWorkers()),
            directory=directory / "jobs",
            pool=FilePool(),
            kinds=KINDS,
            calls=cast(Calls, None),
            now=lambda: NOW,
            end_rules=END_RULES,
        )
        self.supervisor = Supervisor(
            database=self.database,
            admission=self.admission,
            runner=self.runner,
            calls=cast(Calls, None),
            now=lambda: NOW,
        )

    async def create(self, job: Job) -> None:
        """A client asks for a job."""
        await self.supervisor.accept(
            lambda tx: self.supervisor.place(tx, job, None, may_queue=True)
        )

    async def state(self, job_id: str) -> State | None:
        """How a job is now; None when there is none."""
        job = await self.database.read(lambda tx: tx.get(job_id))
        return None if job is None else job.state


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    """An office with an empty store."""
    one = Office(tmp_path)
    yield one
    one.database.close()


@pytest.fixture
def failing_commits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As many commits fail as this list has items; each takes one."""
    left: list[str] = []

    def before_commit(name: str) -> None:
        if name == "store.before_commit" and left:
            problem = sqlite3.OperationalError(left.pop())
            problem.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise problem

    monkeypatch.setattr(store, "failpoint", before_commit)
    monkeypatch.setattr(patient_store, "RETRY_SECONDS", 0.0)
    return left


async def test_blocked_once(office: Office, failing_commits: list[str]) -> None:
    """Who waits for the store tries until it answers, and says so in one line."""
    failing_commits += ["full"] * 3
    with capture_logs() as logs:
        await patient_store.PatientStore(office.database).write(put(make_job()))

    assert failing_commits == []
    assert [(one["event"], one["reason"]) for one in logs] == [("store_blocked", "DISK_FULL")]


def queued_count() -> float:
    """How many jobs were told to wait, by the metrics."""
    return DECISIONS.labels(decision="queue", reason="CPU_EXHAUSTED")._value.get()  # type: ignore[no-any-return]


async def test_lost_worker(office: Office, failing_commits: list[str]) -> None:
    """A worker that was lost is counted once, however often the end of its job is written."""
    job = make_job(state=State.RUNNING, attempt=1, worker=WORKER)
    await office.database.write(put(job))
    lost = WORKERS_LOST.labels(reason=Reason.WORKER_KILLED)
    ended = JOBS_ENDED.labels(kind=job.kind, state=State.FAILED, reason=Reason.WORKER_KILLED)
    before = lost._value.get(), ended._value.get()
    failing_commits += ["full"] * 3

    await office.runner._conclusion.conclude(job, KILLED, END_RULES, end_time=NOW)

    assert failing_commits == []
    assert await office.state("job") is State.FAILED
    assert (lost._value.get(), ended._value.get()) == (before[0] + 1, before[1] + 1)


async def test_settling_tells_nobody() -> None:
    """What an end means can be asked as often as one likes."""
    lost = WORKERS_LOST.labels(reason=Reason.WORKER_KILLED)
    before = lost._value.get()
    job = make_job(state=State.RUNNING, attempt=1, worker=WORKER)

    settled = {
        ending.settle(job, None, KILLED, NOW, END_RULES, is_at_end=False).state for _ in range(3)
    }

    assert settled == {State.FAILED}
    assert lost._value.get() == before


async def test_new_job(office: Office, failing_commits: list[str]) -> None:
    """A job that could not be written was not decided about, and does not wait."""
    await office.database.write(put(make_job(id="runs", state=State.RUNNING)))
    before = queued_count()
    failing_commits.append("full")

    with pytest.raises(CallsdError) as refused:
        await office.create(make_job(id="new"))

    assert refused.value.reason is Reason.DISK_FULL
    assert (queued_count() - before, office.supervisor._waiting) == (0, {})

    await office.create(make_job(id="new"))

    assert await office.state("new") is State.QUEUED
    assert (queued_count() - before, list(office.supervisor._waiting)) == (1, ["new"])


async def test_refused_job(office: Office) -> None:
    """A job that is refused is counted, and nothing of it is written."""
    counter = DECISIONS.labels(decision="refuse", reason="CANNOT_FIT")
    before = counter._value.get()
    office.probe.cores = 0.5
    await office.admission.sample()

    with pytest.raises(CallsdError) as refused:
        await office.create(make_job(id="new"))

    assert refused.value.reason is Reason.CANNOT_FIT
    assert counter._value.get() - before == 1
    assert await office.state("new") is None


async def test_head_of_the_queue(office: Office, failing_commits: list[str]) -> None:
    """A waiting job that fits no more waits on until its end is written, and is counted then."""
    await office.database.write(put(make_job(id="runs", state=State.RUNNING)))
    await office.create(make_job(id="waits"))
    since = dict(office.supervisor._waiting)
    ended = JOBS_ENDED.labels(kind=make_job().kind, state=State.FAILED, reason=Reason.CANNOT_FIT)
    before = ended._value.get()
    office.probe.cores = 0.5
    await office.admission.sample()
    failing_commits.append("full")

    with pytest.raises(CallsdError):
        await office.supervisor.dispatch()

    assert (office.supervisor._waiting, ended._value.get()) == (since, before)
    assert await office.state("waits") is State.QUEUED

    await office.supervisor.dispatch()

    assert (office.supervisor._waiting, ended._value.get()) == ({}, before + 1)
    assert await office.state("waits") is State.FAILED
