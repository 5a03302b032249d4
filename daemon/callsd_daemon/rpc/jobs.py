# SPDX-License-Identifier: Apache-2.0
"""JobService."""

import asyncio
import base64
import binascii
import hashlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import grpc

from callsd.v1 import capacity_pb2, job_pb2, job_pb2_grpc
from callsd_daemon.domain.admission import Decision, Queue, Refuse
from callsd_daemon.domain.errors import CallsdError, Reason, invalid_fields
from callsd_daemon.domain.jobs import Job, State
from callsd_daemon.files import open_regular
from callsd_daemon.rpc import convert, validate, validate_recording
from callsd_daemon.rpc.auth import caller
from callsd_daemon.rpc.hub import Hub
from callsd_daemon.rpc.intake import Intake
from callsd_daemon.rpc.watch import watch
from callsd_daemon.store.database import Database
from callsd_daemon.store.read_transaction import Page, ReadTransaction
from callsd_daemon.store.transaction import Transaction
from callsd_daemon.workers.admission import AdmissionController, tell
from callsd_daemon.workers.slot import ARTIFACTS, WORKER_LOG
from callsd_daemon.workers.supervisor import Placed, Supervisor


LOG_CHUNK_BYTES = 64 * 1024
ARTIFACT_CHUNK_BYTES = 256 * 1024
FOLLOW_SECONDS = 0.3
"""How often a followed log is looked at."""

Context = grpc.aio.ServicerContext[Any, Any]


