# SPDX-License-Identifier: Apache-2.0
"""Has what a daemon asks of its disk fail, or take long, for files of the test's choice.

strace does it, between the process and the kernel: SQLite's calls fail like everybody else's, and
as soon as it lets go of the daemon the disk is well again.
"""

import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.daemon import START_SECONDS, Daemon
from tests.helpers.waiting import eventually


ATTACH_SECONDS = 20.0

HIDDEN = "from callsd_daemon.startup import hide; hide(); print(flush=True); input()"
"""A process as hard to trace as a daemon."""


class Injected:
    """What was made to fail so far."""

    def __init__(self, notes: Path) -> None:
        self._notes = notes

    @property
    def calls(self) -> list[str]:
        """Calls that have failed, or were late, as strace writes them."""
        lines = self._notes.read_text(errors="replace").splitlines()
        return [line for line in lines if "(INJECTED)" in line or "(DELAYED)" in line]


@functools.cache
def obstacle() -> str:
    """Why no daemon can be traced here, by one try; empty if it can."""
    if not shutil.which("strace"):
        return "strace is not installed: make test-packages"
    if os.geteuid():
        return "only root can trace a daemon, which hides from its own user"
    with subprocess.Popen(
        [sys.executable, "-c", HIDDEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as hidden:
        assert hidden.stdout is not None
        hidden.stdout.readline()
        command = ["timeout", str(ATTACH_SECONDS), "strace", "-o", "/dev/null"]
        command += ["-p", str(hidden.pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            said = strace.stderr.readline().strip()
            hidden.kill()
    return "" if "attached" in said else f"no process can be traced (CAP_SYS_PTRACE): {said}"


def tracer(notes: Path, calls: str, fault: str, places: Iterable[Path]) -> list[str]:
    """The command by which calls that are about these places get a fault; `notes` tells of them."""
    command = ["strace", "-f", "-o", str(notes), "-e", f"trace={calls}"]
    command += ["-e", f"inject={calls}:{fault}"]
    return command + [word for place in places for word in ("-P", str(place))]


@contextmanager
def failing(one: Daemon, calls: str, fault: str, *places: Path) -> Iterator[Injected]:
    """Calls of the daemon, and of workers that it starts, get `fault` where they are about a place.

    `calls` and `fault` are those of strace(1): `fsync,fdatasync` or `/^rename`; `error=EIO` or
    `delay_enter=5s:when=1`. A place is a file or a directory: a name that is relative to a
    descriptor of that directory counts, too.
    """
    if problem := obstacle():
        pytest.skip(problem)
    assert one.process is not None
    notes = one.root / f"strace-{time.monotonic_ns()}"
    said = notes.with_suffix(".said")
    with said.open("wb") as output:
        process = subprocess.Popen(
            [*tracer(notes, calls, fault, places), "-p", str(one.process.pid)],
            stdin=subprocess.DEVNULL,
            stderr=output,
        )
    try:
        eventually(lambda: "attached" in said.read_text(), "strace has the daemon")
        yield Injected(notes)
    finally:
        process.send_signal(signal.SIGINT)  # it lets go of all that it has
        process.wait(ATTACH_SECONDS)


def start_failing(one: Daemon, calls: str, fault: str, *places: Path) -> tuple[int, str]:
    """Start a daemon whose calls get a fault from its first moment on; its exit code and words."""
    if problem := obstacle():
        pytest.skip(problem)
    one.write_config()
    notes = one.root / f"strace-{time.monotonic_ns()}"
    command = [*tracer(notes, calls, fault, places), "--seccomp-bpf"]
    done = subprocess.run(
        [*command, *one.command("serve", "--config", str(one.config_file))],
        env=one.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=START_SECONDS,
        check=False,
    )
    assert Injected(notes).calls, f"nothing of {calls} was asked of {places}"
    return done.returncode, done.stderr.decode()
