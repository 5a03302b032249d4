# SPDX-License-Identifier: Apache-2.0
"""Who may hand work in at the gateway, and how they prove it."""

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from callsd_daemon.gateway.errors import HttpError
from callsd_daemon.store.database import Database
from callsd_daemon.store.read_transaction import GatewayClient
from callsd_daemon.store.transaction import Transaction
from callsd_daemon.threads import started_pool


log = structlog.get_logger(__name__)

MIN_KEY_CHARACTERS = 32
MAX_KEY_CHARACTERS = 1024
MAX_ID_CHARACTERS = 128
MAX_CLIENTS = 1000

SCRYPT = {"n": 2**14, "r": 8, "p": 1, "dklen": 32}
"""Some 50 ms and 16 MiB for each key: guessing stays slow for who has stolen the hashes."""

KNOWN_PAIRS = 1000
"""Pairs of client and key that were found right, so that no request of theirs is slow again."""

TURNS = 256
CLIENT_TURNS = 64
"""Keys that may wait to be hashed, in all and of one client. Who is known already does not wait.

A right key that is refused because of all the wrong ones would be worse than one that waits for
some seconds: the plugin asks once.
"""

SESSION_SECONDS = 86_400.0

UNAUTHORIZED = 401


class TakenError(HttpError):
    """Somebody has this name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks."""

    client_id: str
    is_admin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Session:
    client_id: str
    end_seconds: float


