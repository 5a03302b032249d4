# SPDX-License-Identifier: Apache-2.0
"""A captioner's session: commands and audio in, captions out, until one side ends it.

A captioner stores nothing: when the session breaks it exits, and the daemon starts another one.
"""

import contextlib
import logging
import os
import resource
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc

from callsd_ipc.names import WORKER_LOG
from callsd_ipc.v1 import worker_pb2, worker_pb2_grpc
from callsd_worker.captioner.outbox import Outbox, OutgoingUpdate
from callsd_worker.captioner.rules import rules_for
from callsd_worker.captioner.service import CaptionService, Close, Command, End, Open, Sound, Status
from callsd_worker.captioner.words import SpeechChange, Words
from callsd_worker.media.live import Piece
from callsd_worker.session.bootstrap import channel, hello
from callsd_worker.session.client import STATUS_SECONDS, LogTail
from callsd_worker.session.failures import failure_of
from callsd_worker.session.inputs import Inputs, RefusedInputError
from callsd_worker.session.outcome import KIB
from callsd_worker.speech.engine import Engine
from callsd_worker.speech.errors import SpeechError
from callsd_worker.speech.loading import ModelFiles, load_engines


log = logging.getLogger(__name__)

NICENESS = 2
"""Captions are live work, but the daemon, which sends the audio, comes first."""

FAREWELL_SECONDS = 2.0
"""How long the daemon has to read a failure before the session is closed."""

EXIT_CRASHED = 1

_SPEECH = {
    None: worker_pb2.SPEECH_CHANGE_UNSPECIFIED,
    SpeechChange.BEGIN: worker_pb2.SPEECH_CHANGE_BEGIN,
    SpeechChange.END: worker_pb2.SPEECH_CHANGE_END,
}


def serve(bootstrap: worker_pb2.Bootstrap) -> int:
    """Serve the session with the daemon to its end; returns the exit code."""
    with contextlib.suppress(PermissionError):  # as a unit it has this niceness already
        os.nice(NICENESS)
    with channel(bootstrap) as connection:
        return _Session(bootstrap, worker_pb2_grpc.WorkerServiceStub(connection)).run()


