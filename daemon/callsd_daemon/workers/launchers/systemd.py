# SPDX-License-Identifier: Apache-2.0
"""Workers as units of systemd, each of a user of its own.

The daemon may start such units, signal them and set their limits, and nothing else; they outlive
it. Daemon and worker share two directories of the group `callsd-worker`, to which both belong: the
worker's own, and the one with its bootstrap. Each worker sees only its own two. The worker's name,
20 hexadecimal digits, is part of the name of its user.
"""

import asyncio
import contextlib
import grp
import signal
import subprocess
import time
from pathlib import Path

from callsd_daemon.files import read_regular, write_whole
from callsd_daemon.host import processes
from callsd_daemon.host.probe import Spent
from callsd_daemon.kinds import Role
from callsd_daemon.workers.launchers.launcher import End, Limits, WorkerId, WorkerProcess
from callsd_daemon.workers.launchers.local import Directories, EndedProcess, LocalProcess


GROUP = "callsd-worker"

OLD_UNIT = "callsd-worker@jobs-{name}.service"
"""Name of a job's unit in the release before; such workers outlive an upgrade."""

CGROUPS = Path("/sys/fs/cgroup/callsd.slice/callsd-workers.slice")

SYSTEMCTL_SECONDS = 20.0
"""Starting a unit takes some 50 ms, on an overloaded machine some seconds."""

SWEEP_SECONDS = 10.0
POLL_SECONDS = 0.05

EXIT_FILE = "exit"
"""The file in a worker's directory into which ExecStopPost of its unit writes how it ended."""

MAX_EXIT_FILE_BYTES = 256
EXIT_FILE_SECONDS = 5.0


class SystemdLauncher(Directories):
    """Each bootstrap is in a directory that only its worker sees; the worker removes it."""

    is_local = True

    def __init__(self, top: Path, trash: Path, runtime: Path) -> None:
        """The directories are those that callsd.tmpfiles.conf creates.

        Raises OSError when they are not as it creates them.
        """
        # New directories get the group from their parent, before `mode` opens them to it.
        super().__init__(top, trash, mode=0o770)
        self.epoch = processes.boot_id()
        self._bootstraps = runtime / "bootstrap"
        self._units: dict[str, str] = {}
        """Units of running workers, by the workers' names."""
        for path in (top, self._bootstraps, runtime / "workers"):
            try:
                is_shared = grp.getgrgid(path.stat().st_gid).gr_name == GROUP
            except (OSError, KeyError):
                is_shared = False
            if not is_shared:
                raise OSError(
                    f"{path} is not shared with the group {GROUP}: run `callsd install` again"
                )

    async def launch(self, worker: WorkerId, bootstrap: bytes, limits: Limits) -> WorkerProcess:
        """Start a unit."""
        # On a thread, so that it is completed even when the caller is cancelled.
        await asyncio.to_thread(self._start, worker, bootstrap, limits)
        process = await self.adopt(worker)
        if process is not None:
            return process
        end = await self.last_end(worker)
        if end == End():
            raise OSError(f"its unit ended at once: see journalctl --unit '{_unit(worker)}'")
        return EndedProcess(end)

    def _start(self, worker: WorkerId, bootstrap: bytes, limits: Limits) -> None:
        directory = self.make(worker.name)
        (directory / EXIT_FILE).unlink(missing_ok=True)
        told = self._bootstraps / worker.name
        told.mkdir(mode=0o700, exist_ok=True)
        # An earlier worker could write here, too: what it has left is replaced, not followed.
        write_whole(told / "bootstrap", bootstrap)
        (told / "bootstrap").chmod(0o640)
        told.chmod(0o770)
        self._limit(worker, limits)
        _systemctl("start", _unit(worker))

    async def adopt(self, worker: WorkerId) -> WorkerProcess | None:
        """Ask systemd for the worker's process."""
        for unit in (_unit(worker), OLD_UNIT.format(name=worker.name)):
            pid = int((await _show(unit, "MainPID")).get("MainPID") or 0)
            if not pid:
                continue
            try:
                process = self._watch(worker, unit, pid)
            except ProcessLookupError:
                continue
            # The pid may have been reused before the pidfd was opened.
            if (await _show(unit, "MainPID")).get("MainPID") == str(pid):
                return process
            process.detach()
        return None

    def _watch(self, worker: WorkerId, unit: str, pid: int) -> LocalProcess:
        async def read_end() -> End:
            self._units.pop(worker.name, None)
            return await self.last_end(worker)

        async def send(_pidfd: int, number: signal.Signals) -> None:
            await _kill(unit, number)

        async def age() -> float | None:
            stamp = (await _show(unit, "ExecMainStartTimestampMonotonic")).get(
                "ExecMainStartTimestampMonotonic"
            )
            return time.clock_gettime(time.CLOCK_MONOTONIC) - int(stamp) / 1e6 if stamp else None

        process = LocalProcess(pid, read_end=read_end, send=send, read_age=age)
        self._units[worker.name] = unit
        return process

    async def last_end(self, worker: WorkerId) -> End:
        """What the unit has written, some milliseconds after the exit."""
        directory = self.path(worker.name)
        if not directory.exists():  # workers of the release before used the job's
            directory = directory.parents[1] / "jobs" / worker.name
        path = directory / EXIT_FILE
        deadline = time.monotonic() + EXIT_FILE_SECONDS
        while (end := _read_exit_file(path)) is None and time.monotonic() < deadline:  # noqa: ASYNC110 - a file wakes nobody
            await asyncio.sleep(POLL_SECONDS)
        return end or End()

    async def sweep(self, worker: WorkerId) -> bool:
        """Kill the worker, and wait until systemd has killed what is left of its programs."""
        units = [_unit(worker), OLD_UNIT.format(name=worker.name)]
        deadline = time.monotonic() + SWEEP_SECONDS
        while running := [unit for unit in units if await _is_running(unit)]:
            if time.monotonic() > deadline:
                return False
            for unit in running:
                await _kill(unit, signal.SIGKILL)
            await asyncio.sleep(POLL_SECONDS)
        await asyncio.to_thread(self._forget, worker)
        return True

    def _forget(self, worker: WorkerId) -> None:
        """Remove a bootstrap that no worker has read, and its directory."""
        told = self._bootstraps / worker.name
        with contextlib.suppress(OSError):
            (told / "bootstrap").unlink(missing_ok=True)
            told.rmdir()

    async def adjust(self, worker: WorkerId, limits: Limits) -> None:
        """Set a unit's limits, until it ends."""
        await asyncio.to_thread(self._limit, worker, limits)

    def _limit(self, worker: WorkerId, limits: Limits) -> None:
        quota = "" if limits.cores is None else f"{limits.cores:.0%}"
        _systemctl(
            "set-property",
            "--runtime",
            _unit(worker),
            f"CPUWeight={limits.cpu_weight}",
            f"CPUQuota={quota}",
            f"MemoryMax={limits.memory_bytes}",
        )

    def spent(self) -> dict[str, Spent]:
        """Per control group: processes of other users cannot be read."""
        found = {}
        for name, unit in list(self._units.items()):
            group = CGROUPS / unit
            try:
                usage = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
            except OSError:
                continue
            memory = 0
            with contextlib.suppress(OSError):  # where the kernel does not account for it
                memory = int((group / "memory.current").read_text())
            found[name] = Spent(
                cpu_seconds=int(usage.get("usage_usec", 0)) / 1e6, memory_bytes=memory
            )
        return found


