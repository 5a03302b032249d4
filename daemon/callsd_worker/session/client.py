# SPDX-License-Identifier: Apache-2.0
"""The session with the daemon, on a thread of its own.

The daemon may be restarted: the work goes on meanwhile, and the worker connects again. Artifacts
and outcome stay in the worker's own directory until the daemon has taken them over.
"""

import functools
import logging
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from callsd_ipc.names import ARTIFACTS, WORKER_LOG
from callsd_ipc.v1 import worker_pb2, worker_pb2_grpc
from callsd_worker.session.bootstrap import channel, hello
from callsd_worker.session.outcome import read_outcome


log = logging.getLogger(__name__)

STATUS_SECONDS = 1.0
"""How often the status is sent, even when nothing has changed."""

MIN_STATUS_SECONDS = 0.1
"""Shortest time between two statuses."""

REDIAL_SECONDS = 1.0

LOG_CHUNK_BYTES = 64 * 1024
MAX_LOG_BACKLOG_BYTES = 256 * 1024
"""Of a log that grows faster than it is sent, only the last bytes are sent."""

FILE_CHUNK_BYTES = 256 * 1024

DELIVERY_SECONDS = 3600.0
"""How long to wait for a daemon that is away; after that another worker delivers the outcome."""

FAREWELL_SECONDS = 5.0
"""The same, for a worker that was asked to stop."""