class JobService(job_pb2_grpc.JobServiceServicer):
    """Creates jobs, reports on them, and hands out their results."""

    def __init__(
        self,
        *,
        database: Database,
        hub: Hub,
        admission: AdmissionController,
        supervisor: Supervisor,
        intake: Intake,
        directory: Path,
    ) -> None:
        self._database = database
        self._hub = hub
        self._admission = admission
        self._supervisor = supervisor
        self._intake = intake
        self._directory = directory

    async def CreateJob(
        self, request: job_pb2.CreateJobRequest, context: Context
    ) -> job_pb2.CreateJobResponse:
        """Accept a job, or say why not."""
        creator = caller.get()
        payload = self._intake.payload_sha256(request)
        job_id = _job_id(creator, request.request_id)
        if request.request_id:
            known = await self._database.read(lambda tx: _same(tx, job_id, payload))
            if known is not None:
                return job_pb2.CreateJobResponse(job=await self._message(known))
        self._hub.check_work()
        job = await self._intake.job(request, job_id=job_id, creator=creator, payload=payload)
        if request.validate_only:
            return await self._verdict(job, may_queue=not request.no_queue)
        page_secrets = validate_recording.page_secrets(request.job)
        placed = await self._supervisor.accept(
            lambda tx: _same_or(
                tx,
                job,
                lambda: self._supervisor.place(
                    tx, job, page_secrets, may_queue=not request.no_queue
                ),
            )
        )
        if isinstance(placed, Job):
            return job_pb2.CreateJobResponse(job=await self._message(placed))
        decision = placed.verdict.decision
        position = decision.position if isinstance(decision, Queue) else 0
        return job_pb2.CreateJobResponse(
            job=convert.job_message(placed.job, queue_position=position),
            admission=_admission(placed.job, decision),
        )

    async def _verdict(self, job: Job, *, may_queue: bool) -> job_pb2.CreateJobResponse:
        verdict = await self._database.read(
            lambda tx: self._admission.decide(tx, job, may_queue=may_queue)
        )
        tell(job, verdict)
        if isinstance(verdict.decision, Refuse):
            raise verdict.decision.error()
        return job_pb2.CreateJobResponse(
            job=convert.job_message(job), admission=_admission(job, verdict.decision)
        )

    async def GetJob(
        self, request: job_pb2.GetJobRequest, context: Context
    ) -> job_pb2.GetJobResponse:
        """Return one job."""
        job_id = validate.job_id(request.name)
        job = await self._database.read(lambda tx: tx.find(job_id))
        return job_pb2.GetJobResponse(job=await self._message(job))

    async def ListJobs(
        self, request: job_pb2.ListJobsRequest, context: Context
    ) -> job_pb2.ListJobsResponse:
        """Return a page of jobs."""
        wanted = validate.job_filter(request.filter, states_allowed=True)
        if request.page_size < 0:
            raise invalid_fields([("page_size", "must not be negative")])
        size = min(request.page_size or validate.DEFAULT_PAGE_SIZE, validate.MAX_PAGE_SIZE)
        before = _page_position(request)

        def read(tx: ReadTransaction) -> tuple[Page, list[job_pb2.Job]]:
            page = tx.page(
                states=wanted.states,
                kinds=wanted.kinds,
                labels=wanted.labels,
                ids=wanted.ids,
                before=before,
                limit=size,
            )
            positions = _queue_positions(tx, page.jobs)
            # Made here, as there may be hundreds: the event loop goes on meanwhile.
            return page, [
                convert.job_message(job, queue_position=positions.get(job.id, 0))
                for job in page.jobs
            ]

        page, jobs = await self._database.read(read)
        return job_pb2.ListJobsResponse(
            jobs=jobs,
            next_page_token=(
                "" if page.next_before is None else _page_token(request, page.next_before)
            ),
            revision=page.revision,
        )

    async def StopJob(
        self, request: job_pb2.StopJobRequest, context: Context
    ) -> job_pb2.StopJobResponse:
        """Ask a job to end."""
        job_id = validate.job_id(request.name)
        job = await self._supervisor.stop(job_id, _etag_check(request.etag))
        return job_pb2.StopJobResponse(job=convert.job_message(job))

    async def DeleteJob(
        self, request: job_pb2.DeleteJobRequest, context: Context
    ) -> job_pb2.DeleteJobResponse:
        """Remove a finished job with its files."""
        job_id, check = validate.job_id(request.name), _etag_check(request.etag)

        def remove(tx: Transaction) -> None:
            job = tx.find(job_id)
            check(job)
            if not job.is_final:
                raise CallsdError(
                    Reason.JOB_STATE_CONFLICT,
                    f"job {job_id} is {job.state}: stop it first",
                    metadata={"state": job.state},
                )
            tx.delete(job_id)

        await self._database.write(remove)
        await asyncio.to_thread(shutil.rmtree, self._directory / job_id, ignore_errors=True)
        return job_pb2.DeleteJobResponse()

    async def WatchJobs(
        self, request: job_pb2.WatchJobsRequest, context: Context
    ) -> AsyncIterator[job_pb2.WatchJobsResponse]:
        """Follow changes."""
        async for message in watch(request, self._database, self._hub):
            yield message

    async def ReadLog(
        self, request: job_pb2.ReadLogRequest, context: Context
    ) -> AsyncIterator[job_pb2.ReadLogResponse]:
        """Return a job's log."""
        job_id, offset = validate.job_id(request.name), request.offset
        path = self._directory / job_id / WORKER_LOG
        job = await self._database.read(lambda tx: tx.find(job_id))
        size = path.stat().st_size if path.exists() else 0
        if not 0 <= offset <= size:
            raise CallsdError(
                Reason.OFFSET_INVALID,
                f"offset {offset} is not within the log, which has {size} bytes",
                metadata={"size_bytes": str(size)},
            )
        with self._hub.stream():
            while True:
                data = await asyncio.to_thread(_read, path, offset, LOG_CHUNK_BYTES)
                if data:
                    yield job_pb2.ReadLogResponse(offset=offset, data=data)
                    offset += len(data)
                    continue
                if not request.follow or job.is_final:
                    return
                # Look at the job before the log: what it wrote before it ended is then not missed.
                job = await self._database.read(lambda tx: tx.find(job_id))
                if path.exists() and path.stat().st_size < offset:
                    offset = 0
                if not job.is_final:
                    await self._hub.wait(FOLLOW_SECONDS)

    async def FetchArtifact(
        self, request: job_pb2.FetchArtifactRequest, context: Context
    ) -> AsyncIterator[job_pb2.FetchArtifactResponse]:
        """Return an artifact's bytes."""
        job_id, file_name = validate.artifact(request.name)
        job = await self._database.read(lambda tx: tx.find(job_id))
        path = self._directory / job_id / ARTIFACTS / file_name
        artifact = next((item for item in job.artifacts if item.file_name == file_name), None)
        if artifact is None or not path.exists():
            names = ", ".join(item.file_name for item in job.artifacts) or "none yet"
            raise CallsdError(
                Reason.ARTIFACT_NOT_FOUND,
                f"job {job_id} ({job.state}) has no artifact {file_name}; it has {names}",
                metadata={"state": job.state},
            )
        if not 0 <= request.offset <= artifact.size_bytes:
            raise CallsdError(
                Reason.OFFSET_INVALID,
                f"offset {request.offset} is not within the artifact's {artifact.size_bytes} bytes",
                metadata={"size_bytes": str(artifact.size_bytes)},
            )
        with self._hub.stream():
            offset = request.offset
            first = convert.artifact_message(job_id, artifact)
            yield job_pb2.FetchArtifactResponse(artifact=first, offset=offset)
            while data := await asyncio.to_thread(_read, path, offset, ARTIFACT_CHUNK_BYTES):
                yield job_pb2.FetchArtifactResponse(offset=offset, data=data)
                offset += len(data)

    async def _message(self, job: Job) -> job_pb2.Job:
        positions = await self._database.read(lambda tx: _queue_positions(tx, [job]))
        return convert.job_message(job, queue_position=positions.get(job.id, 0))