class _Session:
    """One session, from the first report to the last."""

    def __init__(
        self, bootstrap: worker_pb2.Bootstrap, stub: worker_pb2_grpc.WorkerServiceStub
    ) -> None:
        self._bootstrap = bootstrap
        self._outbox = Outbox()
        self._service: CaptionService | None = None
        self._failure: worker_pb2.CaptionerFailure | None = None
        self._log = LogTail(Path.cwd() / WORKER_LOG)
        self._is_begun = threading.Event()
        """Set when the model is loaded, or loading has failed."""
        self._has_crashed = False
        self._call = stub.Caption(self._reports())

    def run(self) -> int:
        try:
            self._follow()
        except grpc.RpcError as error:
            log.info("the session is over: %s", error.code().name)
        finally:
            self._outbox.close()
            self._is_begun.set()
            self._call.cancel()
        code = EXIT_CRASHED if self._has_crashed else 0
        if self._service is not None and not self._service.stop():
            # A thread inside an engine cannot be stopped, and Python would wait for it on exit.
            logging.shutdown()
            os._exit(code)
        return code

    def _follow(self) -> None:
        for order in self._call:
            match order.WhichOneof("order"):
                case "work":
                    self._begin(order.work)
                case "stop":
                    log.info("asked to stop")
                    return
                case _:
                    command = _command(order)
                    if command is not None and self._service is not None:
                        self._service.submit(command)

    def _begin(self, work: worker_pb2.CaptionerWork) -> None:
        if self._is_begun.is_set():
            return
        self._log.offset = work.log_kept
        try:
            self._load(work)
        except (SpeechError, RefusedInputError, MemoryError) as error:
            reason, message = failure_of(error)
            self._failure = worker_pb2.CaptionerFailure(reason=reason, message=message)
        if self._failure is not None:
            log.error("%s: %s", self._failure.reason, self._failure.message)
            farewell = threading.Timer(FAREWELL_SECONDS, self._call.cancel)
            farewell.daemon = True
            farewell.start()
        self._is_begun.set()

    def _load(self, work: worker_pb2.CaptionerWork) -> None:
        """Raises SpeechError as `load_engines`, and what `Inputs.open` does."""
        inputs = Inputs(self._bootstrap, Path.cwd())
        model = ModelFiles(name=work.model_name, directory=inputs.model("model", work.model_files))
        engines = load_engines(model, engine=work.engine, workers=work.workers)

        def load_fallback() -> Sequence[Engine]:
            directory = inputs.model("fallback", work.fallback_files)
            smaller = ModelFiles(name="", directory=directory)
            return load_engines(smaller, engine=work.fallback_engine, workers=work.workers)

        self._service = CaptionService(
            engines,
            self._outbox,
            load_fallback=load_fallback if work.fallback_files else None,
            on_crash=self._crash,
            rules=rules_for(work.model_name),
        )
        self._service.start()
        log.info("%s is loaded for %d recognisers", work.model_name, work.workers)

    def _crash(self) -> None:
        self._has_crashed = True
        self._call.cancel()

    def _reports(self) -> Iterator[worker_pb2.CaptionRequest]:
        """Runs on a thread of gRPC, which takes the next report when the last one is sent."""
        yield worker_pb2.CaptionRequest(hello=hello(self._bootstrap))
        self._is_begun.wait()
        if self._failure is not None:
            yield worker_pb2.CaptionRequest(failure=self._failure)
        if self._service is None:
            return
        status_seconds = time.monotonic()
        while not self._outbox.is_closed:
            if time.monotonic() >= status_seconds:
                status_seconds = time.monotonic() + STATUS_SECONDS
                yield worker_pb2.CaptionRequest(status=_status(self._service.status()))
                if (part := self._log.next()) is not None:
                    yield worker_pb2.CaptionRequest(log=part)
            update = self._outbox.take(status_seconds)
            if update is not None:
                yield worker_pb2.CaptionRequest(news=_update(update))


def _command(order: worker_pb2.CaptionResponse) -> Command | None:
    match order.WhichOneof("order"):
        case "audio":
            return Sound(
                pieces=[
                    (
                        piece.track,
                        Piece(
                            sequence=piece.sequence,
                            start_sample=piece.start_sample,
                            data=piece.data,
                        ),
                    )
                    for piece in order.audio.pieces
                ]
            )
        case "open":
            return Open(
                track=order.open.track,
                call=order.open.job_id,
                language=order.open.language,
                is_opus=order.open.is_opus,
                start_sample=order.open.start_sample,
            )
        case "end":
            return End(track=order.end.track)
        case "close":
            return Close(track=order.close.track)
        case _:
            # A command that only newer daemons know.
            return None


def _status(status: Status) -> worker_pb2.CaptionerStatus:
    return worker_pb2.CaptionerStatus(
        load=status.load,
        lag_seconds=status.lag_seconds,
        degraded=status.degraded,
        real_time_factor=status.real_time_factor,
        costs=[
            worker_pb2.CallCost(job_id=call, cpu_seconds=seconds)
            for call, seconds in status.cpu_seconds.items()
        ],
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB,
        engine=status.engine,
    )


def _update(outgoing: OutgoingUpdate) -> worker_pb2.TrackNews:
    update = outgoing.update
    return worker_pb2.TrackNews(
        track=outgoing.track,
        finals=[_words(words) for words in update.finals],
        interim=_words(update.interim) if update.interim is not None else None,
        processed_sample=update.processed_sample,
        heard_sample=update.recognised_sample,
        speech=_SPEECH[update.speech],
        is_drained=update.is_drained,
        skipped_samples=outgoing.skipped_samples,
    )


def _words(words: Words) -> worker_pb2.CaptionWords:
    return worker_pb2.CaptionWords(
        segment=words.segment,
        revision=words.revision,
        end_of_utterance=words.is_end_of_utterance,
        text=words.text,
        start_sample=words.start_sample,
        end_sample=words.end_sample,
        heard_sample=words.recognised_sample,
        language=words.language,
        stability=words.stability,
    )
