# SPDX-License-Identifier: Apache-2.0
"""The machine is never promised twice: random lives of jobs against the real database."""

import asyncio
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from callsd_daemon.domain.admission import Host, Policy, Queue, Refuse
from callsd_daemon.domain.errors import Reason
from callsd_daemon.domain.jobs import Failure, Job, Outcome, Progress, Reservation, State
from callsd_daemon.domain.transcription import TRANSCRIPTION
from callsd_daemon.files import FilePool
from callsd_daemon.host.probe import Probe
from callsd_daemon.kinds.stored import codec
from callsd_daemon.store.database import Database
from callsd_daemon.store.read_transaction import Change, JobFilter
from callsd_daemon.store.transaction import Transaction
from callsd_daemon.workers.admission import AdmissionController
from callsd_daemon.workers.captions.calls import Calls
from callsd_daemon.workers.ending import EndRules, settle
from callsd_daemon.workers.launchers.launcher import Launcher
from callsd_daemon.workers.runner import JobRunner
from callsd_daemon.workers.session.server import WorkerServer
from callsd_daemon.workers.supervisor import Supervisor
from tests.helpers.jobs import NOW, make_job
from tests.helpers.kinds import KINDS


EXAMPLES = 35
STEPS = 300

HOST = Host(
    cores_total=4.0,
    cores_external=0.0,
    memory_total_bytes=4096,
    memory_external_bytes=0,
    disk_total_bytes=2048,
    disk_free_bytes=2048,
)
POLICY = Policy(
    headroom_cores=0.5,
    headroom_memory_bytes=100,
    headroom_disk_bytes=100,
    max_per_kind={TRANSCRIPTION: 5},
    max_queued_jobs=6,
)
END_RULES = EndRules(max_attempts=3, retention=timedelta(days=1))
KILLED = Failure(reason=Reason.WORKER_KILLED, message="killed by SIGKILL")
REFUSALS = {
    Reason.CANNOT_FIT,
    Reason.CPU_EXHAUSTED,
    Reason.MEMORY_EXHAUSTED,
    Reason.DISK_EXHAUSTED,
    Reason.SLOTS_EXHAUSTED,
    Reason.QUEUE_FULL,
}


class StillProbe(Probe):
    """A machine on which nobody else does anything."""

    def __init__(self) -> None:
        pass

    def sample(self, sessions: object) -> Host:
        """The same at any time."""
        return HOST


