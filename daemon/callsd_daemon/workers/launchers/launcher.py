# SPDX-License-Identifier: Apache-2.0
"""What a launcher is: it starts workers, and only it knows how they run.

No other part uses process ids, reads /proc, or knows where a worker's directory is. Daemon and
worker exchange everything through the session; a launcher whose workers are on the same disk may
move a finished file itself, which is faster.
"""

import asyncio
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from callsd_daemon.domain.jobs import Reservation
from callsd_daemon.host.probe import Spent
from callsd_daemon.kinds import Role


BATCH_WEIGHT = 20
LIVE_WEIGHT = 500
"""Weights of workers that compete for the processor; systemd's own default is 100."""

MEMORY_FACTOR = 2
"""The reservation is what such jobs needed so far. A job may need more, but one that needs twice as
much has gone wrong, and must not affect others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a worker may use, where the launcher can enforce it."""

    cpu_weight: int
    cores: float | None
    """None: as many as there are."""
    memory_bytes: int


def limits(reservation: Reservation, *, is_batch: bool) -> Limits:
    """What a worker may take, given what its job, or all its calls, are charged."""
    return Limits(
        cpu_weight=BATCH_WEIGHT if is_batch else LIVE_WEIGHT,
        # Live work that is cut off at its usual cost is spoiled at its first busy second.
        cores=reservation.cores if is_batch else None,
        memory_bytes=MEMORY_FACTOR * reservation.memory_bytes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerId:
    """Identifies a worker."""

    name: str
    """Of the job, or of the captioner. Workers that follow each other in a job have the same name
    and the same directory; only one of them runs at a time."""
    tag: str
    """Different for each worker of the same name."""
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a worker ended, as far as is known: only of its own children a process learns it."""

    exit_code: int | None = None
    """None when it is not known, or a signal ended it."""
    signal: str = ""
    """Name of the signal that ended it."""
    is_out_of_memory: bool = False
    """Whether it was killed because it used more than its limit."""


class WorkerProcess(Protocol):
    """A worker that was started or adopted."""

    exited: asyncio.Event
    end: End
    """Known once `exited` is set."""

    async def send(self, number: signal.Signals) -> None:
        """Send a signal, if the worker still runs."""

    async def age_seconds(self) -> float | None:
        """How long ago it was started, on the monotonic clock; None when that is not known."""

    def detach(self) -> None:
        """Stop watching; the worker goes on."""


class Launcher(Protocol):
    """How workers are started."""

    is_local: bool
    """Whether workers can use unix sockets of this machine, and get descriptors through them."""
    epoch: str
    """Changes when all workers are gone, as at each boot of the machine."""

    async def launch(self, worker: WorkerId, bootstrap: bytes, limits: Limits) -> WorkerProcess:
        """Start a worker in its directory, with `bootstrap` on its stdin; raises OSError.

        Its output goes to `log.txt` there.
        """

    async def adopt(self, worker: WorkerId) -> WorkerProcess | None:
        """The worker that an earlier daemon started, if it still runs."""

    async def last_end(self, worker: WorkerId) -> End:
        """How the latest worker of this name ended, if it ended while no daemon watched."""

    async def sweep(self, worker: WorkerId) -> bool:
        """Kill the worker and all that it has started, and wait; False if something is left."""

    async def adjust(self, worker: WorkerId, limits: Limits) -> None:
        """Change the limits of a running worker; raises OSError."""

    def spent(self) -> dict[str, Spent]:
        """What running workers have used, by name; blocks for milliseconds."""

    # The worker's directory. The daemon learns most of it from the worker's reports.

    def leftovers(self, name: str) -> frozenset[str] | None:
        """Names of the files there; None when this launcher has no access. Blocks."""

    def take(self, name: str, file: str, target: Path) -> bool:
        """Move a file from there to `target`; False when it must come through the session.

        Raises OSError. The file is not to be trusted, before and after. Blocks.
        """

    def read_log(self, name: str, offset: int, size: int) -> bytes:
        """A part of the log; empty when there is none, or no access to it. Blocks."""

    def bound_log(self, name: str, max_bytes: int) -> None:
        """Empty the log but for a mark when it has grown too long; raises OSError. Blocks."""

    def give_pieces(self, name: str, source: Path) -> None:
        """Move the pieces of a recording from `source` there; raises OSError. Blocks.

        Recorders of the release before left them in the job's directory.
        """

    def discard(self, name: str) -> None:
        """Remove the directory; no worker may use it any more. Blocks."""

    def names(self) -> frozenset[str]:
        """All names that have a directory. Blocks."""
