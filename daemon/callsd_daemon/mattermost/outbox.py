# SPDX-License-Identifier: Apache-2.0
"""Sees to it that what jobs have made gets to where it belongs, for as long as that takes."""

import asyncio
import contextlib
import functools
import ssl
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from callsd_daemon.domain.errors import CallsdError
from callsd_daemon.domain.jobs import Job
from callsd_daemon.metrics import DELIVERIES_OLDEST, DELIVERIES_PENDING
from callsd_daemon.store.database import BLOCKED, Database
from callsd_daemon.store.read_transaction import Change


if TYPE_CHECKING:
    import aiohttp

    from callsd_daemon.mattermost.courier import Courier


log = structlog.get_logger(__name__)

UPLOADS_AT_ONCE = 2
LOOK_SECONDS = 10.0
"""How often it is looked whether everybody has a courier, besides with each change."""


class Outbox:
    """Has a courier for each job of which something is to be delivered.

    Belongs to one event loop.
    """

    def __init__(
        self,
        *,
        database: Database,
        directory: Path,
        ca_file: str,
        now: Callable[[], datetime],
        budget: Callable[[], timedelta],
    ) -> None:
        """`directory` holds the jobs' directories; `budget` is for how long one is tried.

        Raises OSError when the certificates in `ca_file` cannot be read.
        """
        self._database = database
        self._directory = directory
        self._ca_file = ca_file
        if ca_file:
            trusted(ca_file)  # what is wrong with it is told now
        self._now = now
        self._budget = budget
        self._turn = asyncio.Semaphore(UPLOADS_AT_ONCE)
        self._couriers: dict[str, Courier] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()

    def notice(self, changes: Iterable[Change]) -> None:
        """Have a look at jobs that have changed."""
        for change in changes:
            job = change.job
            if job is None or job.delivery is None:
                continue
            if job.is_undelivered and job.id not in self._couriers:
                self._changed.set()
            for job_id, courier in self._couriers.items():
                if job.id == job_id or job.id in courier.after_jobs:
                    courier.wake()

    async def run(self) -> None:
        """Until this is cancelled."""
        while not (pending := await self._pending()):
            await self._wait()
        # Loaded when it is needed: it takes 10 MB, and few daemons have to do with Mattermost.
        from callsd_daemon.mattermost.site import open_session

        async with open_session(trusted(self._ca_file)) as session:
            try:
                while True:
                    self._serve(pending, session)
                    await self._wait()
                    pending = await self._pending()
            finally:
                for task in self._tasks.values():
                    task.cancel()
                await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await self._changed.wait()

    async def _pending(self) -> tuple[Job, ...]:
        """Jobs of which something is to be delivered."""
        self._changed.clear()
        if self._database.is_damaged:
            return ()  # what was done at a site cannot be written down: it would be done again
        pending: tuple[Job, ...] = ()
        with contextlib.suppress(CallsdError):
            pending = await self._database.read(lambda tx: tx.undelivered())
        ends = [job.end_time for job in pending if job.end_time is not None]
        DELIVERIES_PENDING.set(len(ends))
        DELIVERIES_OLDEST.set(max(((self._now() - end).total_seconds() for end in ends), default=0))
        return pending

    def _serve(self, pending: Iterable[Job], session: "aiohttp.ClientSession") -> None:
        """Give each of these jobs a courier."""
        from callsd_daemon.mattermost.courier import Courier

        new = [job for job in pending if job.id not in self._couriers]
        for job in new:
            courier = self._couriers[job.id] = Courier(
                job.id,
                database=self._database,
                session=session,
                directory=self._directory,
                now=self._now,
                budget=self._budget,
                turn=self._turn,
            )
            task = asyncio.create_task(courier.run(), name=f"delivery of {job.id}")
            self._tasks[job.id] = task
            task.add_done_callback(functools.partial(self._ended, job.id))
        # A new job brings a new token: others may have waited for it.
        for courier in self._couriers.values() if new else ():
            courier.wake()

    def _ended(self, job_id: str, task: "asyncio.Task[None]") -> None:
        """Forget a courier; one that has failed is replaced at the next look."""
        del self._couriers[job_id], self._tasks[job_id]
        problem = None if task.cancelled() else task.exception()
        if isinstance(problem, CallsdError) and problem.reason in BLOCKED:
            log.warning("delivery_delayed", job_id=job_id, problem=problem.message)
        elif problem is not None:
            log.error("delivery_failed", job_id=job_id, exc_info=problem)


def trusted(ca_file: str) -> ssl.SSLContext:
    """Whose certificates are believed: the system's, and those in the file. Raises OSError.

    Made when it is needed: the system's take some megabytes.
    """
    context = ssl.create_default_context()
    if ca_file:
        context.load_verify_locations(ca_file)
    return context
