# SPDX-License-Identifier: Apache-2.0
"""What every launcher does, and what it holds a worker to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from callsd_daemon.domain.jobs import BATCH_KINDS, Job, Reservation
from callsd_daemon.workers.process import End, Process


BATCH_WEIGHT = 20
LIVE_WEIGHT = 500
"""Shares of the processor among workers that all want it; systemd's own default is 100."""

MEMORY_FACTOR = 2
"""What is reserved is what such jobs needed so far. One that needs more is given more, but one that
needs twice as much is out of hand, and must not take the others with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a worker may take, where the launcher can hold it to that."""

    cpu_weight: int
    cores: float | None
    """At most so many; None: as many as there are."""
    memory_bytes: int


def limits_of(job: Job) -> Limits:
    """What a job's reservation allows its worker."""
    is_batch = job.kind in BATCH_KINDS
    return Limits(
        cpu_weight=BATCH_WEIGHT if is_batch else LIVE_WEIGHT,
        # Live work that is cut off at its usual cost is spoiled at its first busy second.
        cores=job.reservation.cores if is_batch else None,
        memory_bytes=MEMORY_FACTOR * job.reservation.memory_bytes,
    )


def limits_of_service(reservation: Reservation) -> Limits:
    """What a worker that serves live calls may take, given what they are all charged."""
    return Limits(
        cpu_weight=LIVE_WEIGHT, cores=None, memory_bytes=MEMORY_FACTOR * reservation.memory_bytes
    )


class Launcher(Protocol):
    """How workers are started on this machine. Each has a directory of its own."""

    async def launch(self, mark: str, bootstrap: bytes, directory: Path, limits: Limits) -> Process:
        """Start a worker, whose standard input is `bootstrap`; raises OSError."""

    def adopt(self, mark: str, directory: Path) -> Process | None:
        """The worker that an earlier daemon started under this mark, if it lives."""

    async def last_end(self, directory: Path) -> End:
        """How the latest worker in this directory ended, when nobody was there to be told."""

    async def adjust(self, directory: Path, limits: Limits) -> None:
        """Change what a running worker may take."""
