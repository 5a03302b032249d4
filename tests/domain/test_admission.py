# SPDX-License-Identifier: Apache-2.0

from dataclasses import replace
from typing import Any

import pytest

from callsd_daemon.domain.admission import (
    RETRY_AFTER_SECONDS,
    Admit,
    Candidate,
    Decision,
    Host,
    Policy,
    Queue,
    Refuse,
    Snapshot,
    accounts,
    decide,
)
from callsd_daemon.domain.captions import CAPTIONS
from callsd_daemon.domain.errors import Reason
from callsd_daemon.domain.jobs import Reservation
from callsd_daemon.domain.recording import RECORDING
from callsd_daemon.domain.transcription import TRANSCRIPTION


GIB = 1024**3

HOST = Host(
    cores_total=4.0,
    cores_external=0.0,
    memory_total_bytes=8 * GIB,
    memory_external_bytes=0,
    disk_total_bytes=100 * GIB,
    disk_free_bytes=100 * GIB,
)
POLICY = Policy(
    headroom_cores=1.0,
    headroom_memory_bytes=1 * GIB,
    headroom_disk_bytes=10 * GIB,
    max_queued_jobs=3,
)
IDLE = Snapshot(host=HOST, reserved=Reservation(), running={}, queued_ahead=0)
ONE = Reservation(cores=1.0, memory_bytes=GIB, disk_bytes=GIB)
BATCH = Candidate(kind=TRANSCRIPTION, reservation=ONE, is_batch=True, may_queue=True)
"""Three of these fit, by cores."""
NO_QUEUE = replace(BATCH, may_queue=False)
LIVE = replace(BATCH, kind=CAPTIONS, is_batch=False)

FULL = replace(IDLE, reserved=Reservation(cores=2.5), running={TRANSCRIPTION: 2})
WAITING = replace(IDLE, queued_ahead=2, queue_waiting_for=Reason.MEMORY_EXHAUSTED)
TWO_RUN = replace(IDLE, running={TRANSCRIPTION: 1, CAPTIONS: 1})


def host(**changes: Any) -> Snapshot:
    """An idle daemon on a machine that differs by `changes`."""
    return replace(IDLE, host=replace(HOST, **changes))


def asks(**changes: Any) -> Candidate:
    """A batch job that needs what `changes` says."""
    return replace(BATCH, reservation=replace(ONE, **changes))


def refused(snapshot: Snapshot, request: Candidate, policy: Policy = POLICY) -> Refuse:
    """The refusal that this must be."""
    decision = decide(snapshot, request, policy)
    assert isinstance(decision, Refuse), decision
    return decision


