# SPDX-License-Identifier: Apache-2.0
"""Workers as units of systemd."""

import asyncio
import string
import subprocess
import time
from pathlib import Path

from callsd_daemon.host import processes
from callsd_daemon.workers.launchers.launcher import Limits
from callsd_daemon.workers.process import End, Process, adopt


PLAIN = frozenset(string.ascii_letters + string.digits + ":_.")
PREFIX, SUFFIX = "callsd-worker@", ".service"

SYSTEMCTL_SECONDS = 20.0
"""Starting a unit takes some 50 ms; on a machine that starves, some seconds."""

EXIT_FILE = "exit"
"""Where in its directory a worker's unit writes how it ended; see callsd-worker@.service."""

EXIT_FILE_SECONDS = 5.0

MARK_SECONDS = 10.0
"""How long a unit that has been started may take to become the worker."""

LOOK_SECONDS = 0.02


class SystemdLauncher:
    """Workers are units of systemd, which outlive the daemon and are held to their limits.

    What a worker is told lies in a directory that only this worker can see, which takes it away.
    """

    def __init__(self, state: Path, runtime: Path) -> None:
        """Both directories are those that the units know: /var/lib/callsd and /run/callsd."""
        self._state = state
        self._bootstraps = runtime / "bootstrap"
        self._bootstraps.mkdir(mode=0o700, exist_ok=True)

    async def launch(self, mark: str, bootstrap: bytes, directory: Path, limits: Limits) -> Process:
        """Start a unit."""
        # In one go on a thread: when the caller is cancelled it is done to its end all the same.
        await asyncio.to_thread(self._start, mark, bootstrap, directory, limits)
        deadline = time.monotonic() + MARK_SECONDS
        while time.monotonic() < deadline and not (directory / EXIT_FILE).exists():
            if await asyncio.to_thread(processes.leader_of_job, mark) is not None:
                process = self.adopt(mark, directory)
                if process is not None:
                    return process
            await asyncio.sleep(LOOK_SECONDS)
        raise OSError("its unit ended at once: see journalctl --unit 'callsd-worker@*'")

    def _start(self, mark: str, bootstrap: bytes, directory: Path, limits: Limits) -> None:
        unit = self._unit(directory)
        told = self._bootstraps / unit.removeprefix(PREFIX).removesuffix(SUFFIX)
        told.mkdir(mode=0o700, exist_ok=True)
        (told / "mark").write_text(mark)
        (told / "bootstrap").write_bytes(bootstrap)
        (directory / EXIT_FILE).unlink(missing_ok=True)
        self._limit(directory, limits)
        _systemctl("start", unit)

    def adopt(self, mark: str, directory: Path) -> Process | None:
        """Find a worker by its mark."""
        return adopt(mark, lambda: self.last_end(directory))

    async def last_end(self, directory: Path) -> End:
        """What its unit has written; it does so some milliseconds after the exit."""
        try:
            async with asyncio.timeout(EXIT_FILE_SECONDS):
                while (end := _read_exit_file(directory / EXIT_FILE)) is None:  # noqa: ASYNC110 - a file wakes nobody
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            return End()
        return end

    async def adjust(self, directory: Path, limits: Limits) -> None:
        """Set a unit's limits, until it ends."""
        await asyncio.to_thread(self._limit, directory, limits)

    def _limit(self, directory: Path, limits: Limits) -> None:
        quota = "" if limits.cores is None else f"{limits.cores:.0%}"
        _systemctl(
            "set-property",
            "--runtime",
            self._unit(directory),
            f"CPUWeight={limits.cpu_weight}",
            f"CPUQuota={quota}",
            f"MemoryMax={limits.memory_bytes}",
        )

    def _unit(self, directory: Path) -> str:
        return unit_of(directory.relative_to(self._state))


def unit_of(path: Path) -> str:
    """The unit whose %I is this path, relative to the state directory."""
    return PREFIX + "-".join(_escaped(part) for part in path.parts) + SUFFIX


def _systemctl(*arguments: str) -> None:
    """Raises OSError with what systemctl has to say."""
    try:
        done = subprocess.run(
            ["/usr/bin/systemctl", "--no-ask-password", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SYSTEMCTL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"systemctl {arguments[0]}: no answer in {SYSTEMCTL_SECONDS:g} s") from None
    if done.returncode:
        raise OSError(f"systemctl {arguments[0]}: {done.stderr.strip()}")


def _read_exit_file(path: Path) -> End | None:
    """$SERVICE_RESULT $EXIT_CODE $EXIT_STATUS as systemd.exec(5) has them; None = not there."""
    try:
        words = path.read_text().split()
    except OSError:
        return None
    match words:
        case ["oom-kill", _, _]:
            return End(is_out_of_memory=True)
        case [_, "exited", status]:
            return End(exit_code=int(status))
        case [_, _, name]:
            return End(signal=f"SIG{name}")
        case _:
            return None


def _escaped(part: str) -> str:
    """A file name as a part of a unit's name: systemd.unit(5), "String Escaping"."""
    return "".join(chr(byte) if chr(byte) in PLAIN else f"\\x{byte:02x}" for byte in part.encode())
