# SPDX-License-Identifier: Apache-2.0
"""Streams that outlive a connection: when to come back, and from where.

A `Resumable` knows what to ask for next and what an answer means, but does no I/O: the sync and
the asyncio client each have one short loop that drives any of them.
"""

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import grpc

from callsd._errors import CallsdError, DeadlineError, UnavailableError


# A restart takes about a second: the first tries come quickly, later ones spare the server.
FIRST_DELAY_SECONDS = 0.1
MAX_DELAY_SECONDS = 5.0

DEFAULT_PATIENCE_SECONDS = 300.0
"""How long a stream waits for a server that has answered to come back."""

# Statuses that say "this stream is over", not "this request is wrong". A server that stops
# abruptly cancels its streams; a cancellation of our own never arrives here as a status.
_RETRIED_CODES = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
_MASKING_CODES = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})
_RETRIED_REASONS = frozenset({"SLOW_CONSUMER", "STREAMS_EXHAUSTED"})

Request = TypeVar("Request")
Response = TypeVar("Response")
Item = TypeVar("Item")


class Backoff:
    """Decides after each failure whether to come back, and when.

    A stream to a server that never answered fails at once: its address is probably wrong. Any other
    is resumed until `patience_seconds` have gone by without an answer.
    """

    def __init__(
        self,
        *,
        patience_seconds: float = DEFAULT_PATIENCE_SECONDS,
        timeout_seconds: float | None = None,
        is_known: bool = False,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`is_known`: the server has answered before, to another request."""
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._jitter = jitter
        self._deadline = None if timeout_seconds is None else clock() + timeout_seconds
        self._failures = 0
        self._last_answer = clock() if is_known else None
        self._has_begun = False

    def remaining_seconds(self) -> float | None:
        """Time left for the whole stream; None without a limit."""
        return None if self._deadline is None else max(self._deadline - self._clock(), 0.0)

    def answered(self) -> None:
        """Take note that the server answered."""
        self._failures = 0
        self._last_answer = self._clock()
        self._has_begun = True

    def failed(self, error: CallsdError, *, is_passing: bool = False) -> float:
        """Seconds to wait before the next try.

        Args:
            error: What went wrong.
            is_passing: Another try may help although the error does not look like it.

        Raises:
            CallsdError: `error` itself, when another try is of no use or patience is at its end.
        """
        # The daemon gives a reason with these; without one they are gRPC's own, in the place of a
        # status that was lost: with a stream that ended while a message was written, or behind a
        # proxy that was cut off from the daemon. The next try tells what it was.
        is_masked = error.code in _MASKING_CODES and not error.reason
        is_cut = error.code in _RETRIED_CODES
        is_put_off = self._has_begun and error.reason in _RETRIED_REASONS
        if not (is_passing or is_masked or is_cut or is_put_off):
            raise error from None
        now = self._clock()
        if self._last_answer is None or now - self._last_answer > self._patience_seconds:
            raise error from None
        self._failures += 1
        limit = min(FIRST_DELAY_SECONDS * 2.0 ** min(self._failures - 1, 16), MAX_DELAY_SECONDS)
        # Half fixed, half random: clients cut off together do not come back together.
        delay = max(limit * (0.5 + self._jitter() / 2), error.retry_after_seconds or 0.0)
        if self._deadline is not None and now + delay >= self._deadline:
            raise DeadlineError(
                f"the time given has passed; the last failure was: {error.message}",
                code=grpc.StatusCode.DEADLINE_EXCEEDED,
            ) from error
        return delay


class Resumable(ABC, Generic[Request, Response, Item]):
    """One logical stream over as many requests as it takes."""

    def __init__(self, backoff: Backoff) -> None:
        self.backoff = backoff

    @abstractmethod
    def request(self) -> Request:
        """What to ask for now, given all that was received."""

    @abstractmethod
    def receive(self, response: Response) -> Iterable[Item]:
        """What a message brings that was not seen before."""

    def failed(self, error: CallsdError) -> tuple[float, Iterable[Item]]:
        """Seconds to wait before the next try, and what the reader should know of this.

        Raises:
            CallsdError: `error` itself, when the stream cannot go on.
        """
        return self.backoff.failed(error), ()

    def ended(self) -> None:
        """The server ended the stream without an error: return if that is the end of the stream.

        Raises:
            UnavailableError: It is not; handled as any other failure.
        """
        raise UnavailableError(
            "the server ended the stream before its end", code=grpc.StatusCode.UNAVAILABLE
        )


class OneCall(Resumable[Request, Item, Item]):
    """A stream that does not outlive its request: it hands on what it gets."""

    def __init__(self, request: Request) -> None:
        super().__init__(Backoff(patience_seconds=0))
        self._request = request

    def request(self) -> Request:
        """What was asked for."""
        return self._request

    def receive(self, response: Item) -> Iterable[Item]:
        """The message itself."""
        return (response,)

    def failed(self, error: CallsdError) -> tuple[float, Iterable[Item]]:
        """The end, whatever it was."""
        raise error from None

    def ended(self) -> None:
        """The end."""