class TestDecisions:
    """Start now, wait, or go away."""

    @pytest.mark.parametrize(
        ("snapshot", "request_", "policy", "expected"),
        [
            (IDLE, BATCH, POLICY, Admit()),
            (IDLE, NO_QUEUE, POLICY, Admit()),
            (IDLE, LIVE, POLICY, Admit()),
            # Exactly what is left is enough.
            (IDLE, asks(cores=3.0, memory_bytes=7 * GIB, disk_bytes=90 * GIB), POLICY, Admit()),
            # Each resource that is short now makes a batch job wait.
            (FULL, BATCH, POLICY, Queue(position=1, reason=Reason.CPU_EXHAUSTED)),
            (
                replace(IDLE, reserved=Reservation(memory_bytes=7 * GIB)),
                BATCH,
                POLICY,
                Queue(position=1, reason=Reason.MEMORY_EXHAUSTED),
            ),
            (
                TWO_RUN,
                BATCH,
                replace(POLICY, max_concurrent_jobs=2),
                Queue(position=1, reason=Reason.SLOTS_EXHAUSTED),
            ),
            (
                TWO_RUN,
                BATCH,
                replace(POLICY, max_per_kind={TRANSCRIPTION: 1}),
                Queue(position=1, reason=Reason.SLOTS_EXHAUSTED),
            ),
            # Other processes count as much as our own jobs.
            (
                host(cores_external=3.5),
                BATCH,
                POLICY,
                Queue(position=1, reason=Reason.CPU_EXHAUSTED),
            ),
            (
                host(memory_external_bytes=7 * GIB),
                BATCH,
                POLICY,
                Queue(position=1, reason=Reason.MEMORY_EXHAUSTED),
            ),
            # First come, first served: whoever finds a queue joins it, even if it would fit.
            (WAITING, BATCH, POLICY, Queue(position=3, reason=Reason.MEMORY_EXHAUSTED)),
            (
                replace(WAITING, queue_waiting_for=None),
                BATCH,
                POLICY,
                Queue(position=3, reason=Reason.SLOTS_EXHAUSTED),
            ),
            # Live work passes the queue.
            (WAITING, LIVE, POLICY, Admit()),
            (replace(WAITING, queued_ahead=3), LIVE, POLICY, Admit()),
            # Ceilings hold for the kind they are for.
            (TWO_RUN, LIVE, replace(POLICY, max_per_kind={TRANSCRIPTION: 1}), Admit()),
            (TWO_RUN, BATCH, replace(POLICY, max_concurrent_jobs=3), Admit()),
        ],
    )
    def test_accepted(
        self, snapshot: Snapshot, request_: Candidate, policy: Policy, expected: Decision
    ) -> None:
        """Jobs start or wait, as capacity, order and kind say."""
        assert decide(snapshot, request_, policy) == expected

    @pytest.mark.parametrize(
        ("snapshot", "request_", "policy", "reason"),
        [
            # More than the machine has, however idle: waiting would be for ever.
            (IDLE, asks(cores=3.5), POLICY, Reason.CANNOT_FIT),
            (IDLE, asks(memory_bytes=8 * GIB), POLICY, Reason.CANNOT_FIT),
            (IDLE, asks(disk_bytes=91 * GIB), POLICY, Reason.CANNOT_FIT),
            (FULL, asks(cores=3.5), POLICY, Reason.CANNOT_FIT),
            # Nothing waits for disk.
            (host(disk_free_bytes=10 * GIB), BATCH, POLICY, Reason.DISK_EXHAUSTED),
            (host(disk_free_bytes=0), LIVE, POLICY, Reason.DISK_EXHAUSTED),
            (
                replace(IDLE, reserved=Reservation(disk_bytes=90 * GIB)),
                BATCH,
                POLICY,
                Reason.DISK_EXHAUSTED,
            ),
            # Whoever will not wait is told what there is too little of.
            (FULL, NO_QUEUE, POLICY, Reason.CPU_EXHAUSTED),
            (WAITING, NO_QUEUE, POLICY, Reason.MEMORY_EXHAUSTED),
            (replace(WAITING, queue_waiting_for=None), NO_QUEUE, POLICY, Reason.SLOTS_EXHAUSTED),
            # Live work never waits.
            (FULL, LIVE, POLICY, Reason.CPU_EXHAUSTED),
            (host(memory_external_bytes=8 * GIB), LIVE, POLICY, Reason.MEMORY_EXHAUSTED),
            (TWO_RUN, LIVE, replace(POLICY, max_concurrent_jobs=2), Reason.SLOTS_EXHAUSTED),
            (
                TWO_RUN,
                LIVE,
                replace(POLICY, max_per_kind={CAPTIONS: 1}),
                Reason.SLOTS_EXHAUSTED,
            ),
            # The queue has an end.
            (replace(WAITING, queued_ahead=3), BATCH, POLICY, Reason.QUEUE_FULL),
            (FULL, BATCH, replace(POLICY, max_queued_jobs=0), Reason.QUEUE_FULL),
        ],
    )
    def test_refused(
        self, snapshot: Snapshot, request_: Candidate, policy: Policy, reason: Reason
    ) -> None:
        """Each refusal has the reason that a client can act upon."""
        assert refused(snapshot, request_, policy).reason is reason

    def test_slots_come_before_resources(self) -> None:
        """With everything short at once, the ceiling is named: it is the plainest."""
        snapshot = replace(FULL, reserved=Reservation(cores=3, disk_bytes=90 * GIB))

        decision = refused(snapshot, LIVE, replace(POLICY, max_concurrent_jobs=2))

        assert decision.reason is Reason.SLOTS_EXHAUSTED

    def test_head_of_the_queue(self) -> None:
        """The job that has waited longest starts as soon as it fits, and not before."""
        assert decide(FULL, BATCH, POLICY) == Queue(position=1, reason=Reason.CPU_EXHAUSTED)
        assert decide(replace(FULL, reserved=Reservation(cores=2.0)), BATCH, POLICY) == Admit()

    def test_recordings_are_live(self) -> None:
        """A recording starts at once or not at all, whatever its request says and who waits."""
        recording = replace(LIVE, kind=RECORDING)

        assert decide(WAITING, recording, POLICY) == Admit()
        assert refused(FULL, recording).reason is Reason.CPU_EXHAUSTED

    def test_ceiling_of_recordings(self) -> None:
        """Their ceiling is theirs alone, and is named."""
        policy = replace(POLICY, max_per_kind={RECORDING: 1})
        busy = replace(IDLE, running={RECORDING: 1})
        recording = replace(LIVE, kind=RECORDING)

        refusal = refused(busy, recording, policy)

        assert refusal.reason is Reason.SLOTS_EXHAUSTED
        assert "jobs.max_recording_jobs" in refusal.message
        assert decide(busy, LIVE, policy) == Admit()


