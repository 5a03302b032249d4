# SPDX-License-Identifier: Apache-2.0
"""What one client may hold: a share of the open requests, and streams while its token is valid."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar, TypeVarTuple

import structlog

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.tokens import Token, TokenError, TokenFile


log = structlog.get_logger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MAX_UNDER_WAY = 16
"""Requests of one client that are worked on at once, so that those of others do not wait behind
hundreds. For a client that is alone these are as many as the store can do."""

MAX_REQUESTS = 256
"""Those, and others of the same client that wait for them."""

RETRY_SECONDS = 1.0

TOKEN_CHECK_SECONDS = 2.0
"""How often the tokens of open streams are checked."""


@dataclass(slots=True)
class _Share:
    requests: int = 0
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_UNDER_WAY))


class FairShares:
    """A fair share of the daemon for each client, by the name of its token."""

    def __init__(self) -> None:
        self._shares: dict[str, _Share] = {}

    @contextlib.asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Wait for the client's turn, and hold it. Raises QUEUE_FULL."""
        share = self._shares.setdefault(client, _Share())
        if share.requests == MAX_REQUESTS:
            raise CallsdError(
                Reason.QUEUE_FULL,
                f"{MAX_REQUESTS} requests with the token {client!r} are open: wait for their "
                "answers before you send more",
                metadata={"limit": str(MAX_REQUESTS), "token": client},
                retry_after_seconds=RETRY_SECONDS,
            )
        share.requests += 1
        try:
            async with share.turns:
                yield
        finally:
            share.requests -= 1
            if not share.requests:
                del self._shares[client]


class TokenWatch:
    """Ends streams whose token is revoked or expires; one check covers all of them."""

    def __init__(self, tokens: TokenFile) -> None:
        self._tokens = tokens
        self._held: dict[asyncio.Timeout, Token] = {}
        self._is_scheduled = False

    # No context manager: there are thousands of streams, and each would keep several objects more.
    async def hold(self, token: Token, work: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Do the work of a stream while the token is valid.

        Raises TOKEN_INVALID some seconds after it no longer is.
        """
        leash = asyncio.timeout(None)
        try:
            async with leash:
                self._held[leash] = token
                self._schedule()
                try:
                    return await work(*args)
                finally:
                    self._held.pop(leash, None)
        except TimeoutError:
            if not leash.expired():
                raise
            raise invalid_token() from None

    def _schedule(self) -> None:
        if self._held and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_later(TOKEN_CHECK_SECONDS, self._check)

    def _check(self) -> None:
        # A file that is slow to read shall hold up nobody.
        reading = asyncio.get_running_loop().run_in_executor(None, self._tokens.list)
        reading.add_done_callback(self._end_invalid)

    def _end_invalid(self, reading: "asyncio.Future[list[Token]]") -> None:
        if reading.cancelled():
            return
        self._is_scheduled = False
        try:
            tokens = reading.result()
        except (TokenError, OSError) as problem:
            # New requests fail meanwhile. Open streams go on until the file is repaired.
            log.error("tokens_not_read", problem=str(problem))  # noqa: TRY400 - no bug of ours
        else:
            now = time.time()
            good = {t for t in tokens if t.expire_time is None or t.expire_time > now}
            for leash in [one for one, token in self._held.items() if token not in good]:
                del self._held[leash]
                leash.reschedule(asyncio.get_running_loop().time())
        self._schedule()


def invalid_token() -> CallsdError:
    """The error for a token that does not count."""
    return CallsdError(
        Reason.TOKEN_INVALID,
        "the token is unknown, expired or revoked: make one with `callsd tokens create`",
    )
