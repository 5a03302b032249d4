# SPDX-License-Identifier: Apache-2.0
"""JobService."""

import base64
import binascii
import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from callsd.v1 import job_pb2, job_pb2_grpc
from callsd_daemon.domain.errors import invalid_fields
from callsd_daemon.domain.jobs import Job, job_name
from callsd_daemon.kinds import Kinds
from callsd_daemon.rpc import job_messages, validate
from callsd_daemon.rpc.interceptor import caller
from callsd_daemon.rpc.kinds import mattermost
from callsd_daemon.rpc.problems import Problems
from callsd_daemon.store.read_transaction import Change
from callsd_daemon.usecases.changes import Batch, Changes
from callsd_daemon.usecases.deliveries import Deliveries
from callsd_daemon.usecases.jobs import Created, Jobs


Context = grpc.aio.ServicerContext[Any, Any]


class JobService(job_pb2_grpc.JobServiceServicer):
    """Creates jobs, reports on them, and hands out their results."""

    def __init__(
        self,
        *,
        jobs: Jobs,
        deliveries: Deliveries,
        changes: Changes,
        kinds: Kinds,
        database_id: str,
    ) -> None:
        self._jobs = jobs
        self._deliveries = deliveries
        self._changes = changes
        self._kinds = kinds
        self._database_id = database_id

    async def CreateJob(
        self, request: job_pb2.CreateJobRequest, context: Context
    ) -> job_pb2.CreateJobResponse:
        """Accept a job, or say why not."""
        asked = job_messages.job_request(request, self._kinds)
        return _created(
            await self._jobs.create(caller.get(), asked, is_preview=request.validate_only)
        )

    async def GetJob(
        self, request: job_pb2.GetJobRequest, context: Context
    ) -> job_pb2.GetJobResponse:
        """Return one job."""
        job, position = await self._jobs.get(validate.job_id(request.name))
        return job_pb2.GetJobResponse(job=job_messages.job_message(job, queue_position=position))

    async def ListJobs(
        self, request: job_pb2.ListJobsRequest, context: Context
    ) -> job_pb2.ListJobsResponse:
        """Return a page of jobs."""
        wanted = validate.job_filter(request.filter, states_allowed=True)
        if request.page_size < 0:
            raise invalid_fields([("page_size", "must not be negative")])
        jobs, next_before, revision = await self._jobs.page(
            wanted,
            before=_page_position(request),
            limit=min(request.page_size or validate.DEFAULT_PAGE_SIZE, validate.MAX_PAGE_SIZE),
            render=_listed,
        )
        return job_pb2.ListJobsResponse(
            jobs=jobs,
            next_page_token="" if next_before is None else _page_token(request, next_before),
            revision=revision,
        )

    async def StopJob(
        self, request: job_pb2.StopJobRequest, context: Context
    ) -> job_pb2.StopJobResponse:
        """Ask a job to end."""
        job = await self._jobs.stop(validate.job_id(request.name), etag=request.etag)
        return job_pb2.StopJobResponse(job=job_messages.job_message(job))

    async def DeleteJob(
        self, request: job_pb2.DeleteJobRequest, context: Context
    ) -> job_pb2.DeleteJobResponse:
        """Remove a finished job with its files."""
        await self._jobs.delete(validate.job_id(request.name), etag=request.etag)
        return job_pb2.DeleteJobResponse()

    async def PublishJob(
        self, request: job_pb2.PublishJobRequest, context: Context
    ) -> job_pb2.PublishJobResponse:
        """Deliver what a job has made, now."""
        problems = Problems()
        if request.token:
            mattermost.check_token(problems, "token", request.token)
        problems.raise_any()
        job = await self._deliveries.publish(validate.job_id(request.name), request.token)
        return job_pb2.PublishJobResponse(job=job_messages.job_message(job))

    def WatchJobs(self, request: job_pb2.WatchJobsRequest, context: Context) -> AsyncIterator[Any]:
        """Follow changes."""
        return self._changes.watch(
            validate.job_filter(request.filter, states_allowed=False),
            self._watched,
            database_id=request.database_id,
            resume_revision=(
                request.resume_revision if request.HasField("resume_revision") else None
            ),
        )

    def _watched(self, batch: Batch) -> bytes:
        """A WatchJobsResponse: bytes of one that follow those of another add to its lists."""
        rest = job_pb2.WatchJobsResponse(
            revision=batch.revision,
            initial_state_sent=batch.is_initial_state_sent,
            database_id=self._database_id,
        )
        return b"".join((*batch.messages, rest.SerializeToString()))

    async def ReadLog(
        self, request: job_pb2.ReadLogRequest, context: Context
    ) -> AsyncIterator[job_pb2.ReadLogResponse]:
        """Return a job's log."""
        job_id = validate.job_id(request.name)
        parts = self._jobs.log(job_id, offset=request.offset, follow=request.follow)
        async with contextlib.aclosing(parts):
            async for offset, data in parts:
                yield job_pb2.ReadLogResponse(offset=offset, data=data)

    async def FetchArtifact(
        self, request: job_pb2.FetchArtifactRequest, context: Context
    ) -> AsyncIterator[job_pb2.FetchArtifactResponse]:
        """Return an artifact's bytes."""
        job_id, file_name = validate.artifact(request.name)
        parts = self._jobs.artifact(job_id, file_name, offset=request.offset)
        async with contextlib.aclosing(parts):
            async for artifact, offset, data in parts:
                message = job_pb2.FetchArtifactResponse(offset=offset, data=data)
                if not data:
                    message.artifact.CopyFrom(job_messages.artifact_message(job_id, artifact))
                yield message


def render_change(change: Change) -> tuple[bytes, int]:
    """A change as all watchers are told of it, a serialised WatchJobsResponse, and its length."""
    response = job_pb2.WatchJobsResponse()
    event = response.events.add(revision=change.revision)
    if change.job is None:
        event.job_deleted = job_name(change.job_id)
    else:
        event.job_changed.CopyFrom(job_messages.job_message(change.job))
    message = response.SerializeToString()
    return message, len(message)


def _created(created: Created) -> job_pb2.CreateJobResponse:
    job, decision = created.job, created.decision
    message = job_messages.job_message(job, queue_position=created.queue_position)
    if decision is None:
        return job_pb2.CreateJobResponse(job=message)
    return job_pb2.CreateJobResponse(
        job=message, admission=job_messages.admission_message(job, decision)
    )


def _listed(job: Job, position: int) -> job_pb2.Job:
    return job_messages.job_message(job, queue_position=position)


def _filter_digest(request: job_pb2.ListJobsRequest) -> str:
    text = request.filter.SerializeToString(deterministic=True)
    return hashlib.sha256(text).hexdigest()[:16]


def _page_token(request: job_pb2.ListJobsRequest, before: int) -> str:
    return base64.urlsafe_b64encode(f"{_filter_digest(request)}:{before}".encode()).decode()


def _page_position(request: job_pb2.ListJobsRequest) -> int | None:
    if not request.page_token:
        return None
    try:
        text = base64.urlsafe_b64decode(request.page_token.encode()).decode()
        digest, _, before = text.partition(":")
        if digest == _filter_digest(request) and 0 <= (position := int(before)) < 1 << 63:
            return position
    except (binascii.Error, ValueError):
        pass
    raise invalid_fields([("page_token", "is not one of ours for this filter")])
