# SPDX-License-Identifier: Apache-2.0
"""Where a worker's session and its supervisor meet."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from callsd_daemon.domain.errors import CallsdError
from callsd_daemon.domain.jobs import Progress
from callsd_daemon.kinds import Assignment, Opener
from callsd_daemon.workers.captions.call import Call
from callsd_daemon.workers.takeover import Takeover
from callsd_daemon.workers.worker_log import WorkerLog


def captioner_name(model: str) -> str:
    """The name of the worker that captions with a model, in the form that jobs' names have."""
    return hashlib.sha256(f"captioner.{model}".encode()).hexdigest()[:20]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """How a worker reaches the daemon."""

    address: str
    """`unix:/path`, or `HOST:PORT`, which is TLS."""
    tls_roots: bytes = b""
    """Certificates to trust, PEM."""
    file_socket: str = ""
    """Where files are handed over as descriptors; empty: they come through the session."""


class WorkerSlot:
    """One attempt at one job, kept for the one worker that holds its token."""

    def __init__(
        self,
        resolve: Callable[[], Coroutine[Any, Any, Assignment]],
        *,
        takeover: Takeover,
        log: WorkerLog,
        generation: int,
        token_sha256: str,
    ) -> None:
        """`resolve` finds out what the work is; it raises CallsdError when it cannot be done."""
        self.takeover = takeover
        self.log = log
        self.generation = generation
        self.token_sha256 = token_sha256
        self.progress: Progress | None = None
        self.last_heard = time.monotonic()
        self.arrived = asyncio.Event()
        """Set once the worker has proved itself, and has its work."""
        self.stop = asyncio.Event()
        """Set when the worker shall be told to end, now or when it next connects."""
        self.stop_grace_seconds = 0.0
        self.refusal: CallsdError | None = None
        """Why the worker cannot be given its work."""
        self.is_over = asyncio.Event()
        """Set when the worker will tell nothing more: its outcome is kept, or there is none."""
        self.end_session: Callable[[], None] = lambda: None
        """Ends the session that there is, when another one begins."""
        self.call: Call | None = None
        """The call that its sound belongs to, while it is captioned."""
        self._resolve = resolve
        self._assignment: Assignment | None = None

    async def assignment(self) -> Assignment:
        """The work; raises CallsdError."""
        if self._assignment is None:
            self._assignment = await self._resolve()
        return self._assignment

    async def files(self) -> Mapping[str, Opener]:
        """What the worker may read."""
        return (await self.assignment()).files

    def greet(self) -> None:
        """The worker has proved itself and has its work."""
        self.last_heard = time.monotonic()
        self.arrived.set()

    def report(self, progress: Progress) -> None:
        """The worker says how far it is."""
        self.last_heard = time.monotonic()
        self.progress = progress

    def request_stop(self, grace_seconds: float) -> None:
        """Have the worker told to put its work in order and end."""
        self.stop_grace_seconds = grace_seconds
        self.stop.set()
