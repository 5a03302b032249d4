# SPDX-License-Identifier: Apache-2.0
"""Runs the programs of one recording, with a directory, a user and an environment for them.

Each recording has its own display, sound server and browser profile in a directory of its own, so
that recordings share nothing.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from callsd_ipc.names import JOB_VARIABLE
from callsd_worker.recorder.errors import Reason, RecordingError


PACKAGES = {
    "Xvfb": "xvfb",
    "xrandr": "x11-xserver-utils",
    "pulseaudio": "pulseaudio",
    "chromium": "chromium",
    "setpriv": "util-linux",
    "certutil": "libnss3-tools",
}
"""Debian's package for each program."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
"""Names of suitable browsers in distributions."""

UNPRIVILEGED_USERS = ("callsd", "nobody")
"""The browser's user when the worker is root: the first of these that exists."""

INHERITED = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", JOB_VARIABLE)
"""What programs get of the worker's environment. PYTHONPATH leads to the worker's copy of the code;
by the last one the daemon finds processes of a recording whose worker was killed."""

STOP_SECONDS = 3.0

PREFIX = "callsd-recording-"

MEMORY = "/dev/shm"  # noqa: S108 - directories of our own are made in it
"""For files that need not reach a disk. Browsers use it, too."""

MAX_PLACE_BYTES = 7
"""The 107 bytes of sun_path less PREFIX, a job's name, and the browser's own part of the path,
`profile/org.chromium.Chromium.XXXXXX/SingletonSocket`."""

_RENUMBER = """
import fcntl, os, sys
numbers = [int(number) for number in sys.argv[1].split(",")]
half = len(numbers) // 2
high = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 100) for number in numbers[:half]]
for source, target in zip(high, numbers[half:]):
    os.dup2(source, target)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Renumbers descriptors, then runs a program. Python itself would fork for that (preexec_fn), and a
process that uses gRPC must not."""


def program(*names: str) -> str:
    """Path of the first of these programs that is installed; raises CAPTURE_UNAVAILABLE."""
    for name in names:
        if (found := shutil.which(name)) is not None:
            return found
    package = PACKAGES.get(names[0], names[0])
    raise RecordingError(
        Reason.CAPTURE_UNAVAILABLE, f"{names[0]} is not installed: apt install {package}"
    )


class ProgramHost:
    """A directory for one recording, and its programs."""

    def __init__(self, name: str = "") -> None:
        """Removes what an earlier host of this name has left; `name` is that of the recording."""
        remove_leftovers(name)
        self._user = _unprivileged_user() if os.geteuid() == 0 else None
        self.directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{name}-", dir=_place()))
        if self._user is not None:
            self.directory.chmod(0o711)
        self._running: list[subprocess.Popen[bytes]] = []

    def close(self) -> None:
        """End the programs, the last one first, and remove the directory."""
        for process in reversed(self._running):
            end(process)
        shutil.rmtree(self.directory, ignore_errors=True)

    def private_directory(self, name: str) -> Path:
        """A new directory that only the browser can read; what was there before is removed."""
        path = self.directory / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o700)
        if self._user is not None:
            os.chown(path, self._user.pw_uid, self._user.pw_gid)
        return path

    def share(self, path: Path) -> None:
        """Give a file to the browser's user."""
        if self._user is not None:
            os.chown(path, self._user.pw_uid, self._user.pw_gid)

    def size_bytes(self) -> int:
        """Disk space of all files in the directory."""
        size_bytes = 0
        for place, _, names in os.walk(self.directory):
            for name in names:
                # The browser may remove files at any moment.
                with contextlib.suppress(OSError):
                    size_bytes += (Path(place) / name).lstat().st_blocks * 512
        return size_bytes

    def start(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        is_browser: bool = False,
        pass_fds: Sequence[int] = (),
        as_fds: Sequence[int] = (),
        log: IO[bytes] | int = subprocess.DEVNULL,
    ) -> "subprocess.Popen[bytes]":
        """Start a program that writes to `log`; raises CAPTURE_UNAVAILABLE.

        It gets the descriptors `pass_fds`, renumbered to `as_fds` if given. A browser never runs
        as root, as pages are not trusted.
        """
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        home = str(self.directory)
        if is_browser and self._user is not None:
            command = [
                program("setpriv"),
                *("--reuid", str(self._user.pw_uid), "--regid", str(self._user.pw_gid)),
                *("--clear-groups", "--", *command),
            ]
        if as_fds:
            numbers = ",".join(map(str, (*pass_fds, *as_fds)))
            command = [sys.executable, "-I", "-S", "-c", _RENUMBER, numbers, *command]
        try:
            process = subprocess.Popen(
                command,
                env={"HOME": home, **inherited, **(environment or {})},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=pass_fds,
            )
        except OSError as problem:
            raise RecordingError(
                Reason.CAPTURE_UNAVAILABLE,
                f"{command[0]} cannot be started: {problem.strerror}",
            ) from None
        self._running.append(process)
        return process

    def end(self, process: "subprocess.Popen[bytes]") -> None:
        """End one program before the others."""
        end(process)
        if process in self._running:
            self._running.remove(process)


def remove_leftovers(name: str) -> None:
    """Remove directories of hosts of this name whose worker was killed."""
    for place in (_place(), Path(MEMORY)) if name else ():
        for path in place.glob(f"{PREFIX}{name}-*"):
            shutil.rmtree(path, ignore_errors=True)


def _place() -> Path:
    """Where hosts have their directories: TMPDIR if usable, else /tmp.

    The browser's user may have no access to root's TMPDIR, and a browser does not start when the
    path of a socket in its profile is too long for the kernel.
    """
    place = tempfile.gettempdir()
    is_usable = os.geteuid() != 0 and len(os.fsencode(place)) <= MAX_PLACE_BYTES
    return Path(place if is_usable else "/tmp")  # noqa: S108 - see above


def end(process: "subprocess.Popen[bytes]") -> None:
    """Send SIGTERM to a program, and SIGKILL after a while."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    if process.poll() is None:
        process.kill()
        process.wait()


def _unprivileged_user() -> pwd.struct_passwd:
    for name in UNPRIVILEGED_USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise RecordingError(
        Reason.CAPTURE_UNAVAILABLE,
        "the worker runs as root and there is no user to run the browser as: create the user "
        "callsd, or run callsd as an ordinary user",
    )