class LogTail:
    """The part of our own log that the daemon does not have yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.offset: int | None = None
        """How much the daemon has; None until it has said so in this session."""

    def next(self) -> worker_pb2.LogData | None:
        """The next part; None when there is nothing new, or the offset is not known yet."""
        if self.offset is None:
            return None
        try:
            with self._path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < self.offset:
                    self.offset = 0  # the log was emptied, because it had grown too long
                self.offset = max(self.offset, size - MAX_LOG_BACKLOG_BYTES)
                file.seek(self.offset)
                part = worker_pb2.LogData(offset=self.offset, data=file.read(LOG_CHUNK_BYTES))
        except OSError:
            return None
        self.offset += len(part.data)
        return part if part.data else None


class Session:
    """Reports to the daemon, and takes its assignment and its request to stop."""

    def __init__(self, bootstrap: worker_pb2.Bootstrap) -> None:
        self._bootstrap = bootstrap
        self.directory = Path.cwd()
        """The worker's own directory; it writes nowhere else."""
        self.generation = bootstrap.generation
        self._status = worker_pb2.Status(phase="starting")
        self._changed = threading.Condition()
        self._assigned = threading.Event()
        self.assignment: worker_pb2.Assignment | None = None
        """The work, once the daemon has sent it."""
        self._stop = threading.Event()
        self._last_report: worker_pb2.SessionRequest | None = None
        """The last message of the session: an outcome, or that there is none."""
        self._is_connected = False
        self._settled = threading.Event()
        """Set when the daemon has taken everything, or refuses it."""
        self._sender = ThreadPoolExecutor(max_workers=1, thread_name_prefix="send")
        self._thread = threading.Thread(target=self._serve, name="session", daemon=True)

    def start(self, timeout_seconds: float) -> bool:
        """Connect to the daemon; returns whether it has sent work in time."""
        self._thread.start()
        self._assigned.wait(timeout_seconds)
        return self.assignment is not None

    def should_stop(self) -> bool:
        """Whether the daemon, or a signal, has asked to stop."""
        return self._stop.is_set()

    def request_stop(self) -> None:
        """Have `should_stop` return True."""
        self._stop.set()
        # Takes no lock: signal handlers call this, too.
        self._assigned.set()

    def report(self, status: worker_pb2.Status) -> None:
        """Set the status to send; it replaces the one before."""
        with self._changed:
            self._status = status
            self._changed.notify()

    # The end

    def deliver(self) -> None:
        """Deliver the outcome in our directory, or report that there is none.

        Returns when the daemon has taken everything, or refuses it, or has been away for too long:
        then another worker delivers it.
        """
        outcome = read_outcome(self.directory, self.generation)
        if outcome is not None:
            report = worker_pb2.SessionRequest(outcome=outcome)
        else:
            report = worker_pb2.SessionRequest(nothing_saved=worker_pb2.NothingSaved())
        with self._changed:
            self._last_report = report
            self._changed.notify()
        if not self._thread.is_alive() and not self._settled.is_set():
            self._thread.start()
        began = connected = time.monotonic()
        while not self._settled.wait(STATUS_SECONDS / 10):
            now = time.monotonic()
            connected = now if self._is_connected else connected
            patience = FAREWELL_SECONDS if self.should_stop() else DELIVERY_SECONDS
            if now - connected > patience or now - began > DELIVERY_SECONDS:
                log.warning("the daemon is away; the outcome is kept here")
                return

    # The session

    def _serve(self) -> None:
        # The channel is never closed: that fails when the thread dies with the process.
        stub = worker_pb2_grpc.WorkerServiceStub(channel(self._bootstrap))
        while not self._settled.is_set():
            try:
                self._converse(stub)
            except grpc.RpcError as error:
                if error.code() in (
                    grpc.StatusCode.PERMISSION_DENIED,
                    grpc.StatusCode.FAILED_PRECONDITION,
                ):
                    # Another worker has this job now, or nobody: our results do not count.
                    log.warning("the daemon does not want this worker: %s", error.details())
                    self._settled.set()
                    self.request_stop()
                    return
            finally:
                self._is_connected = False
            if not self._settled.is_set():
                time.sleep(REDIAL_SECONDS)

    def _converse(self, stub: worker_pb2_grpc.WorkerServiceStub) -> None:
        # A new tail for each session: what was sent in the last one may not have arrived.
        tail = LogTail(self.directory / WORKER_LOG)
        for response in stub.Session(self._reports(tail)):
            self._is_connected = True
            match response.WhichOneof("order"):
                case "log_kept":
                    with self._changed:
                        tail.offset = response.log_kept.offset
                        self._changed.notify()
                case "assignment" if self.assignment is None:
                    self.assignment = response.assignment
                    self._assigned.set()
                case "stop":
                    log.info("asked to stop")
                    self.request_stop()
                case "send":
                    self._sender.submit(self._send, stub, response.send)
                case "verdict":
                    if response.verdict.problem:
                        log.error("the outcome cannot be used: %s", response.verdict.problem)
                    self._settled.set()
                    return
                case _:
                    pass

    def _reports(self, tail: LogTail) -> Iterator[worker_pb2.SessionRequest]:
        is_assigned = self.assignment is not None or self._last_report is not None
        yield worker_pb2.SessionRequest(hello=hello(self._bootstrap, is_assigned=is_assigned))
        sent: worker_pb2.SessionRequest | None = None
        while not self._settled.is_set():
            with self._changed:
                status, last, is_begun = self._status, self._last_report, tail.offset is not None
            if last is not None and sent is None and is_begun:
                while (part := tail.next()) is not None:
                    yield worker_pb2.SessionRequest(log=part)
                sent = last
                yield last
                if last.HasField("nothing_saved"):
                    self._settled.set()
                    return
            yield worker_pb2.SessionRequest(status=status)
            if (part := tail.next()) is not None:
                yield worker_pb2.SessionRequest(log=part)
            with self._changed:
                is_same = self._status is status and self._last_report is last
                if is_same and is_begun == (tail.offset is not None):
                    self._changed.wait(STATUS_SECONDS)
                # Not more often than this, unless the last report is there.
                self._changed.wait_for(functools.partial(self._ends, last), MIN_STATUS_SECONDS)

    def _ends(self, known: worker_pb2.SessionRequest | None) -> bool:
        """Whether the last report is there, and was not `known` before."""
        return self._last_report is not known

    def _send(self, stub: worker_pb2_grpc.WorkerServiceStub, order: worker_pb2.SendOrder) -> None:
        try:
            stub.SendFile(self._parts(order.file_name, order.offset))
        except (grpc.RpcError, OSError) as problem:
            # The daemon requests again what is missing.
            log.warning("%s was not sent: %s", order.file_name, problem)

    def _parts(self, file_name: str, offset: int) -> Iterator[worker_pb2.SendFileRequest]:
        start = worker_pb2.SendFileStart(
            hello=hello(self._bootstrap, is_assigned=True), file_name=file_name, offset=offset
        )
        yield worker_pb2.SendFileRequest(start=start)
        with (self.directory / ARTIFACTS / file_name).open("rb") as file:
            file.seek(offset)
            while data := file.read(FILE_CHUNK_BYTES):
                yield worker_pb2.SendFileRequest(data=data)
