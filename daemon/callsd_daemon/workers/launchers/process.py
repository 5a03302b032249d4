# SPDX-License-Identifier: Apache-2.0
"""Workers as children of the daemon."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from callsd_daemon.host import processes
from callsd_daemon.workers.launchers.launcher import Limits
from callsd_daemon.workers.process import JOB_LOG, End, Process, adopt


INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CT2_FORCE_CPU_ISA")
"""What a worker gets of the daemon's environment: nothing that is secret or speaks to systemd."""

PROGRAM = os.environ.get("CALLSD_WORKER_PROGRAM", "")
"""A Python file to run as the worker; only for tests of what happens when workers misbehave."""


class ProcessLauncher:
    """Workers are processes of their own session, started by the daemon. Nothing limits them."""

    async def launch(self, mark: str, bootstrap: bytes, directory: Path, limits: Limits) -> Process:
        """Start a worker.

        Never uses `preexec_fn`, `user` or `group`: they would make Python fork this process, which
        gRPC does not survive.
        """
        with (directory / JOB_LOG).open("ab") as output:
            child = subprocess.Popen(  # noqa: ASYNC220 - returns at once; pidfd tells of its end
                # The mark is of no use to the worker: by it a later daemon knows it again.
                [sys.executable, *([PROGRAM] if PROGRAM else ["-m", "callsd_worker"]), mark],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=_environment(mark),
                start_new_session=True,
            )
        assert child.stdin is not None
        # Far smaller than a pipe's buffer: this never waits for the worker.
        with contextlib.suppress(BrokenPipeError), child.stdin:
            child.stdin.write(bootstrap)

        async def read_end() -> End:
            return _end_of(child.wait())

        return Process(child.pid, mark, read_end)

    def adopt(self, mark: str, directory: Path) -> Process | None:
        """Find a worker by its mark."""
        return adopt(mark, lambda: self.last_end(directory))

    async def last_end(self, directory: Path) -> End:
        """Nothing: only a process' parent is told, and that is gone."""
        return End()

    async def adjust(self, directory: Path, limits: Limits) -> None:
        """Do nothing: there are no limits."""


def _end_of(code: int) -> End:
    return End(signal=signal.Signals(-code).name) if code < 0 else End(exit_code=code)


def _environment(mark: str) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {**inherited, processes.JOB_MARK: mark}