def _unit(worker: WorkerId) -> str:
    return f"{_PREFIXES[worker.role]}@{worker.name}.service"


_PREFIXES = {role: f"callsd-{role}" for role in Role}


async def _kill(unit: str, number: signal.Signals) -> None:
    """Send a signal to a unit's first process, if there is one.

    Never to all its processes: that could also kill ExecStopPost.
    """
    with contextlib.suppress(OSError):
        await asyncio.to_thread(
            _systemctl, "kill", "--kill-whom=main", f"--signal={number.name}", unit
        )


async def _is_running(unit: str) -> bool:
    state = (await _show(unit, "ActiveState")).get("ActiveState", "")
    return state not in ("inactive", "failed", "")


async def _show(unit: str, *names: str) -> dict[str, str]:
    """Some properties of a unit; raises OSError."""
    text = await asyncio.to_thread(
        _systemctl, "show", *(f"--property={name}" for name in names), unit
    )
    return dict(line.partition("=")[::2] for line in text.splitlines())


def _systemctl(*arguments: str) -> str:
    """What systemctl prints; raises OSError with what it has to say."""
    try:
        done = subprocess.run(
            ["/usr/bin/systemctl", "--no-ask-password", *arguments],
            stdin=subprocess.DEVNULL,
            # Not the daemon's environment, with what systemd has set for the daemon alone.
            env={"LANG": "C.UTF-8"},
            capture_output=True,
            text=True,
            timeout=SYSTEMCTL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"systemctl {arguments[0]}: no answer in {SYSTEMCTL_SECONDS:g} s") from None
    if done.returncode:
        raise OSError(f"systemctl {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def _read_exit_file(path: Path) -> End | None:
    """$SERVICE_RESULT $EXIT_CODE $EXIT_STATUS, see systemd.exec(5); None = no such file.

    It was written by the worker's own user, and may contain anything.
    """
    try:
        words = read_regular(path, MAX_EXIT_FILE_BYTES).decode(errors="replace").split()
    except OSError:
        return None
    match words:
        case ["oom-kill", _, _]:
            return End(is_out_of_memory=True)
        case [_, "exited", status] if status.isascii() and status.isdecimal():
            return End(exit_code=int(status))
        case [_, _, name] if f"SIG{name}" in signal.Signals.__members__:
            return End(signal=f"SIG{name}")
        case _:
            return None