class TestPatience:
    """Batch work gives way to other processes, but not for ever."""

    BUSY = host(cores_external=4.0)
    JUST_BEFORE = replace(BATCH, waited_seconds=29.9)
    LONG_ENOUGH = replace(BATCH, waited_seconds=30.0)

    def test_waits_at_first(self) -> None:
        """While others use the cores, a waiting job stays where it is."""
        assert decide(self.BUSY, self.JUST_BEFORE, POLICY) == Queue(
            position=1, reason=Reason.CPU_EXHAUSTED
        )

    def test_starts_in_the_end(self) -> None:
        """After the policy's patience the load of others holds it back no more."""
        assert decide(self.BUSY, self.LONG_ENOUGH, POLICY) == Admit()

    def test_promises_are_kept(self) -> None:
        """No patience is so short that cores are promised twice, or that headroom is given."""
        full = replace(self.BUSY, reserved=Reservation(cores=2.5))

        assert decide(full, self.LONG_ENOUGH, POLICY) == Queue(
            position=1, reason=Reason.CPU_EXHAUSTED
        )

    def test_only_cores(self) -> None:
        """Memory that others hold cannot be shared: a job waits for it as long as it takes."""
        tight = host(memory_external_bytes=7 * GIB)

        assert decide(tight, self.LONG_ENOUGH, POLICY) == Queue(
            position=1, reason=Reason.MEMORY_EXHAUSTED
        )

    def test_live_work_does_not_give_way(self) -> None:
        """A live job would be ruined by the load of others: it is refused, always."""
        live = replace(LIVE, waited_seconds=3600.0)

        assert refused(self.BUSY, live).reason is Reason.CPU_EXHAUSTED


class TestAccounts:
    """What there is, and who has it."""

    def test_external_load_comes_out_of_the_headroom_first(self) -> None:
        """Cores kept free are kept for others: what these use of them is not kept twice."""
        for external, available in ((0.0, 3.0), (0.5, 3.0), (1.0, 3.0), (1.5, 2.5), (5.0, -1.0)):
            cores = accounts(host(cores_external=external), POLICY)["cores"]

            assert cores.available == available

    def test_each_account_balances(self) -> None:
        """Disk, cores and memory each show total, headroom, reserved, external and the rest."""
        snapshot = replace(
            host(cores_external=2.0, memory_external_bytes=GIB, disk_free_bytes=60 * GIB),
            reserved=ONE,
        )

        disk, cores, memory = accounts(snapshot, POLICY).values()

        assert (disk.reason, disk.total, disk.external, disk.available, disk.budget) == (
            Reason.DISK_EXHAUSTED,
            100 * GIB,
            40 * GIB,
            49 * GIB,
            90 * GIB,
        )
        assert (cores.reason, cores.headroom, cores.available, cores.budget) == (
            Reason.CPU_EXHAUSTED,
            0.0,
            1.0,
            3.0,
        )
        assert (memory.reason, memory.headroom, memory.available, memory.budget) == (
            Reason.MEMORY_EXHAUSTED,
            GIB,
            5 * GIB,
            7 * GIB,
        )


class TestRefusals:
    """What a refused client is told."""

    def test_figures_for_programs(self) -> None:
        """A shortage names what is needed, what is free, in which unit, and when to try again."""
        error = refused(FULL, LIVE).error()

        assert error.reason is Reason.CPU_EXHAUSTED
        assert error.metadata == {"required": "1", "available": "0.5", "unit": "cores"}
        assert error.retry_after_seconds == RETRY_AFTER_SECONDS
        assert error.message == (
            "the job needs 1 cores, and 0.5 are free: of 4, 1 are kept free, 2.5 are promised to "
            "jobs and 0 are used by others"
        )

    def test_no_use_to_try_again(self) -> None:
        """What can never fit says so, and no time at which to try again."""
        error = refused(IDLE, asks(cores=64.0)).error()

        assert error.retry_after_seconds is None
        assert error.metadata == {"required": "64", "available": "3", "unit": "cores"}
        assert "ask for less" in error.message

    @pytest.mark.parametrize(
        ("policy", "setting"),
        [
            (replace(POLICY, max_concurrent_jobs=2), "jobs.max_concurrent_jobs"),
            (replace(POLICY, max_concurrent_jobs=1), "jobs.max_concurrent_jobs"),
            (replace(POLICY, max_per_kind={CAPTIONS: 1}), "jobs.max_captions_jobs"),
        ],
    )
    def test_ceilings_name_their_setting(self, policy: Policy, setting: str) -> None:
        """An administrator reads which setting holds the job back."""
        refusal = refused(TWO_RUN, LIVE, policy)

        assert setting in refusal.message
        assert (refusal.required, refusal.available, refusal.unit) == (1, 0, "jobs")

    def test_queue_before_me(self) -> None:
        """Behind a queue there is no figure to give but its length."""
        error = refused(WAITING, NO_QUEUE).error()

        assert error.message == "2 jobs are waiting already"
        assert error.metadata == {}
        assert error.retry_after_seconds == RETRY_AFTER_SECONDS

    def test_queue_full(self) -> None:
        """A full queue names the setting that bounds it."""
        error = refused(replace(WAITING, queued_ahead=3), BATCH).error()

        assert error.metadata["unit"] == "places in the queue"
        assert "jobs.max_queued_jobs" in error.message


class TestNotEnforced:
    """Whoever measures what a machine can carry must be able to go beyond it."""

    def test_resources(self) -> None:
        """When admission is not enforced, no lack of resources refuses a job."""
        policy = replace(POLICY, is_enforced=False)

        assert decide(FULL, asks(cores=99.0), policy) == Admit()

    def test_ceilings(self) -> None:
        """Ceilings hold all the same."""
        policy = replace(POLICY, is_enforced=False, max_concurrent_jobs=2)

        assert refused(TWO_RUN, LIVE, policy).reason is Reason.SLOTS_EXHAUSTED
