# SPDX-License-Identifier: Apache-2.0
"""A captioner process, and the end of the corridor that the daemon has."""

import os
import queue
import signal
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


class Captioner(worker_pb2_grpc.WorkerServiceServicer):
    """Starts a captioner and gives it orders; keeps what it reports."""

    def __init__(self, root: Path, work: worker_pb2.CaptionerWork) -> None:
        self.directory = root / "captioner"
        self.directory.mkdir()
        self.hellos: list[worker_pb2.Hello] = []
        self.reports: list[worker_pb2.CaptionRequest] = []
        self.socket = root / "door.sock"
        self._work = work
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
            socket_path=str(self.socket),
            job_directory=str(self.directory),
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
        yield worker_pb2.CaptionResponse(work=self._work)
        while (order := self._orders.get()) is not None:
            yield order

    def Session(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802 - as above
        """No worker for one job comes here."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "only captioners")

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

    def news(self, track: int = 1) -> list[worker_pb2.TrackNews]:
        """All news of a track so far."""
        return [r.news for r in list(self.reports) if r.HasField("news") and r.news.track == track]

    def finals(self, track: int = 1) -> list[worker_pb2.CaptionWords]:
        """All final words of a track so far."""
        return [words for news in self.news(track) for words in news.finals]

    def text(self, track: int = 1) -> str:
        """All final text of a track so far."""
        return " ".join(words.text for words in self.finals(track))

    def drained(self, track: int = 1) -> int:
        """How often all sound of a track was worked off."""
        return sum(news.is_drained for news in self.news(track))

    def skipped_samples(self, track: int = 1) -> int:
        """Sound of a track that never came."""
        return sum(news.skipped_samples for news in self.news(track))

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
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()


StartCaptioner = Callable[..., Captioner]


@pytest.fixture
def captioner(tmp_path: Path, models_directory: Path) -> Iterator[StartCaptioner]:
    """Starts captioners of tiny.en; see CaptionerWork for the options."""
    started: list[Captioner] = []

    def start(**options: Any) -> Captioner:
        work = worker_pb2.CaptionerWork(
            model_name="tiny.en",
            model_directory=str(models_directory / "tiny.en"),
            workers=1,
            engine="auto",
        )
        work.MergeFrom(worker_pb2.CaptionerWork(**options))
        root = tmp_path / str(len(started))
        root.mkdir()
        started.append(Captioner(root, work))
        return started[-1]

    yield start
    for one in started:
        one.close()
    logs = [one.log() for one in started]
    assert not any("a bug" in log for log in logs), f"bugs in the captioner's log: {logs}"
