# SPDX-License-Identifier: Apache-2.0
"""The store for those whose work cannot be refused: they wait until it answers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.store.database import BLOCKED, Database
from callsd_daemon.store.read_transaction import ReadTransaction
from callsd_daemon.store.transaction import Transaction


log = structlog.get_logger(__name__)

T = TypeVar("T")

RETRY_SECONDS = 1.0
"""Pause before the store is asked again: the disk may be full, or the file held, for a while."""


class PatientStore:
    """Asks until it is answered: no job ends because the disk is full or the file is held."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """As `Database.write`; `work` may be tried many times."""
        return await _surely(lambda: self._database.write(work))

    async def read(self, work: Callable[[ReadTransaction], T]) -> T:
        """As `Database.read`."""
        return await _surely(lambda: self._database.read(work))


async def _surely(ask: Callable[[], Awaitable[T]]) -> T:
    told: Reason | None = None
    while True:
        try:
            return await ask()
        except CallsdError as problem:
            if problem.reason not in BLOCKED:
                raise
            # Not with each try: damage never passes, and who waits for its end tries for ever.
            if problem.reason is not told:
                told = problem.reason
                # No bug of ours: no traceback.
                log.error("store_blocked", reason=told, problem=problem.message)  # noqa: TRY400
            await asyncio.sleep(RETRY_SECONDS)
