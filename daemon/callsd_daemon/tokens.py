# SPDX-License-Identifier: Apache-2.0
"""Bearer tokens: who may do what.

Their hashes are in one file that the daemon reads again whenever it changes, so that creating and
revoking take effect at once, whether the daemon runs or not.

Root may change the file, too, in a directory where the daemon's user may have put anything: links
are never opened, files always newly written, all by one descriptor of the directory.
"""

import contextlib
import errno
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
import structlog

from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.files import PASSING_ERRNOS, as_refusal, open_regular


log = structlog.get_logger(__name__)

SCOPES = ("jobs.read", "jobs.write", "captions.ingest", "admin")

OWNER = "owner"
"""The token that the daemon makes for the user it runs as, with all scopes."""

MAX_TOKENS = 1000

MAX_FILE_BYTES = 1024**2
"""For all tokens: each takes some 300 bytes."""

CHANGE_SECONDS = 10.0
"""How long to wait while another program changes the file."""

CHANGE_POLL_SECONDS = 0.02

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class TokenError(Exception):
    """A token cannot be made or found."""


class TokenFileError(TokenError):
    """The file of the tokens, or its directory, cannot be used."""


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
        self._directory: int | None = None
        self._trouble = ""
        self._known: tuple[tuple[int, int] | None, dict[str, Token]] = (None, {})
        """The content of the file and its stamp. Set at once: several threads read the file, and
        older content under a newer stamp would undo a revocation."""

    def create(
        self, name: str, scopes: tuple[str, ...], expires_in_seconds: float | None = None
    ) -> str:
        """Create a token; returns the secret, which is stored nowhere.

        Raises TokenError when the name is taken or invalid, or a scope unknown, and TokenFileError.
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
        """Revoke a token at once.

        Raises TokenError when there is none of that name, and TokenFileError.
        """
        with self._changing():
            tokens = dict(self._load())
            if tokens.pop(name, None) is None:
                raise TokenError(f"there is no token {name!r}")
            self._save(tokens)

    def list(self) -> "list[Token]":
        """All tokens, by name; raises TokenFileError."""
        return [token for _, token in sorted(self._load().items())]

    def find(self, secret: str) -> Token | None:
        """The token with this secret, as `look_up`, but with an error for clients.

        Raises TOKEN_INVALID while the file cannot be used: older content is not used instead. When
        that is no fault of the file, it is DISK_FULL or SLOTS_EXHAUSTED, which says nothing about
        the token.
        """
        try:
            token = self.look_up(secret)
        except TokenFileError as problem:
            self._log_once(str(problem))
            cause = problem.__cause__
            if isinstance(cause, OSError) and (refusal := as_refusal(cause)) is not None:
                raise refusal from problem
            raise CallsdError(
                Reason.TOKEN_INVALID,
                "no token can be checked: the daemon's file of tokens cannot be used; its log says "
                "why, and so does `callsd tokens list` of who runs it",
            ) from problem
        self._log_once("")
        return token

    def is_known(self) -> bool:
        """Whether the file is as it was when it was last read: looking at it takes no time."""
        try:
            return self._known[0] == _stamp(self._path.lstat())
        except OSError:
            return False

    def has_scope(self, name: str, scope: str) -> bool:
        """Whether there is a token of this name that has the scope."""
        try:
            token = self._load().get(name)
        except TokenFileError:
            return False
        return token is not None and scope in token.scopes

    def look_up(self, secret: str) -> Token | None:
        """The token with this secret, unless it has expired; raises TokenFileError."""
        wanted, found = digest(secret), None
        # Compare with all of them, so that the time taken reveals nothing about any.
        for token in self._load().values():
            if hmac.compare_digest(token.sha256, wanted):
                found = token
        if found is None or (found.expire_time is not None and found.expire_time <= time.time()):
            return None
        return found

    def _load(self) -> dict[str, Token]:
        name, directory = self._path.name, self._directory
        path: str | Path = self._path if directory is None else name
        try:
            stamp = _stamp(os.stat(path, dir_fd=directory, follow_symlinks=False))
            known, tokens = self._known
            if stamp == known:
                return tokens
            content = _read(path, directory)
        except FileNotFoundError:
            return {}
        except OSError as problem:
            raise TokenFileError(_unusable(self._path, problem)) from problem
        try:
            tokens = _decoder.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError) as problem:
            raise TokenFileError(
                f"{self._path} is damaged ({problem}): restore it, or remove it, restart callsd "
                "and make the tokens anew"
            ) from problem
        self._known = (stamp, tokens)
        return tokens

    def _log_once(self, trouble: str) -> None:
        """Log a problem once, not with every request."""
        if trouble and trouble != self._trouble:
            log.error("tokens_unusable", problem=trouble)
        self._trouble = trouble

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Keep other processes from changing the file: a revoked token must not come back."""
        with _opened(self._path.parent) as directory:
            # The directory is locked: a lock file created by root would exclude the daemon.
            deadline = time.monotonic() + CHANGE_SECONDS
            while not _locked(directory):
                if time.monotonic() > deadline:
                    raise TokenFileError(
                        f"another program has been holding {self._path.parent} for "
                        f"{CHANGE_SECONDS:g} s: try again, or see who it is by `lslocks`"
                    )
                time.sleep(CHANGE_POLL_SECONDS)
            self._directory = directory
            try:
                yield
            finally:
                self._directory = None

    def _save(self, tokens: dict[str, Token]) -> None:
        assert self._directory is not None
        content = msgspec.json.format(msgspec.json.encode(tokens))
        _write_private(self._path, content, self._directory)


