# SPDX-License-Identifier: Apache-2.0
"""Create, look at, stop and delete jobs; read their logs and artifacts."""

import asyncio
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from callsd_daemon.domain.admission import Decision, Queue, Refuse
from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import Artifact, Job, Notice, State, job_name
from callsd_daemon.domain.work import Secrets, Spec
from callsd_daemon.files import PASSING_ERRNOS, naming, open_regular
from callsd_daemon.kinds import Kinds
from callsd_daemon.store.database import Database
from callsd_daemon.store.read_transaction import JobFilter, ReadTransaction
from callsd_daemon.store.transaction import Transaction
from callsd_daemon.usecases.streams import Streams
from callsd_daemon.workers.admission import AdmissionController, Companion, record_decision
from callsd_daemon.workers.supervisor import Placed, Supervisor
from callsd_ipc.names import ARTIFACTS, WORKER_LOG


T = TypeVar("T")

OBSERVED_JOBS = 20
"""How many of the latest jobs like this one tell what it will cost."""

LOG_CHUNK_BYTES = 64 * 1024
ARTIFACT_CHUNK_BYTES = 256 * 1024
FOLLOW_SECONDS = 0.3
"""How often a followed log is looked at."""
FOLLOW_SHARE_SECONDS = 0.002
"""For each stream that is open, at least: a thousand who follow are not served every 0.3 s."""

PAGE_REST = 9.0
"""How long others are left alone between two pages when several clients want one, as a multiple of
the processor time that the first took: a thousand jobs in a page take some 15 ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """A job that somebody wants, in order as far as can be seen from the request alone."""

    kind: str
    spec: Spec
    secrets: Secrets | None = None
    labels: dict[str, str] = field(default_factory=dict)
    max_duration_seconds: float | None = None
    """None: the kind's default."""
    may_queue: bool = True
    is_owed: bool = False
    """It belongs to a job that was accepted, and so is accepted, too: what cannot be done fails in
    its turn."""
    companion: "JobRequest | None" = None
    """What will be asked for in a moment: there must be room for it, too."""
    companion_of: str = ""
    """Id of the job with which room was held for this one."""
    followed_by: "JobRequest | None" = None
    """What begins after this job, and is accepted with it."""
    request_id: str = ""
    """Of the same client with the same id there is one job, however often it asks."""
    fingerprint: str = ""
    """Tells whether two requests ask for the same."""
    notices: tuple[Notice, ...] = ()
    """What was understood otherwise than it was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A job, and what was decided about it; None when it was there before."""

    job: Job
    queue_position: int = 0
    decision: Decision | None = None


