# SPDX-License-Identifier: Apache-2.0
"""Workers as children of the daemon, of the same user, without isolation."""

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from callsd_daemon.files import open_regular
from callsd_daemon.host import processes
from callsd_daemon.host.probe import Spent
from callsd_daemon.kinds import Role
from callsd_daemon.workers.launchers.launcher import End, Limits, WorkerId, WorkerProcess
from callsd_daemon.workers.launchers.local import Directories, LocalProcess
from callsd_ipc.names import JOB_VARIABLE, WORKER_LOG


INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CT2_FORCE_CPU_ISA")
"""What a worker gets of the daemon's environment: no secrets, nothing of systemd's protocols."""

PROGRAM = os.environ.get("CALLSD_WORKER_PROGRAM", "")
"""A Python file to run as the worker; only for tests of workers that misbehave."""

BOUNDED_ROLES = (Role.TRANSCRIBER, Role.CAPTIONER, Role.CAPTURER)
"""Roles whose memory is limited. A browser's processes each reserve gigabytes of address space that
they never use, and the limit holds for each process."""

ROOM_BYTES = 2 * 1024**3
ROOM_PER_CPU_BYTES = 64 * 1024**2
"""RLIMIT_DATA also counts memory that is reserved but not used: stacks, buffers of each thread.
Measured: 0.7 GB more than what is used, with 6 threads on 2 processors."""

TAG_TIMEOUT_SECONDS = 1.0
SWEEP_TIMEOUT_SECONDS = 10.0
SWEEP_INTERVAL_SECONDS = 0.05


class ProcessLauncher(Directories):
    """Each worker is a process with a session of its own, which outlives the daemon.

    It and all that it starts have its tag in their environment, by which any daemon finds them.
    """

    is_local = True

    def __init__(self, top: Path, trash: Path) -> None:
        """`top` holds the workers' directories; those in `trash` are removed."""
        super().__init__(top, trash, mode=0o700)
        self.epoch = processes.boot_id()
        self._sessions: dict[int, str] = {}
        """Sessions of running workers, and the workers' names."""

    async def launch(self, worker: WorkerId, bootstrap: bytes, limits: Limits) -> WorkerProcess:
        """Start a worker.

        Never uses `preexec_fn`, `user` or `group`: with them Python forks this process, which gRPC
        does not survive.
        """
        directory = self.path(worker.name)
        with os.fdopen(await asyncio.to_thread(self._make_log, worker.name), "ab") as output:
            child = subprocess.Popen(  # noqa: ASYNC220 - returns at once; pidfd tells of its end
                self.command(worker, directory),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=_environment(worker.tag),
                start_new_session=True,
            )
        assert child.stdin is not None
        try:
            # Far smaller than a pipe's buffer: this never blocks.
            with contextlib.suppress(BrokenPipeError), child.stdin:
                child.stdin.write(bootstrap)
            await _until_tagged(child)
            _bound_memory(child.pid, worker.role, limits)

            async def read_end() -> End:
                return _end_of(child.wait())

            return self._watch(worker, child.pid, read_end)
        except BaseException:
            # A worker that nobody watches must not run on.
            child.kill()
            child.wait()
            raise

    def _make_log(self, name: str) -> int:
        """A descriptor of the log in a worker's directory, which is made if needed."""
        # An earlier worker may have left anything there: opening a pipe would block for ever.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        return open_regular(self.make(name) / WORKER_LOG, flags)

    def command(self, worker: WorkerId, directory: Path) -> list[str]:
        """The worker's command line."""
        program = [PROGRAM] if PROGRAM else ["-m", "callsd_worker"]
        # The worker ignores the tag: a later daemon finds the worker by it.
        return [sys.executable, *program, worker.tag]

    async def adopt(self, worker: WorkerId) -> WorkerProcess | None:
        """Find a worker by its tag."""
        pid = processes.leader_of_job(worker.tag)
        if pid is None:
            return None

        async def read_end() -> End:
            return End()  # only the parent learns it, and that is gone

        try:
            process = self._watch(worker, pid, read_end)
        except ProcessLookupError:
            return None
        # The pid may have been reused before the pidfd was opened.
        if processes.leader_of_job(worker.tag) != pid:
            process.detach()
            return None
        return process

    def _watch(
        self, worker: WorkerId, pid: int, read_end: Callable[[], Awaitable[End]]
    ) -> LocalProcess:
        async def read_end_once() -> End:
            self._sessions.pop(pid, None)
            return await read_end()

        async def age() -> float | None:
            return processes.age_seconds(pid)

        process = LocalProcess(pid, read_end=read_end_once, send=_send, read_age=age)
        self._sessions[pid] = worker.name
        return process

    async def last_end(self, worker: WorkerId) -> End:
        """Not known: only the parent learns it, and that is gone."""
        return End()

    async def sweep(self, worker: WorkerId) -> bool:
        """Kill every process that carries the tag."""
        deadline = time.monotonic() + SWEEP_TIMEOUT_SECONDS
        # A process that forks during the search is found in the next round.
        while await asyncio.to_thread(processes.kill_job, worker.tag):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(SWEEP_INTERVAL_SECONDS)
        return True

    async def adjust(self, worker: WorkerId, limits: Limits) -> None:
        """Raise the memory limit. It is never lowered: the memory may be in use."""
        for pid, name in self._sessions.items():
            if name == worker.name:
                _bound_memory(pid, worker.role, limits)

    def spent(self) -> dict[str, Spent]:
        """Per session: a process that leaves its worker's session counts as other load."""
        sessions = dict(self._sessions)
        return {
            sessions[session]: Spent(cpu_seconds=use.cpu_seconds, memory_bytes=use.memory_bytes)
            for session, use in processes.uses(frozenset(sessions)).items()
        }


def _bound_memory(pid: int, role: Role, limits: Limits) -> None:
    """Have a worker that has gone wrong fail for lack of memory before the machine does."""
    if role not in BOUNDED_ROLES:
        return
    wanted = limits.memory_bytes + ROOM_BYTES + ROOM_PER_CPU_BYTES * (os.cpu_count() or 1)
    # A container may forbid it: then there is no limit.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        # The soft one only, which may be raised again; and no preexec_fn: see launch.
        soft, hard = resource.prlimit(pid, resource.RLIMIT_DATA)
        if hard != resource.RLIM_INFINITY:
            wanted = min(wanted, hard)
        # A worker starts with the daemon's own limit, usually none.
        is_new = soft in (resource.RLIM_INFINITY, hard)
        resource.prlimit(pid, resource.RLIMIT_DATA, (wanted if is_new else max(wanted, soft), hard))


async def _until_tagged(child: "subprocess.Popen[bytes]") -> None:
    """Wait until a process can be found by its tag.

    Popen returns when the new program has closed what it does not inherit, a moment before the
    kernel shows its environment: who looked for it in between would take it for gone.
    """
    deadline = time.monotonic() + TAG_TIMEOUT_SECONDS
    while time.monotonic() < deadline and child.poll() is None:
        with contextlib.suppress(OSError):
            if (processes.PROC / str(child.pid) / "environ").read_bytes():
                return
        await asyncio.sleep(0)


async def _send(pidfd: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def _end_of(code: int) -> End:
    return End(signal=signal.Signals(-code).name) if code < 0 else End(exit_code=code)


def _environment(tag: str) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {**inherited, JOB_VARIABLE: tag}
