# SPDX-License-Identifier: Apache-2.0
"""The files that an assignment names, as the worker gets them from the daemon."""

import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path

import grpc

from callsd_ipc.v1 import worker_pb2, worker_pb2_grpc
from callsd_worker.session.bootstrap import channel, hello
from callsd_worker.session.files import check_files


INPUTS = "inputs"
"""The directory for them, or for links to them, in ours."""

MAX_ANSWER_BYTES = 4096
TIMEOUT_SECONDS = 30.0
PATIENCE_SECONDS = 60.0
"""How long to wait for a daemon that is away."""

RETRY_SECONDS = 0.5


class InputError(Exception):
    """The daemon was away for too long, or could not open a file for now."""


class RefusedInputError(Exception):
    """The daemon is there, and does not hand this file over; the message says why."""


class Inputs:
    """The inputs of one worker."""

    def __init__(self, bootstrap: worker_pb2.Bootstrap, directory: Path) -> None:
        """`directory` is the worker's own."""
        self._bootstrap = bootstrap
        self._directory = directory / INPUTS
        self._descriptors: list[int] = []

    def open(self, name: str) -> int:
        """A descriptor of the file, open for reading until this process ends.

        Raises RefusedInputError and InputError.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                if self._bootstrap.file_socket:
                    descriptor = self._ask(name)
                else:
                    descriptor = os.open(self._read(name), os.O_RDONLY | os.O_CLOEXEC)
            except (OSError, grpc.RpcError) as problem:
                if isinstance(problem, grpc.RpcError) and problem.code() not in (
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.CANCELLED,
                ):
                    raise RefusedInputError(problem.details() or str(problem)) from problem
                if time.monotonic() > deadline:
                    raise InputError(str(problem)) from problem
                time.sleep(RETRY_SECONDS)
                continue
            self._descriptors.append(descriptor)
            return descriptor

    def model(self, folder: str, pins: Iterable[worker_pb2.FilePin]) -> Path:
        """A directory with the verified files of a model.

        Engines open them by name: where the daemon passes descriptors, the names are links to
        these. Raises what `open` does, and SpeechError MODEL_INVALID.
        """
        directory = self._directory / folder
        pins = list(pins)
        for pin in pins:
            descriptor = self.open(f"{folder}/{pin.path}")
            if self._bootstrap.file_socket:
                path = directory / pin.path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)
                path.symlink_to(f"/proc/self/fd/{descriptor}")
        check_files(directory, pins)
        return directory

    def _ask(self, name: str) -> int:
        """Get a descriptor through the file socket. Raises OSError when the daemon is away."""
        request = worker_pb2.ReadFileRequest(hello=hello(self._bootstrap), name=name)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(TIMEOUT_SECONDS)
            connection.connect(self._bootstrap.file_socket)
            connection.send(request.SerializeToString())
            answer, descriptors, _, _ = socket.recv_fds(connection, MAX_ANSWER_BYTES, 1)
        if descriptors:
            return descriptors[0]
        if not answer:
            raise ConnectionError("the daemon closed the connection")
        raise RefusedInputError(answer.decode(errors="replace"))

    def _read(self, name: str) -> Path:
        """Copy the file into our directory, through a connection like the session's."""
        path = self._directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        request = worker_pb2.ReadFileRequest(hello=hello(self._bootstrap), name=name)
        draft = path.with_name(f".{path.name}.part")
        with channel(self._bootstrap) as connection, draft.open("wb") as file:
            stub = worker_pb2_grpc.WorkerServiceStub(connection)
            for part in stub.ReadFile(request):
                file.write(part.data)
        draft.replace(path)
        return path
