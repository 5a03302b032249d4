# SPDX-License-Identifier: Apache-2.0
"""ServerService."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any

import grpc

from callsd.v1 import capacity_pb2, server_pb2, server_pb2_grpc
from callsd_daemon.domain.admission import Account
from callsd_daemon.domain.jobs import job_name
from callsd_daemon.domain.transcription import Engine
from callsd_daemon.kinds import Kinds
from callsd_daemon.rpc import convert
from callsd_daemon.rpc.job_messages import MAX_JOB_BYTES
from callsd_daemon.rpc.kinds.transcription import MAX_TRACKS
from callsd_daemon.store.database import HISTORY_REVISIONS, Database
from callsd_daemon.store.read_transaction import ReadTransaction
from callsd_daemon.usecases.streams import Streams
from callsd_daemon.workers.admission import AdmissionController
from callsd_daemon.workers.captions.call import MAX_SPEAKERS


CAPACITY_SECONDS = 1.0
"""How often a watched capacity is looked at."""

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What changes with the configuration only."""

    start_time: datetime
    engines: tuple[Engine, ...]
    default_model: str
    default_caption_model: str
    max_message_bytes: int
    max_upload_bytes: int
    max_threads: int
    max_watches: int
    retention_seconds: float


class ServerService(server_pb2_grpc.ServerServiceServicer):
    """Tells about the server."""

    def __init__(
        self,
        *,
        facts: Callable[[], Facts],
        database: Database,
        admission: AdmissionController,
        kinds: Kinds,
        streams: Streams,
    ) -> None:
        self._facts = facts
        self._database = database
        self._admission = admission
        self._kinds = kinds
        self._streams = streams

    async def GetServerInfo(
        self, request: server_pb2.GetServerInfoRequest, context: Context
    ) -> server_pb2.GetServerInfoResponse:
        """Return versions, limits and features."""
        facts = self._facts()
        info = server_pb2.ServerInfo(
            version=version("callsd"),
            database_id=self._database.database_id,
            start_time=convert.timestamp(facts.start_time),
            kinds=[convert.KINDS[kind] for kind in self._kinds if kind in convert.KINDS],
            engines=[convert.ENGINES[engine] for engine in facts.engines],
            default_model=facts.default_model,
            default_caption_model=facts.default_caption_model,
            limits=server_pb2.Limits(
                max_message_bytes=facts.max_message_bytes,
                max_job_bytes=MAX_JOB_BYTES,
                max_upload_bytes=facts.max_upload_bytes,
                max_tracks=MAX_TRACKS,
                max_threads=facts.max_threads,
                history_revisions=HISTORY_REVISIONS,
                max_watches=facts.max_watches,
                max_call_speakers=MAX_SPEAKERS,
                job_retention=convert.duration(facts.retention_seconds),
            ),
            draining=self._streams.is_draining,
        )
        return server_pb2.GetServerInfoResponse(server_info=info)

    async def GetCapacity(
        self, request: server_pb2.GetCapacityRequest, context: Context
    ) -> server_pb2.GetCapacityResponse:
        """Return what the machine can carry now."""
        return server_pb2.GetCapacityResponse(capacity=await self._capacity())

    async def WatchCapacity(
        self, request: server_pb2.WatchCapacityRequest, context: Context
    ) -> AsyncIterator[server_pb2.WatchCapacityResponse]:
        """Send the capacity at once and whenever it changes."""
        told: capacity_pb2.Capacity | None = None
        with self._streams.open():
            while True:
                capacity = await self._capacity()
                if told is None or _differs(capacity, told):
                    told = capacity
                    yield server_pb2.WatchCapacityResponse(capacity=capacity)
                self._streams.check()
                await asyncio.sleep(CAPACITY_SECONDS)

    async def _capacity(self) -> capacity_pb2.Capacity:
        return await self._database.read(self._read)

    def _read(self, tx: ReadTransaction) -> capacity_pb2.Capacity:
        policy, host, running = self._admission.policy, self._admission.host, tx.running()
        accounts = self._admission.accounts(tx)
        message = capacity_pb2.Capacity(
            cores=_account(accounts["cores"]),
            memory_bytes=_account(accounts["memory_bytes"]),
            disk_bytes=_account(accounts["disk_bytes"]),
            kinds=[
                capacity_pb2.KindCapacity(
                    kind=convert.KINDS[kind],
                    running=running.get(kind, 0),
                    limit=policy.max_per_kind.get(kind, 0),
                )
                for kind in self._kinds
                if kind in convert.KINDS
            ],
            running_jobs=sum(running.values()),
            max_concurrent_jobs=policy.max_concurrent_jobs,
            queued_jobs=tx.queue_length(),
            max_queued_jobs=policy.max_queued_jobs,
            draining=self._streams.is_draining,
            jobs=[
                capacity_pb2.JobLoad(
                    job=job_name(job_id), cores=use.cores, memory_bytes=use.memory_bytes
                )
                for job_id in sorted(job.id for job in tx.active())
                if (use := self._admission.uses.get(job_id)) is not None
            ],
        )
        if host.cpu_pressure is not None:
            message.cpu_pressure = host.cpu_pressure
        message.observe_time.CopyFrom(convert.timestamp(self._admission.host_time))
        return message


def _account(account: Account) -> capacity_pb2.ResourceCapacity:
    return capacity_pb2.ResourceCapacity(
        total=account.total,
        headroom=account.headroom,
        reserved=account.reserved,
        external=account.external,
        available=account.available,
    )


def _differs(new: capacity_pb2.Capacity, old: capacity_pb2.Capacity) -> bool:
    """Whether more has changed than the time of the look."""
    same_time = capacity_pb2.Capacity()
    same_time.CopyFrom(new)
    same_time.observe_time.CopyFrom(old.observe_time)
    return same_time != old
