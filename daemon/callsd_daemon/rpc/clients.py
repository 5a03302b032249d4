# SPDX-License-Identifier: Apache-2.0
"""What one client may hold: a share of the calls under way, and streams while its token is good."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import structlog

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.tokens import Token, TokenError, TokenFile


log = structlog.get_logger(__name__)

MAX_UNDER_WAY = 16
"""Calls of one client that are worked on at once, so that what others ask is not behind hundreds of
them. One that asks alone has as many as the store can do."""

MAX_CALLS = 256
"""Those, and others of the same client that wait for them."""

RETRY_SECONDS = 1.0

TOKEN_LOOK_SECONDS = 2.0
"""How often the tokens of streams are looked at."""


@dataclass(slots=True)
class _Share:
    calls: int = 0
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_UNDER_WAY))


class FairShares:
    """A fair share of the daemon for each client, by the name of its token."""

    def __init__(self) -> None:
        self._shares: dict[str, _Share] = {}

    @contextlib.asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Wait for the client's turn, and hold it. Raises QUEUE_FULL."""
        share = self._shares.setdefault(client, _Share())
        if share.calls == MAX_CALLS:
            raise CallsdError(
                Reason.QUEUE_FULL,
                f"{MAX_CALLS} calls with the token {client!r} are under way: wait for their "
                "answers before you send more",
                metadata={"limit": str(MAX_CALLS), "token": client},
                retry_after_seconds=RETRY_SECONDS,
            )
        share.calls += 1
        try:
            async with share.turns:
                yield
        finally:
            share.calls -= 1
            if not share.calls:
                del self._shares[client]


class TokenWatch:
    """Ends streams whose token is revoked or expires; all of them are looked at together."""

    def __init__(self, tokens: TokenFile) -> None:
        self._tokens = tokens
        self._held: dict[asyncio.Timeout, Token] = {}
        self._is_looking = False

    @contextlib.asynccontextmanager
    async def hold(self, token: Token) -> AsyncIterator[None]:
        """Let the stream of the current task go on while the token is good.

        Raises TOKEN_INVALID within some seconds after it is not.
        """
        leash = asyncio.timeout(None)
        try:
            async with leash:
                self._held[leash] = token
                self._look_later()
                try:
                    yield
                finally:
                    self._held.pop(leash, None)
        except TimeoutError:
            if not leash.expired():
                raise
            raise invalid_token() from None

    def _look_later(self) -> None:
        if self._held and not self._is_looking:
            self._is_looking = True
            asyncio.get_running_loop().call_later(TOKEN_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._is_looking = False
        try:
            tokens = self._tokens.list()
        except (TokenError, OSError) as problem:
            # New calls fail as well. Those that are open lose nothing by it until it is repaired.
            log.error("tokens_not_read", problem=str(problem))  # noqa: TRY400 - no bug of ours
        else:
            now = time.time()
            good = {t for t in tokens if t.expire_time is None or t.expire_time > now}
            for leash in [one for one, token in self._held.items() if token not in good]:
                del self._held[leash]
                leash.reschedule(asyncio.get_running_loop().time())
        self._look_later()


def invalid_token() -> CallsdError:
    """What a client is told whose token is worth nothing."""
    return CallsdError(
        Reason.TOKEN_INVALID,
        "the token is unknown, expired or revoked: make one with `callsd tokens create`",
    )