def _queue_positions(tx: ReadTransaction, jobs: Iterable[Job]) -> dict[str, int]:
    """Where the waiting ones among the jobs stand; the queue is looked at only if there are any."""
    return tx.queue_positions() if any(job.state is State.QUEUED for job in jobs) else {}


def _same(tx: ReadTransaction, job_id: str, payload: str) -> Job | None:
    """The job that this request has made before, if it has."""
    known = tx.get(job_id)
    if known is not None and known.payload_sha256 != payload:
        raise CallsdError(
            Reason.REQUEST_ID_REUSED,
            f"the request id was used for another job ({convert.job_name(job_id)}): choose a "
            "new one",
            metadata={"job": convert.job_name(job_id)},
        )
    return known


def _same_or(tx: ReadTransaction, job: Job, place: Callable[[], Placed]) -> Job | Placed:
    # Two calls with one request id may have passed the first look side by side.
    return _same(tx, job.id, job.payload_sha256) or place()


def _etag_check(etag: str) -> Callable[[Job], None]:
    def check(job: Job) -> None:
        if etag and etag != convert.etag(job):
            raise CallsdError(
                Reason.ETAG_MISMATCH,
                f"the job has changed since {etag}, it is {convert.etag(job)} now: look at it "
                "again",
                metadata={"etag": convert.etag(job)},
            )

    return check


def _admission(job: Job, decision: Decision) -> capacity_pb2.Admission:
    message = capacity_pb2.Admission(
        decision=capacity_pb2.ADMISSION_DECISION_ADMIT,
        reservation=convert.reservation_message(job.reservation),
    )
    if isinstance(decision, Queue):
        message.decision = capacity_pb2.ADMISSION_DECISION_QUEUE
        message.queue_position = decision.position
        message.waiting_for = convert.REASONS[decision.reason]
    return message


def _job_id(creator: str, request_id: str) -> str:
    """An id that is the same whenever the same client repeats the same request."""
    if not request_id:
        return secrets.token_hex(10)
    return hashlib.sha256(f"{creator}\0{request_id}".encode()).hexdigest()[:20]


def _filter_mark(request: job_pb2.ListJobsRequest) -> str:
    text = request.filter.SerializeToString(deterministic=True)
    return hashlib.sha256(text).hexdigest()[:16]


def _page_token(request: job_pb2.ListJobsRequest, before: int) -> str:
    return base64.urlsafe_b64encode(f"{_filter_mark(request)}:{before}".encode()).decode()


def _page_position(request: job_pb2.ListJobsRequest) -> int | None:
    if not request.page_token:
        return None
    try:
        text = base64.urlsafe_b64decode(request.page_token.encode()).decode()
        mark, _, before = text.partition(":")
        if mark == _filter_mark(request) and 0 <= (position := int(before)) < 1 << 63:
            return position
    except (binascii.Error, ValueError):
        pass
    raise invalid_fields([("page_token", "is not one of ours for this filter")])


def _read(path: Path, offset: int, size: int) -> bytes:
    try:
        descriptor = open_regular(path)
    except OSError:
        return b""
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)