class Jobs:
    """All methods belong to one event loop, and raise CallsdError."""

    def __init__(
        self,
        *,
        database: Database,
        kinds: Kinds,
        admission: AdmissionController,
        supervisor: Supervisor,
        streams: Streams,
        directory: Path,
        now: Callable[[], datetime],
    ) -> None:
        """`directory` holds the jobs' directories."""
        self._database = database
        self._kinds = kinds
        self._admission = admission
        self._supervisor = supervisor
        self._streams = streams
        self._directory = directory
        self._now = now
        self._page_turn = asyncio.Lock()
        """Held while a page is read: however many clients list, what others read in between waits
        for one page at most."""
        self._page_seconds = 0.0
        """What the last page took of a processor."""

    # One job

    async def create(
        self, creator: str, request: JobRequest, *, is_preview: bool = False
    ) -> Created:
        """Accept a job, or say why not. Once this returns, the job is on the disk.

        A preview tells what would be decided now, and keeps nothing.
        """
        job_id = job_id_of(creator, request.request_id)
        if request.request_id:
            known = await self._database.read(lambda tx: _same(tx, job_id, request.fingerprint))
            if known is not None:
                return await self._known(known)
        if not request.is_owed:
            self._streams.check_work()
        job = await self._prepare(job_id, creator, request)
        companion, follower = await self._beside(creator, request)
        if is_preview:
            return await self._preview(job, may_queue=request.may_queue)

        def place(tx: Transaction) -> Job | Placed:
            for job_id in job.after_jobs:
                tx.find(job_id)
            # Two requests with one id may have passed the first look side by side.
            if (known := _same(tx, job.id, job.payload_sha256)) is not None:
                return known
            placed = self._supervisor.place(
                tx,
                job,
                request.secrets,
                may_queue=request.may_queue,
                companion=companion,
                is_owed=request.is_owed,
                companion_of=request.companion_of,
            )
            is_refused = isinstance(placed.verdict.decision, Refuse)
            # One that is there was asked for alone: it is the same work, and goes on.
            if follower is not None and not is_refused and tx.get(follower.id) is None:
                assert request.followed_by is not None
                # It waits for the job that was placed just now, and so is in the queue.
                self._supervisor.place(
                    tx, follower, request.followed_by.secrets, may_queue=True, is_owed=True
                )
            return placed

        placed = await self._supervisor.accept(place)
        if isinstance(placed, Job):
            return await self._known(placed)
        return _created(placed.job, placed.verdict.decision)

    async def _preview(self, job: Job, *, may_queue: bool) -> Created:
        verdict = await self._database.read(
            lambda tx: self._admission.decide(tx, job, may_queue=may_queue)
        )
        record_decision(job, verdict)
        if isinstance(verdict.decision, Refuse):
            raise verdict.decision.error()
        return _created(job, verdict.decision)

    async def _known(self, job: Job) -> Created:
        position = await self._database.read(lambda tx: _queue_positions(tx, [job]))
        return Created(job=job, queue_position=position.get(job.id, 0))

    async def _beside(
        self, creator: str, request: JobRequest
    ) -> tuple[Companion | None, Job | None]:
        """The jobs that come with this one: beside it in a moment, and after it."""
        companion = follower = None
        if (wish := request.companion) is not None:
            wished = await self._prepare("", creator, wish)
            companion = Companion(
                kind=wished.kind, spec=wished.spec, reservation=wished.reservation
            )
        if (wish := request.followed_by) is not None:
            follower = await self._prepare(job_id_of(creator, wish.request_id), creator, wish)
        return companion, follower

    async def _prepare(self, job_id: str, creator: str, request: JobRequest) -> Job:
        """The job that the request asks for; raises the first reason why it cannot be done."""
        kind, spec, now = self._kinds[request.kind], request.spec, self._now()
        notices: tuple[Notice, ...] = ()
        if not request.is_owed:
            notices = await asyncio.to_thread(kind.check, spec, creator)
        max_duration = request.max_duration_seconds or kind.max_duration_seconds
        cost_key = kind.cost_key(spec)
        observed = await self._database.read(lambda tx: tx.recent_usage(cost_key, OBSERVED_JOBS))
        return Job(
            id=job_id,
            kind=request.kind,
            state=State.QUEUED,
            creator=creator,
            create_time=now,
            update_time=now,
            max_duration_seconds=max_duration,
            reservation=kind.cost(spec, max_duration, observed),
            cost_key=cost_key,
            spec=spec,
            labels=request.labels,
            request_id=request.request_id,
            payload_sha256=request.fingerprint,
            notices=(*request.notices, *notices),
            after_jobs=kind.begins_after(spec),
            delivery=kind.delivery(spec),
        )

    async def get(self, job_id: str) -> tuple[Job, int]:
        """A job and its place in the queue, 0 = not in it."""

        def read(tx: ReadTransaction) -> tuple[Job, int]:
            job = tx.find(job_id)
            return job, _queue_positions(tx, [job]).get(job.id, 0)

        return await self._database.read(read)

    async def stop(self, job_id: str, *, etag: str = "") -> Job:
        """Ask a job to end; returns it as it is then."""
        return await self._supervisor.stop(job_id, lambda job: _check_etag(job, etag))

    async def delete(self, job_id: str, *, etag: str = "") -> None:
        """Remove a finished job with its files."""

        def remove(tx: Transaction) -> None:
            job = tx.find(job_id)
            _check_etag(job, etag)
            if not job.is_final:
                raise CallsdError(
                    Reason.JOB_STATE_CONFLICT,
                    f"job {job_id} is {job.state}: stop it first",
                    metadata={"state": job.state},
                )
            if job.is_undelivered:
                raise CallsdError(
                    Reason.JOB_STATE_CONFLICT,
                    f"what job {job_id} made is not delivered yet: `callsd jobs deliveries` says "
                    "why",
                    metadata={"state": job.state},
                )
            if needed_by := tx.needed_by(job_id):
                raise CallsdError(
                    Reason.JOB_STATE_CONFLICT,
                    f"{job_name(needed_by)} takes its sound from job {job_id}, and has not ended: "
                    "wait for it, or stop it first",
                    metadata={"state": job.state, "job": job_name(needed_by)},
                )
            tx.delete(job_id)

        await self._database.write(remove)
        await asyncio.to_thread(shutil.rmtree, self._directory / job_id, ignore_errors=True)

    # Many jobs

    async def page(
        self,
        wanted: JobFilter,
        *,
        before: int | None,
        limit: int,
        render: Callable[[Job, int], T],
    ) -> tuple[Sequence[T], int | None, int]:
        """Jobs as `render` makes them of each and its place in the queue, newest first.

        Also returns what to pass as `before` for the next page, None after the last one, and the
        revision that all this is of. `render` runs beside the event loop: there may be hundreds.
        """

        def read(tx: ReadTransaction) -> tuple[Sequence[T], int | None, int]:
            began = time.thread_time()
            page = tx.page(wanted=wanted, before=before, limit=limit)
            positions = _queue_positions(tx, page.jobs)
            rendered = [render(job, positions.get(job.id, 0)) for job in page.jobs]
            self._page_seconds = time.thread_time() - began
            return rendered, page.next_before, page.revision

        is_crowded = self._page_turn.locked()
        async with self._page_turn:
            if is_crowded:
                # Pages are made on another thread, and yet with the interpreter that all share.
                await asyncio.sleep(PAGE_REST * self._page_seconds)
            return await self._database.read(read)

    # Files

    async def log(
        self, job_id: str, *, offset: int, follow: bool
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """Parts of a job's log with where they begin; with `follow` until the job has ended."""
        path = self._directory / job_id / WORKER_LOG
        job = await self._database.read(lambda tx: tx.find(job_id))
        size = await asyncio.to_thread(_size, path)
        if not 0 <= offset <= size:
            raise CallsdError(
                Reason.OFFSET_INVALID,
                f"offset {offset} is not within the log, which has {size} bytes",
                metadata={"size_bytes": str(size)},
            )
        with self._streams.open():
            while True:
                data = await asyncio.to_thread(_read, path, offset, LOG_CHUNK_BYTES)
                if data:
                    yield offset, data
                    offset += len(data)
                    continue
                if not follow or job.is_final:
                    return
                # Look at the job before the log: what it wrote before it ended is then not missed.
                job = await self._database.read(lambda tx: tx.find(job_id))
                if await asyncio.to_thread(_size, path) < offset:
                    offset = 0
                if not job.is_final:
                    streams = self._streams.count
                    await asyncio.sleep(max(FOLLOW_SECONDS, FOLLOW_SHARE_SECONDS * streams))
                    self._streams.check()

    async def artifact(
        self, job_id: str, file_name: str, *, offset: int
    ) -> AsyncGenerator[tuple[Artifact, int, bytes], None]:
        """Parts of an artifact with where they begin; the first one is empty."""
        job = await self._database.read(lambda tx: tx.find(job_id))
        path = self._directory / job_id / ARTIFACTS / file_name
        artifact = next((item for item in job.artifacts if item.file_name == file_name), None)
        if artifact is None or not await asyncio.to_thread(path.exists):
            names = ", ".join(item.file_name for item in job.artifacts) or "none yet"
            raise CallsdError(
                Reason.ARTIFACT_NOT_FOUND,
                f"job {job_id} ({job.state}) has no artifact {file_name}; it has {names}",
                metadata={"state": job.state},
            )
        if not 0 <= offset <= artifact.size_bytes:
            raise CallsdError(
                Reason.OFFSET_INVALID,
                f"offset {offset} is not within the artifact's {artifact.size_bytes} bytes",
                metadata={"size_bytes": str(artifact.size_bytes)},
            )
        with self._streams.open():
            yield artifact, offset, b""
            while data := await asyncio.to_thread(_read, path, offset, ARTIFACT_CHUNK_BYTES):
                yield artifact, offset, data
                offset += len(data)


def _created(job: Job, decision: Decision) -> Created:
    position = decision.position if isinstance(decision, Queue) else 0
    return Created(job=job, queue_position=position, decision=decision)


def _queue_positions(tx: ReadTransaction, jobs: Iterable[Job]) -> dict[str, int]:
    """Where the waiting ones among the jobs stand; the queue is looked at only if there are any."""
    return tx.queue_positions() if any(job.state is State.QUEUED for job in jobs) else {}


def _same(tx: ReadTransaction, job_id: str, fingerprint: str) -> Job | None:
    """The job that this request has made before, if it has."""
    known = tx.get(job_id)
    if known is not None and known.payload_sha256 != fingerprint:
        raise CallsdError(
            Reason.REQUEST_ID_REUSED,
            f"the request id was used for another job ({job_name(job_id)}): choose a new one",
            metadata={"job": job_name(job_id)},
        )
    return known


def _check_etag(job: Job, etag: str) -> None:
    if etag and etag != job.etag:
        raise CallsdError(
            Reason.ETAG_MISMATCH,
            f"the job has changed since {etag}, it is {job.etag} now: look at it again",
            metadata={"etag": job.etag},
        )


def job_id_of(creator: str, request_id: str) -> str:
    """An id that is the same whenever the same client repeats the same request."""
    if not request_id:
        return secrets.token_hex(10)
    return hashlib.sha256(f"{creator}\0{request_id}".encode()).hexdigest()[:20]


def _size(path: Path) -> int:
    """The length of a file; 0 when it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _read(path: Path, offset: int, size: int) -> bytes:
    """A part of a file; empty at its end, or when it is not there. Raises passing errors."""
    try:
        descriptor = open_regular(path)
    except OSError as problem:
        if problem.errno in PASSING_ERRNOS:
            raise
        return b""
    try:
        with naming(path):
            return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)
