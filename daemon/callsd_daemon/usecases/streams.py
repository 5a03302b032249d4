# SPDX-License-Identifier: Apache-2.0
"""Places for long-lived requests, and the end of all of them when the daemon shuts down."""

import contextlib
import random
from collections.abc import Iterator

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.metrics import WATCHES


DRAIN_RETRY_SECONDS = (0.5, 2.0)


class Streams:
    """Belongs to one event loop."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._is_draining = self._is_closed = False

    @property
    def count(self) -> int:
        """Streams that are open."""
        return self._count

    @property
    def is_draining(self) -> bool:
        """Whether the daemon takes no more work, as it is about to shut down."""
        return self._is_draining

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Hold one of the places. Raises STREAMS_EXHAUSTED when all are taken."""
        self.check()
        if self._count >= self._limit:
            raise CallsdError(
                Reason.STREAMS_EXHAUSTED,
                f"{self._count} streams are open, and server.max_watches allows no more",
                metadata={"limit": str(self._limit)},
                retry_after_seconds=10.0,
            )
        self._count += 1
        WATCHES.inc()
        try:
            yield
        finally:
            self._count -= 1
            WATCHES.dec()

    def drain(self) -> None:
        """Take no more work; streams go on."""
        self._is_draining = True

    def close(self) -> None:
        """Have all streams end at their next check, and open no more."""
        self._is_draining = self._is_closed = True

    def check_work(self) -> None:
        """Raise DRAINING when no more work is taken."""
        self._check(self._is_draining)

    def check(self) -> None:
        """Raise DRAINING when streams have to end."""
        self._check(self._is_closed)

    @staticmethod
    def _check(is_over: bool) -> None:  # noqa: FBT001 - private, and named by its two callers
        if is_over:
            # Everyone is sent away at once and must not come back at once.
            raise CallsdError(
                Reason.DRAINING,
                "the server is shutting down: try again",
                retry_after_seconds=random.uniform(*DRAIN_RETRY_SECONDS),  # noqa: S311 - no secret
            )
