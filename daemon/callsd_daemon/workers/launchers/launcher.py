# SPDX-License-Identifier: Apache-2.0
"""What a launcher is: it starts workers, and is the only one who knows what they are made of.

Nobody else has a process id, reads /proc, or knows where a worker's directory lies. What passes
between daemon and worker passes through the session; a launcher whose workers are on this disk may
hand a finished file over by itself, which is faster.
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
    """Which worker is meant."""

    name: str
    """Of the job, or of the captioner. One worker bears it at a time, and it has one directory for
    all that bear it one after the other."""
    tag: str
    """Tells those apart."""
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a worker ended, as far as it is known: nobody tells of a stranger's end."""

    exit_code: int | None = None
    """None when it is not known, or a signal ended it."""
    signal: str = ""
    """Name of the signal that ended it."""
    is_out_of_memory: bool = False
    """Whether it was ended because it had more than its share."""


class WorkerProcess(Protocol):
    """A worker that was started or adopted."""

    exited: asyncio.Event
    end: End
    """Known once `exited` is set."""

    async def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still lives."""

    async def age_seconds(self) -> float | None:
        """How long ago it was started, on a clock that nobody sets; None when that is not known."""

    def detach(self) -> None:
        """Stop watching; the worker goes on."""


class Launcher(Protocol):
    """How workers are started."""

    is_local: bool
    """Whether workers can dial this machine's own sockets, and be handed descriptors there."""
    epoch: str
    """What was started under another one is gone, such as all processes after a boot."""

    async def launch(self, worker: WorkerId, bootstrap: bytes, limits: Limits) -> WorkerProcess:
        """Start a worker in its directory, with `bootstrap` as its input; raises OSError.

        Its output goes to the file `log.txt` there.
        """

    async def adopt(self, worker: WorkerId) -> WorkerProcess | None:
        """The worker that an earlier daemon started, if it lives."""

    async def last_end(self, worker: WorkerId) -> End:
        """How the latest worker of this name ended, when nobody was there to be told."""

    async def sweep(self, worker: WorkerId) -> bool:
        """Kill all that the worker has started, and wait until it is gone; False if some stays."""

    async def adjust(self, worker: WorkerId, limits: Limits) -> None:
        """Change what a running worker may take; raises OSError."""

    def spent(self) -> dict[str, Spent]:
        """What the workers that run have taken, by name; blocks for milliseconds."""

    # What lies in a worker's directory. The daemon is told of most of it by the worker itself.

    def leftovers(self, name: str) -> frozenset[str] | None:
        """Names of what lies there; None when this launcher cannot look. Blocks."""

    def take(self, name: str, file: str, target: Path) -> bool:
        """Move a file from there to `target`; False when it must come through the session.

        Raises OSError. It is a stranger's file, before and after. Blocks.
        """

    def read_log(self, name: str, offset: int, size: int) -> bytes:
        """A part of the log; empty when there is none, or it cannot be looked at. Blocks."""

    def bound_log(self, name: str, max_bytes: int) -> None:
        """Cut the log when it has grown too long; raises OSError. Blocks."""

    def give_pieces(self, name: str, source: Path) -> None:
        """Move what was recorded elsewhere, in `source`, there; raises OSError. Blocks.

        Recorders of the release before left it in the job's directory.
        """

    def discard(self, name: str) -> None:
        """Remove the directory, once no worker uses it. Blocks."""

    def names(self) -> frozenset[str]:
        """All names that have a directory. Blocks."""
