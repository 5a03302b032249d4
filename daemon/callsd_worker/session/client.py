# SPDX-License-Identifier: Apache-2.0
"""The session with the daemon, on a thread of its own.

The daemon may go away and come back: the work goes on meanwhile, and the session is dialled again.
"""

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc

from callsd_ipc.v1 import worker_pb2, worker_pb2_grpc
from callsd_worker.session.bootstrap import hello


log = logging.getLogger(__name__)

STATUS_SECONDS = 1.0
"""How often the daemon hears of us, even when nothing has changed."""

REDIAL_SECONDS = 1.0


class Session:
    """Tells the daemon how things are, and hears what it wants."""

    def __init__(self, bootstrap: worker_pb2.Bootstrap) -> None:
        self._bootstrap = bootstrap
        self.directory = Path(bootstrap.job_directory)
        """The job's directory; the worker writes nowhere else."""
        self.generation = bootstrap.generation
        self._status = worker_pb2.Status(phase="starting")
        self._changed = threading.Condition()
        self._assigned = threading.Event()
        self.assignment: worker_pb2.Assignment | None = None
        """The work, once the daemon has given it."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="session", daemon=True)

    def start(self, timeout_seconds: float) -> bool:
        """Dial the daemon; returns whether it has given work in time."""
        self._thread.start()
        self._assigned.wait(timeout_seconds)
        return self.assignment is not None

    def should_stop(self) -> bool:
        """Whether the daemon, or a signal, wants the work to end."""
        return self._stop.is_set()

    def request_stop(self) -> None:
        """Have the work end."""
        self._stop.set()
        # Waits for nothing: this is called by a signal handler too.
        self._assigned.set()

    def report(self, status: worker_pb2.Status) -> None:
        """How things are now; what was reported before does not matter any more."""
        with self._changed:
            urgent = status.phase != self._status.phase
            self._status = status
            if urgent:
                self._changed.notify()

    def _serve(self) -> None:
        while True:
            try:
                with grpc.insecure_channel(f"unix:{self._bootstrap.socket_path}") as channel:
                    self._converse(worker_pb2_grpc.WorkerServiceStub(channel))
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.PERMISSION_DENIED:
                    # Another worker does this job now, or nobody shall: our results do not count.
                    log.warning("the daemon does not want this worker any more")
                    self.request_stop()
                    return
            time.sleep(REDIAL_SECONDS)

    def _converse(self, stub: worker_pb2_grpc.WorkerServiceStub) -> None:
        for response in stub.Session(self._reports()):
            if response.HasField("assignment") and self.assignment is None:
                self.assignment = response.assignment
                self._assigned.set()
            elif response.HasField("stop"):
                log.info("asked to stop")
                self.request_stop()

    def _reports(self) -> Iterator[worker_pb2.SessionRequest]:
        yield worker_pb2.SessionRequest(hello=hello(self._bootstrap))
        while True:
            with self._changed:
                status = self._status
            yield worker_pb2.SessionRequest(status=status)
            with self._changed:
                if self._status is status:
                    self._changed.wait(STATUS_SECONDS)