class Clients:
    """Belongs to one event loop. All methods raise HttpError, and CallsdError of the database."""

    def __init__(
        self,
        database: Database,
        *,
        admin_key: str,
        self_registration: bool,
        now_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without an `admin_key` there is no administrator."""
        self._database = database
        self._admin_key = admin_key
        self._self_registration = self_registration
        self._now_seconds = now_seconds
        # One thread: however many keys are tried, they take one core at most.
        self._hashing = started_pool(1, "keys")
        self._waiting: Counter[str] = Counter()
        self._turns: dict[str, asyncio.Lock] = {}
        """By client: its keys are hashed one by one, so that others wait for one of them only."""
        self._secret = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, str] = OrderedDict()
        self._sessions: dict[str, _Session] = {}
        """By the hash of their token."""
        self._hash_seconds = 0.05

    # Proving

    async def caller(self, authorization: str, *, may_register: bool = True) -> Caller:
        """Who sends this header."""
        if authorization.startswith("Bearer "):
            return self._bearer(authorization.removeprefix("Bearer "))
        client_id, key = _basic(authorization)
        if self._is_admin_key(key):
            return Caller(client_id="", is_admin=True)
        if not client_id:
            raise HttpError(UNAUTHORIZED, "authentication failed: unauthorized")
        if await self._is_right(client_id, key):
            return Caller(client_id=client_id)
        if self._self_registration and may_register:
            try:
                await self.register(client_id, key)
            except TakenError:
                # Perhaps by another request of its own, a moment ago.
                if await self._is_right(client_id, key):
                    return Caller(client_id=client_id)
                raise HttpError(UNAUTHORIZED, "authentication failed") from None
            except HttpError:
                raise HttpError(UNAUTHORIZED, "authentication failed: unauthorized") from None
            return Caller(client_id=client_id)
        raise HttpError(UNAUTHORIZED, "authentication failed")

    def _is_admin_key(self, key: str) -> bool:
        return bool(self._admin_key) and hmac.compare_digest(
            key.encode(errors="replace"), self._admin_key.encode()
        )

    async def _is_right(self, client_id: str, key: str) -> bool:
        """Whether this is the client's key. Takes as long for a client that does not exist."""
        mark = self._mark(client_id, key)
        if mark in self._known:
            self._known.move_to_end(mark)
            return True
        client = await self._database.read(lambda tx: tx.gateway_client(client_id))
        if client is None:
            await asyncio.sleep(self._hash_seconds)
            return False
        found = await self._hash(client_id, key, client.salt)
        if not hmac.compare_digest(found, client.key_hash):
            return False
        self._remember(mark, client_id)
        return True

    async def _hash(self, client_id: str, key: str, salt: bytes) -> bytes:
        if self._waiting.total() >= TURNS or self._waiting[client_id] >= CLIENT_TURNS:
            raise HttpError(
                429, "too many keys are being checked: try again", headers={"Retry-After": "1"}
            )
        self._waiting[client_id] += 1
        try:
            async with self._turns.setdefault(client_id, asyncio.Lock()):
                found, self._hash_seconds = await asyncio.get_running_loop().run_in_executor(
                    self._hashing, _timed_scrypt, key, salt
                )
        finally:
            self._waiting[client_id] -= 1
            if not self._waiting[client_id]:
                del self._waiting[client_id], self._turns[client_id]
        return found

    def _mark(self, client_id: str, key: str) -> bytes:
        pair = f"{len(client_id)}:{client_id}{key}".encode(errors="replace")
        return hmac.digest(self._secret, pair, "sha256")

    def _remember(self, mark: bytes, client_id: str) -> None:
        self._known[mark] = client_id
        while len(self._known) > KNOWN_PAIRS:
            self._known.popitem(last=False)

    # Sessions

    def _bearer(self, token: str) -> Caller:
        session = self._sessions.get(_digest(token))
        if session is None:
            raise HttpError(UNAUTHORIZED, "authentication failed: token is invalid")
        if session.end_seconds < self._now_seconds():
            del self._sessions[_digest(token)]
            raise HttpError(UNAUTHORIZED, "authentication failed: session is expired")
        return Caller(client_id=session.client_id)

    async def login(self, client_id: str, key: str) -> str:
        """A token for a day; it replaces the client's last one."""
        if not client_id or not await self._is_right(client_id, key):
            raise HttpError(400, "login failed: authentication failed")
        self._log_out(client_id)
        token = secrets.token_hex(16)
        end_seconds = self._now_seconds() + SESSION_SECONDS
        self._sessions[_digest(token)] = _Session(client_id=client_id, end_seconds=end_seconds)
        return token

    def _log_out(self, client_id: str) -> None:
        self._sessions = {
            digest: one for digest, one in self._sessions.items() if one.client_id != client_id
        }

    # Registering

    @property
    def is_open(self) -> bool:
        """Whether anybody may register."""
        return self._self_registration

    async def register(self, client_id: str, key: str) -> None:
        """Let a client in from now on."""
        if not client_id or len(client_id) > MAX_ID_CHARACTERS:
            raise HttpError(400, "registration failed: error: empty or too long client id")
        if not key:
            raise HttpError(400, "registration failed: error: empty key")
        if len(key) < MIN_KEY_CHARACTERS:
            raise HttpError(400, "registration failed: key not long enough")
        known, count = await self._database.read(
            lambda tx: (tx.gateway_client(client_id), tx.gateway_client_count())
        )
        if known is not None:
            raise TakenError(400, "registration failed: already registered")
        if count >= MAX_CLIENTS:
            raise HttpError(400, "registration failed: too many clients: unregister some")
        salt = secrets.token_bytes(16)
        key_hash = await self._hash(client_id, key, salt)

        def write(tx: Transaction) -> bool:
            if tx.gateway_client(client_id) is not None:
                return False
            tx.put_gateway_client(GatewayClient(client_id=client_id, salt=salt, key_hash=key_hash))
            return True

        if not await self._database.write(write):
            raise TakenError(400, "registration failed: already registered")
        self._remember(self._mark(client_id, key), client_id)
        log.info("gateway_client_registered", client=client_id)

    async def unregister(self, caller: Caller, client_id: str) -> None:
        """Let a client in no longer."""
        if not client_id:
            raise HttpError(400, "client id should not be empty")
        if not caller.is_admin and caller.client_id != client_id:
            raise HttpError(403, "client id not valid")

        def write(tx: Transaction) -> bool:
            is_known = tx.gateway_client(client_id) is not None
            tx.delete_gateway_client(client_id)
            return is_known

        if not await self._database.write(write):
            raise HttpError(400, "unregister failed: error: not found")
        self._log_out(client_id)
        for mark in [mark for mark, one in self._known.items() if one == client_id]:
            del self._known[mark]

    # What clients have said

    async def transcribes(self, client_id: str) -> bool:
        """Whether the client will ask for a transcription with each recording."""
        client = await self._database.read(lambda tx: tx.gateway_client(client_id))
        return client is not None and client.transcribes

    async def set_transcribes(self, client_id: str, *, transcribes: bool) -> None:
        """Keep what a client has said about that."""

        def write(tx: Transaction) -> None:
            client = tx.gateway_client(client_id)
            if client is not None and client.transcribes != transcribes:
                tx.put_gateway_client(replace(client, transcribes=transcribes))

        await self._database.write(write)

    def close(self) -> None:
        """Check no more keys."""
        self._hashing.shutdown(wait=False, cancel_futures=True)


def _basic(authorization: str) -> tuple[str, str]:
    scheme, _, encoded = authorization.partition(" ")
    try:
        text = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    client_id, colon, key = text.partition(":")
    if scheme.lower() != "basic" or not colon:
        raise HttpError(UNAUTHORIZED, "authentication failed: invalid auth header")
    return client_id[: MAX_ID_CHARACTERS + 1], key[: MAX_KEY_CHARACTERS + 1]


def _timed_scrypt(key: str, salt: bytes) -> tuple[bytes, float]:
    """A hash, and how many seconds it took."""
    began = time.monotonic()
    return _scrypt(key, salt), time.monotonic() - began


def _scrypt(key: str, salt: bytes) -> bytes:
    return hashlib.scrypt(key.encode(errors="replace"), salt=salt, maxmem=2**26, **SCRYPT)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
