# SPDX-License-Identifier: Apache-2.0
"""Where the daemon is and how to prove who we are: addresses, tokens, and their defaults."""

import errno
import getpass
import ipaddress
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import quote

from callsd._errors import SettingsError
from callsd._owner import check_owner, check_place


SOCKET_NAME = "callsd.sock"
OWNER_TOKEN_NAME = "owner.token"  # noqa: S105 (a file's name)
SYSTEM_RUNTIME_DIRECTORY = Path("/run/callsd")

# A token is some 50 characters; a file beyond this is a mistake, not a token.
MAX_TOKEN_FILE_BYTES = 4096
MAX_CA_FILE_BYTES = 4 << 20

# What the kernel takes for a socket's path (sun_path).
MAX_SOCKET_BYTES = 107


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A daemon's address, with what is needed to talk to it."""

    address: str
    """`unix:/path`, `tcp:HOST:PORT` or `tls:HOST:PORT`."""
    token_file: Path | None = None
    """File with the bearer token; read for each request, as tokens are renewed meanwhile."""
    ca_file: Path | None = None
    """PEM file with the certificates to trust for TLS. None: the system's."""
    socket_owner: str = ""
    """Name or number of a user whose socket is trusted beside our own, root's and the service's."""
    is_default: bool = False
    """Whether nobody has named the address: then nobody else may be able to make it either."""
    _last: list[str] = field(default_factory=list, init=False, repr=False, compare=False)
    """The token that was read last."""

    def __post_init__(self) -> None:
        scheme, _, rest = self.address.partition(":")
        if scheme == "unix":
            if not rest.startswith("/"):
                raise SettingsError(f"{self.address}: a socket needs an absolute path (unix:/path)")
            if len(os.fsencode(rest)) > MAX_SOCKET_BYTES:
                raise SettingsError(
                    f"{self.address}: a socket's path has at most {MAX_SOCKET_BYTES} bytes"
                )
        elif scheme in {"tcp", "tls"}:
            host, _, port = rest.rpartition(":")
            if (
                not host
                or not host.isascii()
                or not port.isdecimal()
                or not 0 < int(port) < 1 << 16
            ):
                raise SettingsError(
                    f"{self.address}: expected {scheme}:HOST:PORT, such as {scheme}:127.0.0.1:7411"
                )
            if not self.secure and not is_loopback(host):
                raise SettingsError(
                    f"{self.address}: a token does not travel in the clear beyond this machine;"
                    " use tls:HOST:PORT, with a CA file if the certificate is your own"
                )
        else:
            raise SettingsError(
                f"{self.address}: expected unix:/path, tcp:HOST:PORT or tls:HOST:PORT"
            )

    @classmethod
    def discover(
        cls,
        *,
        address: str | None = None,
        token_file: Path | None = None,
        ca_file: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """The endpoint given, completed from the environment and then from the usual places.

        Environment: CALLSD_ADDRESS (default: the socket of this user's daemon if there is one,
        else the system's), CALLSD_TOKEN_FILE (default: owner.token beside the socket),
        CALLSD_CA_FILE, CALLSD_SOCKET_OWNER (default: nobody else).

        Raises:
            SettingsError: The address is malformed.
        """
        environ = os.environ if environ is None else environ
        named_address = address or environ.get("CALLSD_ADDRESS")
        address = named_address or _default_address(environ)
        if token_file is None and (named := environ.get("CALLSD_TOKEN_FILE")):
            token_file = Path(named)
        if token_file is None and address.startswith("unix:"):
            token_file = _owner_token(address)
        if ca_file is None and (named := environ.get("CALLSD_CA_FILE")):
            ca_file = Path(named)
        return cls(
            address=address,
            token_file=token_file,
            ca_file=ca_file,
            socket_owner=environ.get("CALLSD_SOCKET_OWNER", ""),
            is_default=not named_address,
        )

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted."""
        return self.address.startswith("tls:") or (
            self.address.startswith("tcp:") and self.ca_file is not None
        )

    @property
    def local(self) -> bool:
        """Whether the daemon runs on this machine and so may see the same files."""
        scheme, _, rest = self.address.partition(":")
        return scheme == "unix" or is_loopback(rest.rpartition(":")[0])

    @property
    def target(self) -> str:
        """The address in gRPC's own syntax."""
        scheme, _, rest = self.address.partition(":")
        # As gRPC takes a path for a part of a URI: a % in it would stand for something else.
        return f"unix:{quote(os.fsencode(rest))}" if scheme == "unix" else f"dns:///{rest}"

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What each request carries: the bearer token, or nothing without a token file.

        Raises:
            SettingsError: The token file cannot be read or holds no token, or the socket is that
                of somebody whom a request is not for.
        """
        if self.address.startswith("unix:"):
            socket = Path(self.address.removeprefix("unix:"))
            if self.is_default:
                check_place(socket.parent, friend=self.socket_owner)
            check_owner(socket, friend=self.socket_owner)
        if self.token_file is None:
            return ()
        try:
            token = read_file(self.token_file, MAX_TOKEN_FILE_BYTES).decode("ascii").strip()
        except FileNotFoundError as error:
            # The owner's token may go with the directory of a daemon that is stopped, and come back
            # with the next one: what resumes until then shall find out that nobody is there.
            if not self._last:
                raise SettingsError(f"token file {self.token_file}: {error}") from error
            token = self._last[0]
        except UnicodeDecodeError as error:
            raise SettingsError(f"token file {self.token_file}: it holds no token") from error
        except OSError as error:
            raise SettingsError(f"token file {self.token_file}: {error.strerror}") from error
        if not token.isprintable() or not token or " " in token:
            raise SettingsError(f"token file {self.token_file}: it holds no token on one line")
        self._last[:] = [token]
        return (("authorization", f"Bearer {token}"),)


def read_file(path: Path, max_bytes: int) -> bytes:
    """The beginning of a file that is asked for again and again: of a pipe that would not do.

    Raises:
        OSError: It cannot be read, or is no file.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a file", str(path))
        return file.read(max_bytes)


def runtime_directory(environ: Mapping[str, str]) -> Path:
    """Where a daemon of this user puts its socket."""
    if os.geteuid() == 0:
        return SYSTEM_RUNTIME_DIRECTORY
    if environ.get("XDG_RUNTIME_DIR"):
        return Path(environ["XDG_RUNTIME_DIR"]) / "callsd"
    return Path(f"/tmp/callsd-{getpass.getuser()}")  # noqa: S108 - see _default_address


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _default_address(environ: Mapping[str, str]) -> str:
    """The socket of this user's daemon if there is one, else that of the system's, if it has one.

    That one may be stopped, or closed to this user: the system call that finds out says so.
    """
    own = runtime_directory(environ) / SOCKET_NAME
    # Anyone may make directories under /tmp: only a socket of our own is our own daemon's.
    if not _owned(own) and SYSTEM_RUNTIME_DIRECTORY.is_dir():
        return f"unix:{SYSTEM_RUNTIME_DIRECTORY / SOCKET_NAME}"
    return f"unix:{own}"


def _owned(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.geteuid()
    except OSError:
        return False


def _owner_token(address: str) -> Path | None:
    """The owner's token beside a socket, if we may read it."""
    path = Path(address.removeprefix("unix:")).parent / OWNER_TOKEN_NAME
    return path if os.access(path, os.R_OK) else None
