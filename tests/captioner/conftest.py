# SPDX-License-Identifier: Apache-2.0
"""A captioner process, and the end of the corridor that the daemon has."""

import contextlib
import itertools
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from callsd_ipc.v1 import worker_pb2, worker_pb2_grpc
from tests.helpers.waiting import eventually


TOKEN = "the-token"
MODEL = "captioner.tiny.en"
INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")

LOAD_SECONDS = 30.0
WORK_SECONDS = 30.0


def pins(directory: Path) -> list[worker_pb2.FilePin]:
    """The files of a model, as its manifest has them."""
    manifest = json.loads((directory / "manifest.json").read_text())
    return [worker_pb2.FilePin(**file) for file in manifest["files"]]


class Captioner(worker_pb2_grpc.WorkerServiceServicer):
    """Starts a captioner and gives it orders; keeps what it reports.

    `folders` are the directories of models, by the names that their files are asked for with. With
    `is_detached` they are sent through the session, otherwise handed over as descriptors.
    """

    def __init__(
        self,
        root: Path,
        work: worker_pb2.CaptionerWork,
        folders: dict[str, Path],
        *,
        is_detached: bool,
    ) -> None:
        self.asked: list[worker_pb2.ReadFileRequest] = []
        self._folders = folders
        self._file_socket = "" if is_detached else str(root / "files.sock")
        if self._file_socket:
            self._segmenter = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._segmenter.bind(self._file_socket)
            self._segmenter.listen()
            threading.Thread(target=self._hand_over, daemon=True).start()
        self.directory = root / "captioner"
        self.directory.mkdir()
        self.hellos: list[worker_pb2.Hello] = []
        self.reports: list[worker_pb2.CaptionRequest] = []
        self.socket = root / "door.sock"
        self.work = work
        self._tracks = itertools.count(1)
        self._orders: queue.Queue[worker_pb2.CaptionResponse | None] = queue.Queue()
        self._server = grpc.server(ThreadPoolExecutor(2))
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix:{self.socket}")
        self._server.start()
        self.process = self._launch()

    def _launch(self) -> "subprocess.Popen[bytes]":
        bootstrap = worker_pb2.Bootstrap(
            job_id=MODEL,
            generation=1,
            token=TOKEN,
            role=worker_pb2.ROLE_CAPTIONER,
            endpoint=f"unix:{self.socket}",
            file_socket=self._file_socket,
        )
        with (self.directory / "log.txt").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "callsd_worker", MODEL],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env={name: os.environ[name] for name in INHERITED if name in os.environ},
                start_new_session=True,
            )
        assert process.stdin is not None
        process.stdin.write(bootstrap.SerializeToString())
        process.stdin.close()
        return process

    def Caption(  # noqa: N802 - the protocol's name
        self, request_iterator: Iterator[worker_pb2.CaptionRequest], context: Any
    ) -> Iterator[worker_pb2.CaptionResponse]:
        """The captioner's session."""
        self.hellos.append(next(request_iterator).hello)
        reader = threading.Thread(target=self._read, args=(request_iterator,), daemon=True)
        reader.start()
        yield worker_pb2.CaptionResponse(work=self.work)
        while (order := self._orders.get()) is not None:
            yield order

    def Session(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802 - as above
        """No worker for one job comes here."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "only captioners")

    def CaptionCall(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802 - as above
        """No worker that captures a call comes here."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "only captioners")

    def ReadFile(  # noqa: N802 - as above
        self, request: worker_pb2.ReadFileRequest, context: Any
    ) -> Iterator[worker_pb2.ReadFileResponse]:
        """A file, part by part."""
        with self._path(request).open("rb") as file:
            while data := file.read(256 * 1024):
                yield worker_pb2.ReadFileResponse(data=data)

    def SendFile(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802 - as above
        """A captioner makes no files."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "only captioners")

    def _hand_over(self) -> None:
        """Files as descriptors, one request a connection."""
        with contextlib.suppress(OSError):  # until it is closed
            while True:
                connection, _ = self._segmenter.accept()
                with connection:
                    request = worker_pb2.ReadFileRequest.FromString(connection.recv(4096))
                    descriptor = os.open(self._path(request), os.O_RDONLY)
                    socket.send_fds(connection, [b"ok"], [descriptor])
                    os.close(descriptor)

    def _path(self, request: worker_pb2.ReadFileRequest) -> Path:
        self.asked.append(request)
        folder, _, name = request.name.partition("/")
        return self._folders[folder] / name

    def _read(self, requests: Iterator[worker_pb2.CaptionRequest]) -> None:
        try:
            for request in requests:
                self.reports.append(request)
        except grpc.RpcError:
            pass

    # Orders

    def send(self, **order: Any) -> None:
        """Give an order."""
        self._orders.put(worker_pb2.CaptionResponse(**order))

    def new_track(self) -> int:
        """A number that no track has had, for tests that share a captioner."""
        return next(self._tracks)

    def open(self, track: int = 1, **values: Any) -> None:
        """Open a track, of call "a" if nothing else is said."""
        self.send(open=worker_pb2.OpenTrack(**{"track": track, "job_id": "a", **values}))

    def hear(self, pieces: list[worker_pb2.TrackAudio], *, per_parcel: int = 5) -> None:
        """Send sound, some pieces at a time."""
        for first in range(0, len(pieces), per_parcel):
            parcel = worker_pb2.AudioParcel(pieces=pieces[first : first + per_parcel])
            self.send(audio=parcel)

    def end_speech(self, track: int = 1) -> None:
        """End a speaker's speech, and wait until all of it is worked off."""
        before = self.drained(track)
        self.send(end=worker_pb2.EndSpeech(track=track))
        eventually(lambda: self.drained(track) > before, "all is worked off", seconds=WORK_SECONDS)

    def hang_up(self) -> None:
        """End the session from this side."""
        self._orders.put(None)

    # Reports

    @property
    def statuses(self) -> list[worker_pb2.CaptionerStatus]:
        """All so far."""
        return [r.status for r in list(self.reports) if r.HasField("status")]

    def update(self, track: int = 1) -> list[worker_pb2.TrackNews]:
        """All news of a track so far."""
        return [r.news for r in list(self.reports) if r.HasField("news") and r.news.track == track]

    def finals(self, track: int = 1) -> list[worker_pb2.CaptionWords]:
        """All final words of a track so far."""
        return [words for update in self.update(track) for words in update.finals]

    def text(self, track: int = 1) -> str:
        """All final text of a track so far."""
        return " ".join(words.text for words in self.finals(track))

    def drained(self, track: int = 1) -> int:
        """How often all sound of a track was worked off."""
        return sum(update.is_drained for update in self.update(track))

    def skipped_samples(self, track: int = 1) -> int:
        """Sound of a track that never came."""
        return sum(update.skipped_samples for update in self.update(track))

    def log(self) -> str:
        """What the process wrote."""
        return (self.directory / "log.txt").read_text()

    def loaded(self) -> "Captioner":
        """Wait until the model is loaded."""
        eventually(lambda: self.statuses, "the model is loaded", seconds=LOAD_SECONDS)
        return self

    def stop_server(self) -> None:
        """The daemon dies."""
        self._server.stop(None).wait()

    def close(self) -> None:
        """Leave nothing behind."""
        self.hang_up()
        self._server.stop(0).wait()
        if self._file_socket:
            # Only this wakes who accepts.
            self._segmenter.shutdown(socket.SHUT_RDWR)
            self._segmenter.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()


StartCaptioner = Callable[..., Captioner]


def _captioners(directory: Path, models_directory: Path) -> Iterator[StartCaptioner]:
    started: list[Captioner] = []
    model = models_directory / "tiny.en"

    def start(*, is_detached: bool = False, **options: Any) -> Captioner:
        work = worker_pb2.CaptionerWork(
            **{
                "model_name": "tiny.en",
                "model_files": pins(model),
                "workers": 1,
                "engine": "ctranslate2",
                "fallback_engine": "ctranslate2",
                **options,
            }
        )
        root = directory / str(len(started))
        root.mkdir()
        folders = {"model": model, "fallback": model}
        started.append(Captioner(root, work, folders, is_detached=is_detached))
        return started[-1]

    yield start
    for one in started:
        one.close()
    logs = [one.log() for one in started]
    assert not any("a bug" in log for log in logs), f"bugs in the captioner's log: {logs}"


@pytest.fixture
def captioner(tmp_path: Path, models_directory: Path) -> Iterator[StartCaptioner]:
    """Starts captioners of tiny.en; see CaptionerWork for the options."""
    yield from _captioners(tmp_path, models_directory)


@pytest.fixture(scope="module")
def shared_captioner(
    tmp_path_factory: pytest.TempPathFactory, models_directory: Path
) -> Iterator[Captioner]:
    """One that all tests of a module use, with tracks of their own."""
    for start in _captioners(tmp_path_factory.mktemp("shared"), models_directory):
        yield start().loaded()
