# SPDX-License-Identifier: Apache-2.0
"""What cannot be had from outside: a store with a long history, and the bare decision."""

import asyncio
import itertools
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from callsd_bench.shared.progress import ProgressLine
from callsd_daemon.domain.admission import Candidate, Host, Policy, Snapshot, decide
from callsd_daemon.domain.costs import transcription_cost, transcription_cost_key
from callsd_daemon.domain.jobs import Artifact, Job, Outcome, State, Usage, Worker
from callsd_daemon.domain.transcription import TRANSCRIPTION, Format, Track, TranscriptionSpec
from callsd_daemon.kinds.stored import codec
from callsd_daemon.store.database import HISTORY_REVISIONS, Database
from callsd_daemon.store.transaction import Transaction
from callsd_daemon.tokens import TokenFile


DECIDING_SECONDS = 0.5
GIB = 1024**3

BATCH_JOBS = 1000
"""Jobs written in one transaction, which holds all that it writes in memory."""

RETENTION = timedelta(days=30)

_WORKER = Worker(token_sha256="0" * 64, epoch="past")


def fill_store(
    state: Path, jobs: int, line: ProgressLine, *, pace: timedelta = timedelta(seconds=1)
) -> None:
    """Make a state directory as a daemon leaves it after `jobs` transcriptions, all finished.

    One began every `pace`, and the last one now; those whose time is up have been removed.
    """
    state.mkdir(parents=True)
    kept = RETENTION // pace
    began = datetime.now(UTC) - jobs * pace
    database = Database(state / "callsd.db", codec())

    def live_through(tx: Transaction, numbers: Iterable[int]) -> None:
        for number in numbers:
            job_id, now = _job_id(number), began + number * pace
            if 4 * (jobs - number) <= HISTORY_REVISIONS:
                _live_through(tx, job_id, now)
            else:
                # Nobody will know how it came to its end: a quarter of the time.
                job = _queued(job_id, now).starting(_WORKER, now).running(now)
                tx.put(job.finished(_outcome(), now, retention=RETENTION))
            if number >= kept:
                tx.delete(_job_id(number - kept))

    try:
        for first in range(0, jobs, BATCH_JOBS):
            line.tell(f"{first} of {jobs} jobs are in the store")
            numbers = range(first, min(first + BATCH_JOBS, jobs))
            asyncio.run(database.write(partial(live_through, numbers=numbers)))
    finally:
        database.close()
    for name in ("jobs", "uploads"):
        (state / name).mkdir()
    for number in range(max(0, jobs - kept), jobs):
        (state / "jobs" / _job_id(number) / "artifacts").mkdir(parents=True)


def _live_through(tx: Transaction, job_id: str, now: datetime) -> None:
    job = tx.put(_queued(job_id, now))
    job = tx.put(job.starting(_WORKER, now))
    job = tx.put(job.running(now))
    tx.put(job.finished(_outcome(), now, retention=RETENTION))


def make_tokens(state: Path, names: Iterable[str]) -> list[str]:
    """Tokens for clients with these names, who may do all that clients do."""
    tokens = TokenFile(state / "tokens.json")
    return [tokens.create(name, ("jobs.read", "jobs.write", "captions.ingest")) for name in names]


def _job_id(number: int) -> str:
    return f"{number:020x}"


def _queued(job_id: str, now: datetime) -> Job:
    spec = TranscriptionSpec(
        tracks=tuple(
            Track(speaker=speaker, path=f"/srv/calls/{job_id}/{speaker}.ogg")
            for speaker in ("first", "second", "third", "fourth")
        ),
        model="base",
    )
    return Job(
        id=job_id,
        kind=TRANSCRIPTION,
        state=State.QUEUED,
        creator="owner",
        create_time=now,
        update_time=now,
        max_duration_seconds=86400.0,
        reservation=transcription_cost(spec, 1, ()),
        cost_key=transcription_cost_key(spec, 1),
        spec=spec,
        labels={"call": job_id, "site": "only"},
    )


def _outcome() -> Outcome:
    return Outcome(
        artifacts=tuple(
            Artifact(
                file_name=f"transcript.{form}",
                media_type="text/plain",
                size_bytes=10_000,
                sha256="0" * 64,
            )
            for form in Format
        ),
        usage=Usage(cpu_seconds=60.0, peak_memory_bytes=GIB // 2),
    )


def decisions_per_second() -> float:
    """How often admission decides in a second, on one core: a third each starts, waits, fails."""
    reservation = transcription_cost(
        TranscriptionSpec(tracks=(Track(speaker="first"),), model="base"), 1, ()
    )
    host = Host(
        cores_total=8.0,
        cores_external=1.0,
        memory_total_bytes=16 * GIB,
        memory_external_bytes=4 * GIB,
        disk_total_bytes=500 * GIB,
        disk_free_bytes=100 * GIB,
    )
    policy = Policy(
        headroom_cores=0.8,
        headroom_memory_bytes=GIB // 2,
        headroom_disk_bytes=GIB,
        max_concurrent_jobs=4,
    )
    cases = [
        (
            Snapshot(
                host=host,
                reserved=reservation,
                running={TRANSCRIPTION: running},
                queued_ahead=0,
            ),
            Candidate(
                kind=TRANSCRIPTION, reservation=reservation, is_batch=True, may_queue=may_queue
            ),
        )
        for running, may_queue in ((1, True), (4, True), (4, False))
    ]
    began = time.process_time()
    for count in itertools.count(1):
        for snapshot, request in cases:
            decide(snapshot, request, policy)
        if (spent := time.process_time() - began) > DECIDING_SECONDS:
            return count * len(cases) / spent
    raise AssertionError