def _stamp(status: os.stat_result) -> tuple[int, int]:
    """What another content does not leave as it is: the file is replaced as a whole."""
    return (status.st_mtime_ns, status.st_ino)


def digest(secret: str) -> str:
    """The hash of a secret that is stored. Secrets are random and long: no slow hash is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def write_owner_token(tokens: TokenFile, path: Path) -> None:
    """Make sure that `path` has a valid token for the daemon's own user, readable only by it.

    A valid one is kept: clients that were started before a restart use it.
    """
    with _opened(path.parent) as directory:
        with contextlib.suppress(FileNotFoundError):
            try:
                secret = _read(path.name, directory, mode=0o600)
            except OSError as problem:
                if isinstance(problem, FileNotFoundError):
                    raise
                raise TokenFileError(_unusable(path, problem)) from problem
            token = tokens.look_up(secret.decode(errors="replace"))
            if token is not None and token.name == OWNER and set(SCOPES) <= set(token.scopes):
                return
        if any(token.name == OWNER for token in tokens.list()):
            tokens.revoke(OWNER)
        _write_private(path, tokens.create(OWNER, SCOPES).encode(), directory)


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    """A descriptor of a directory; a link to it must belong to root or to the directory's owner."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as problem:
        raise TokenFileError(_unusable(directory, problem)) from problem
    try:
        if directory.lstat().st_uid not in (0, os.fstat(descriptor).st_uid):
            raise TokenFileError(
                f"{directory} is a link to somebody else's directory: name that directory itself"
            )
        yield descriptor
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: str | Path, directory: int | None, *, mode: int | None = None) -> bytes:
    """The content of a file that is no link, after setting its mode; raises OSError."""
    with os.fdopen(open_regular(path, dir_fd=directory), "rb") as file:
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise OSError(errno.EFBIG, "longer than allowed", str(path))
    return content


def _write_private(path: Path, content: bytes, directory: int) -> None:
    """Replace the file as a whole; only its owner can read it, at any moment.

    `directory` is a descriptor of its directory. Raises TokenFileError, and changes nothing then.
    """
    draft = f".{path.name}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(draft, flags, 0o600, dir_fd=directory)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
                # Readers notice changes by this time; the kernel's own has steps of milliseconds.
                os.utime(descriptor, ns=(time.time_ns(), time.time_ns()))
                if os.geteuid() == 0:
                    # The daemon must be able to read tokens that root makes.
                    owner = os.fstat(directory)
                    os.fchown(descriptor, owner.st_uid, owner.st_gid)
            os.replace(draft, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(draft, dir_fd=directory)
            raise
    except OSError as problem:
        raise TokenFileError(_unusable(path, problem)) from problem


def _unusable(path: Path, problem: OSError) -> str:
    """What is wrong with a file, for people."""
    if problem.errno == errno.ELOOP:
        return f"{path} is a link, which is not followed: see who put it there, and remove it"
    if problem.errno == errno.EINVAL:
        return f"{path} is not a plain file of its own: see who put it there, and remove it"
    if problem.errno in PASSING_ERRNOS:
        why = problem.strerror
        return f"{path} cannot be used now ({why}): see that its disk has space and works"
    return f"{path} cannot be used ({problem.strerror}): give callsd's user access to it"
