# SPDX-License-Identifier: Apache-2.0
"""Bearer tokens: who may do what.

They are kept hashed in one file that the daemon reads again whenever it changes, so that a token
is made or revoked at once, whether the daemon runs or not.
"""

import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec


SCOPES = ("jobs.read", "jobs.write", "captions.ingest", "admin")

OWNER = "owner"
"""The token that the daemon makes for the user it runs as, with all scopes."""

MAX_TOKENS = 1000
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class TokenError(Exception):
    """A token cannot be made or found."""


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token without its secret. Times in seconds since 1970; expire_time None = never."""

    name: str
    sha256: str
    scopes: tuple[str, ...]
    create_time: float
    expire_time: float | None = None


_decoder = msgspec.json.Decoder(dict[str, Token])


class TokenFile:
    """The tokens in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._tokens: dict[str, Token] = {}

    def create(
        self, name: str, scopes: tuple[str, ...], expires_in_seconds: float | None = None
    ) -> str:
        """Make a token; returns the secret, which is shown this once.

        Raises TokenError when the name is taken or bad, or a scope is unknown.
        """
        if not NAME.fullmatch(name):
            raise TokenError(f"{name!r} is no name for a token: use a-z, 0-9, . _ -")
        if unknown := [scope for scope in scopes if scope not in SCOPES]:
            raise TokenError(f"unknown scope {unknown[0]!r}: there are {', '.join(SCOPES)}")
        secret, now = f"callsd_{secrets.token_urlsafe(32)}", time.time()
        expire_time = None if expires_in_seconds is None else now + expires_in_seconds
        token = Token(
            name=name,
            sha256=digest(secret),
            scopes=scopes,
            create_time=now,
            expire_time=expire_time,
        )
        with self._changing():
            tokens = self._load()
            if name in tokens:
                raise TokenError(f"there is a token {name!r} already: revoke it first")
            if len(tokens) >= MAX_TOKENS:
                raise TokenError(f"there are {MAX_TOKENS} tokens: revoke some first")
            self._save({**tokens, name: token})
        return secret

    def revoke(self, name: str) -> None:
        """Make a token worthless at once; raises TokenError when there is none of that name."""
        with self._changing():
            tokens = dict(self._load())
            if tokens.pop(name, None) is None:
                raise TokenError(f"there is no token {name!r}")
            self._save(tokens)

    def list(self) -> "list[Token]":
        """All tokens, by name."""
        return [token for _, token in sorted(self._load().items())]

    def find(self, secret: str) -> Token | None:
        """The token with this secret, unless it has expired."""
        wanted, found = digest(secret), None
        # Look at all of them, so that the time taken tells nothing about any.
        for token in self._load().values():
            if hmac.compare_digest(token.sha256, wanted):
                found = token
        if found is None or (found.expire_time is not None and found.expire_time <= time.time()):
            return None
        return found

    def _load(self) -> dict[str, Token]:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return {}
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp != self._stamp:
            try:
                self._tokens = _decoder.decode(self._path.read_bytes())
            except (msgspec.DecodeError, UnicodeDecodeError) as problem:
                raise TokenError(
                    f"{self._path} is damaged ({problem}): restore it, or remove it and make the "
                    "tokens anew"
                ) from problem
            self._stamp = stamp
        return self._tokens

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Keep other processes from changing the file: a revoked token must not come back."""
        # A lock file would belong to whoever came first: root's would shut the daemon out.
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            yield
        finally:
            os.close(directory)

    def _save(self, tokens: dict[str, Token]) -> None:
        _write_private(self._path, msgspec.json.format(msgspec.json.encode(tokens)))


def digest(secret: str) -> str:
    """What is kept of a secret. The secrets are random and long: no slow hash is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def write_owner_token(tokens: TokenFile, path: Path) -> None:
    """See to it that `path` holds a valid token for the daemon's own user, readable only by it.

    One that is there and still valid stays: clients that live through a restart hold it.
    """
    if path.exists():
        path.chmod(0o600)
        token = tokens.find(path.read_text(errors="replace"))
        if token is not None and token.name == OWNER and set(SCOPES) <= set(token.scopes):
            return
    if any(token.name == OWNER for token in tokens.list()):
        tokens.revoke(OWNER)
    _write_private(path, tokens.create(OWNER, SCOPES).encode())


def _write_private(path: Path, content: bytes) -> None:
    """Replace the file as a whole; nobody but its owner can read it at any moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        if os.geteuid() == 0:
            # Root makes tokens for the daemon, which must be able to read them.
            owner = path.parent.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        file.write(content)
        file.flush()
        os.fsync(descriptor)
        # The kernel's own stamp moves in steps of milliseconds, and readers go by it.
        os.utime(descriptor, ns=(time.time_ns(), time.time_ns()))
    temporary.replace(path)
