# SPDX-License-Identifier: Apache-2.0
"""ModelService."""

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import grpc

from callsd.v1 import model_pb2, model_pb2_grpc
from callsd_daemon.domain.errors import CallsdError, Reason, invalid_fields
from callsd_daemon.domain.transcription import Engine
from callsd_daemon.models.errors import PullInterrupted
from callsd_daemon.models.pull import PullProgress, pull, verify
from callsd_daemon.models.store import ModelState, ModelStatus, ModelStore
from callsd_daemon.rpc import convert, validate
from callsd_daemon.usecases.streams import Streams


PROGRESS_SECONDS = 0.25
"""How often a pull tells how far it is."""

VERIFY_TIMEOUT_SECONDS = 300.0

STATES = {state: model_pb2.ModelState.Value(f"MODEL_STATE_{state.name}") for state in ModelState}

Context = grpc.aio.ServicerContext[Any, Any]


class ModelService(model_pb2_grpc.ModelServiceServicer):
    """Looks after the models on the server."""

    def __init__(self, models: ModelStore, streams: Streams) -> None:
        self._models = models
        self._streams = streams

    async def ListModels(
        self, request: model_pb2.ListModelsRequest, context: Context
    ) -> model_pb2.ListModelsResponse:
        """Return the catalogue and what of it is present."""
        found = await asyncio.to_thread(self._models.list)
        return model_pb2.ListModelsResponse(models=[model_message(status) for status in found])

    async def PullModel(
        self, request: model_pb2.PullModelRequest, context: Context
    ) -> AsyncIterator[model_pb2.PullModelResponse]:
        """Fetch a model; ends when the caller goes away."""
        name = validate.model_name(request.name)
        if request.source not in ("", "hub", "index"):
            raise invalid_fields([("source", 'must be "hub" or "index", or empty for any')])
        latest: list[PullProgress] = []
        stop = threading.Event()
        with self._streams.open():
            work = asyncio.create_task(
                asyncio.to_thread(
                    pull,
                    self._models,
                    name,
                    source=request.source or "auto",
                    on_progress=lambda progress: latest.__setitem__(slice(None), [progress]),
                    should_stop=stop.is_set,
                )
            )
            try:
                told: PullProgress | None = None
                while not work.done():
                    await asyncio.wait({work}, timeout=PROGRESS_SECONDS)
                    self._streams.check()
                    if latest and latest[0] is not told:
                        told = latest[0]
                        yield _progress_message(told)
                status = _result(work)
                yield model_pb2.PullModelResponse(phase="done", model=model_message(status))
            finally:
                # The thread looks at this several times a second and leaves nothing half-done.
                stop.set()
                await asyncio.gather(work, return_exceptions=True)

    async def VerifyModel(
        self, request: model_pb2.VerifyModelRequest, context: Context
    ) -> model_pb2.VerifyModelResponse:
        """Check a model's files and try it out."""
        name, stop = validate.model_name(request.name), threading.Event()
        with self._streams.open():
            work = asyncio.create_task(
                asyncio.to_thread(verify, self._models, name, should_stop=stop.is_set)
            )
            try:
                await asyncio.wait({work}, timeout=VERIFY_TIMEOUT_SECONDS)
            finally:
                stop.set()
                await asyncio.gather(work, return_exceptions=True)
        return model_pb2.VerifyModelResponse(model=model_message(_result(work)))


def _result(work: "asyncio.Task[ModelStatus]") -> ModelStatus:
    try:
        return work.result()
    except PullInterrupted:
        raise CallsdError(
            Reason.SOURCE_UNAVAILABLE, "the work on the model was interrupted: try again"
        ) from None


def _progress_message(progress: PullProgress) -> model_pb2.PullModelResponse:
    return model_pb2.PullModelResponse(
        phase=progress.phase,
        done_bytes=progress.done_bytes,
        total_bytes=progress.total_bytes,
        message=progress.message,
    )


def model_message(status: ModelStatus) -> model_pb2.Model:
    """A model as clients see it."""
    message = model_pb2.Model(
        name=status.name,
        state=STATES[status.state],
        multilingual=status.is_multilingual,
        engines=[convert.ENGINES[Engine(engine)] for engine in status.engines],
        problem=status.problem,
    )
    if status.manifest is not None:
        message.source = status.manifest.source
        message.files.extend(
            model_pb2.ModelFile(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256)
            for file in status.manifest.files
        )
        verified = datetime.fromtimestamp(status.manifest.verified_unix_seconds, UTC)
        message.verify_time.CopyFrom(convert.timestamp(verified))
    return message
