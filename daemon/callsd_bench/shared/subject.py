# SPDX-License-Identifier: Apache-2.0
"""A daemon of the benchmark's own, in a temporary directory, gone without a trace afterwards."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from callsd import CallsdError, Client
from callsd_bench.shared.errors import BenchError


START_TIMEOUT_SECONDS = 30.0
# Its drain: streams are closed at once, and no call of ours takes a second.
STOP_TIMEOUT_SECONDS = 10.0
WORKER_END_SECONDS = 2.0
POLL_SECONDS = 0.005
STDERR_TAIL_CHARACTERS = 2_000

SERVE = "import sys; from callsd_daemon.cli.main import main; sys.argv[1:] = ['serve']; main()"
"""As the script `callsd serve`, wherever that is installed."""


class Subject:
    """A running `callsd serve`; a context manager that ends it and all its workers."""

    def __init__(self, directory: Path, *, models: Path, settings: Mapping[str, str]) -> None:
        """Prepare a daemon with its state in `directory`.

        `settings` are keys of the configuration, such as "jobs.max_concurrent_jobs".
        """
        self.state = directory / "state"
        self.address = f"unix:{directory}/run/callsd.sock"
        self.token_file = directory / "run" / "owner.token"
        self.start_seconds = 0.0
        """From the start of the program to its first answer that it is well."""
        self._socket = directory / "run" / "callsd.sock"
        self._output = directory / "daemon.log"
        given = {
            "state.directory": str(self.state),
            "state.runtime_directory": str(directory / "run"),
            "models.directory": str(models.resolve()),
            "log.level": "warning",
            **settings,
        }
        # Nothing of a daemon that is installed here shall reach this one.
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CALLSD_")},
            **{f"CALLSD_{key.upper().replace('.', '_')}": value for key, value in given.items()},
        }

    def __enter__(self) -> Self:
        self._output.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", SERVE],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C is for us: a daemon that ends by itself leaves its workers running.
                process_group=0,
            )
        try:
            self._await_answer(began + START_TIMEOUT_SECONDS)
        except BaseException:
            self._end()
            raise
        self.start_seconds = time.monotonic() - began
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    @property
    def process(self) -> psutil.Process:
        """The daemon, without its workers."""
        return psutil.Process(self._process.pid)

    @property
    def cpu_seconds(self) -> float:
        """Processor time of the daemon so far, without its workers."""
        times = self.process.cpu_times()
        return times.user + times.system

    def client(self) -> Client:
        """A new connection to the daemon."""
        return Client(self.address, token_file=self.token_file)

    def _await_answer(self, deadline: float) -> None:
        # The client's own first retry would come after 0.1 s: too coarse a clock for a start.
        while not _listens(self._socket):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(
                    "the daemon did not start:\n"
                    + self._output.read_text(errors="replace")[-STDERR_TAIL_CHARACTERS:]
                )
            time.sleep(POLL_SECONDS)
        try:
            with self.client() as client:
                if not client.is_serving(timeout_seconds=deadline - time.monotonic()):
                    raise BenchError("the daemon has started, but says that it is not well")
        except CallsdError as error:
            raise BenchError(f"the daemon does not answer: {error}") from error

    def _end(self) -> None:
        # A daemon leaves its workers running for the next one: here there is none.
        with contextlib.suppress(psutil.NoSuchProcess):
            workers = self.process.children(recursive=True)
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            for worker in workers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.kill()
            psutil.wait_procs(workers, timeout=WORKER_END_SECONDS)


def _listens(path: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))
        return True
    return False