@dataclass
class Office:
    """A supervisor with a clock that may be set, whose workers do what the steps say."""

    directory: Path
    clock: datetime = NOW
    made: int = 0
    refused: set[Reason] = field(default_factory=set)
    acknowledged: list[Change] = field(default_factory=list)
    placed: list[str] = field(default_factory=list)
    """Jobs in the order in which they were accepted."""

    def __post_init__(self) -> None:
        self.database = Database(self.directory / "callsd.db", codec())
        self.database.on_commit(self.acknowledged.extend)
        self.admission = AdmissionController(StillProbe(), POLICY, KINDS, dict)
        runner = JobRunner(
            database=self.database,
            server=cast(WorkerServer, None),  # no worker is ever started
            launcher=cast(Launcher, SimpleNamespace(epoch="boot")),
            directory=self.directory,
            pool=cast(FilePool, None),
            kinds=KINDS,
            calls=cast(Calls, None),
            now=lambda: self.clock,
            end_rules=END_RULES,
        )
        self.supervisor = Supervisor(
            database=self.database,
            admission=self.admission,
            runner=runner,
            calls=cast(Calls, None),
            now=lambda: self.clock,
        )

    # What may happen; `number` chooses among the possibilities.

    def create(self, tx: Transaction, number: int) -> None:
        """A client asks for a job."""
        self.made += 1
        job = make_job(
            id=f"job{self.made}",
            kind=list(KINDS)[number % len(KINDS)],
            reservation=Reservation(
                cores=0.5 * (1 + number % 9), memory_bytes=number * 70, disk_bytes=number * 15
            ),
            create_time=self.clock,
            update_time=self.clock,
        )
        length = tx.queue_length()
        placed = self.supervisor.place(tx, job, None, may_queue=number % 5 != 0)
        decision = placed.verdict.decision
        if isinstance(decision, Refuse):
            self.refused.add(decision.reason)
            return
        self.placed.append(job.id)
        if isinstance(decision, Queue):
            assert length < POLICY.max_queued_jobs
            assert decision.position == tx.queue_positions()[job.id] == length + 1
        elif job.kind == TRANSCRIPTION:
            assert length == 0, "a batch job has passed the queue"

    def dispatch(self, tx: Transaction, number: int) -> None:
        """Waiting jobs start, in the order in which they were accepted."""
        while True:
            waiting = tx.page(wanted=JobFilter(states=(State.QUEUED,)), before=None, limit=100)
            oldest = min((job.id for job in waiting.jobs), key=self.placed.index, default=None)
            head = self.supervisor.place_next(tx, {}, 0.0)
            if head is None or not head.token:
                return
            assert head.job.id == oldest

    def report(self, tx: Transaction, number: int) -> None:
        """A worker reports for duty, or how far it is."""
        if job := pick(tx.active(), number):
            if job.state is State.STARTING:
                tx.put(job.running(self.clock))
            else:
                tx.put(job.with_progress(Progress(fraction=number / 32), self.clock))

    def end(self, tx: Transaction, number: int) -> None:
        """A worker gets its work done."""
        if job := pick(tx.active(), number):
            tx.put(settle(job, Outcome(), KILLED, self.clock, END_RULES, is_at_end=False))

    def crash(self, tx: Transaction, number: int) -> None:
        """A worker dies: its job is requeued, or fails after too many attempts."""
        if job := pick(tx.active(), number):
            after = tx.put(settle(job, None, KILLED, self.clock, END_RULES, is_at_end=False))
            ends = {
                True: State.CANCELLED,
                False: State.QUEUED if job.attempt < END_RULES.max_attempts else State.FAILED,
            }
            assert after.state is ends[job.state is State.STOPPING]

    def stop(self, tx: Transaction, number: int) -> None:
        """A client stops a job: one that waits is over, one that has a worker keeps its place."""
        queued = tx.first_queued()
        if job := pick([*tx.active(), *([queued] if queued else [])], number):
            held = tx.reserved()
            after = self.supervisor.mark_stopped(tx, job.id, lambda job: None)
            assert after.state is (State.CANCELLED if job is queued else State.STOPPING)
            assert tx.reserved() == held

    def delete(self, tx: Transaction, number: int) -> None:
        """A client removes a job that has ended."""
        ended = [job for job in map(tx.get, tx.ids()) if job is not None and job.is_final]
        if job := pick(sorted(ended, key=lambda job: job.id), number):
            tx.delete(job.id)

    def set_clock(self, tx: Transaction, number: int) -> None:
        """Somebody sets the clock, ahead or back."""
        self.clock += timedelta(minutes=number - 16)

    # What must hold

    def assert_balanced(self, tx: Transaction) -> None:
        """The store shows exactly what active jobs hold, and that is within the budget."""
        reserved = tx.reserved()
        held = sum((job.reservation for job in tx.active()), Reservation())
        assert reserved == held
        for account in self.admission.accounts(tx).values():
            assert account.reserved <= account.budget, account

    def assert_history(self) -> None:
        """Revisions have no gap, time does not run backwards, and every grant ends once."""
        assert [change.revision for change in self.acknowledged] == list(
            range(1, len(self.acknowledged) + 1)
        )
        last: dict[str, Job] = {}
        granted, released = Counter[str](), Counter[str]()
        for change in self.acknowledged:
            before = last.pop(change.job_id, None)
            was_active = before is not None and before.is_active
            is_active = change.job is not None and change.job.is_active
            granted[change.job_id] += is_active and not was_active
            released[change.job_id] += was_active and not is_active
            if change.job is None:
                assert before is not None
                assert before.is_final
                continue
            last[change.job_id] = change.job
            if before is not None:
                assert change.job.update_time >= before.update_time
        for job_id, count in granted.items():
            active = job_id in last and last[job_id].is_active
            assert released[job_id] == count - active


def pick(jobs: "list[Job] | tuple[Job, ...]", number: int) -> Job | None:
    """One of the jobs, or None when there is none."""
    return jobs[number % len(jobs)] if jobs else None


STEP: dict[str, Callable[[Office, Transaction, int], None]] = {
    "create": Office.create,
    "create another": Office.create,
    "dispatch": Office.dispatch,
    "report": Office.report,
    "end": Office.end,
    "crash": Office.crash,
    "stop": Office.stop,
    "delete": Office.delete,
    "set clock": Office.set_clock,
}


async def live(office: Office, steps: list[tuple[str, int]]) -> None:
    """Take the steps, each an operation of its own on the database, many in one commit."""

    def operation(name: str, number: int) -> Callable[[Transaction], None]:
        def work(tx: Transaction) -> None:
            STEP[name](office, tx, number)
            office.assert_balanced(tx)

        return work

    await asyncio.gather(*(office.database.write(operation(*step)) for step in steps))


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
)
@given(
    st.lists(
        st.tuples(st.sampled_from(list(STEP)), st.integers(0, 31)), min_size=STEPS, max_size=STEPS
    )
)
def test_ledger_always_balances(steps: list[tuple[str, int]]) -> None:
    """Whatever jobs go through: no core is promised twice, and each one is given back once."""
    with tempfile.TemporaryDirectory() as directory:
        office = Office(Path(directory))
        try:
            asyncio.run(live(office, steps))
        finally:
            office.database.close()
        office.assert_history()
        assert office.refused <= REFUSALS
        # A daemon that starts now finds the same tx.
        again = Database(office.directory / "callsd.db", codec())
        try:
            found = asyncio.run(again.read(lambda tx: (tx.reserved(), tx.active())))
            assert again.revision == len(office.acknowledged)
        finally:
            again.close()
        assert found[0] == sum((job.reservation for job in found[1]), Reservation())
