# SPDX-License-Identifier: Apache-2.0
"""Whose a socket is: a token and a call's sound are for our own daemon, root's and the service's.

Anyone may make a socket somewhere, and the name of a daemon that is stopped may be free for all.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from callsd._errors import SettingsError


SERVICE_USER = "callsd"
"""Whom the installed service runs as."""

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def check_owner(socket: Path, *, friend: str) -> None:
    """Refuse a socket of somebody else; one that is not there is nobody's.

    `friend` is the name or number of one more user who is trusted, or empty.

    Raises:
        SettingsError: It is a stranger's; with what to do.
    """
    try:
        owner = socket.stat().st_uid
    except OSError:
        return
    if not _is_trusted(owner, friend):
        raise SettingsError(
            f"{socket} belongs to {_name(owner)}, not to you, root or {SERVICE_USER}: nothing is "
            "sent there. Start the daemon or name its address; if it is the daemon that you mean, "
            f"say so by CALLSD_SOCKET_OWNER={_name(owner)}"
        )


def check_place(directory: Path, *, friend: str) -> None:
    """Refuse a directory that somebody else may put there, or put something else in its place.

    Raises:
        SettingsError: It is open to strangers; with what to do.
    """
    real = Path(os.path.realpath(directory))
    for place in ((directory, *directory.parents), (real, *real.parents)):
        if (problem := _problem(place, friend)) is not None:
            raise SettingsError(
                f"{problem}: nothing is sent to a socket there. Start the daemon, or name its "
                "address (CALLSD_ADDRESS)"
            )


def _problem(place: Iterable[Path], friend: str) -> str | None:
    """What is wrong with a directory or one of those above it, from the inside out."""
    missing: Path | None = None
    for path in place:
        try:
            found = path.lstat()
        except FileNotFoundError:
            missing = path
            continue
        except OSError as error:
            return f"{path} cannot be looked at ({error.strerror})"
        if not _is_trusted(found.st_uid, friend):
            return f"{path} belongs to {_name(found.st_uid)}"
        if stat.S_ISDIR(found.st_mode) and found.st_mode & _OTHERS_MAY_WRITE:
            if missing is not None:
                return f"there is no {missing}, and others may make it"
            # In a directory like /tmp others' files cannot be moved or removed.
            if not found.st_mode & stat.S_ISVTX:
                return f"others may write in {path}"
        missing = None
    return None


def _is_trusted(owner: int, friend: str) -> bool:
    return owner in {os.geteuid(), 0} or owner in {_number(SERVICE_USER), _number(friend)}


def _number(user: str) -> int | None:
    import pwd  # the client is for machines without it as well, where there are no sockets

    if user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def _name(owner: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return str(owner)
