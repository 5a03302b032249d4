# SPDX-License-Identifier: Apache-2.0
"""From a request to a job that can be done: media, model, language, threads, cost."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from callsd.v1 import job_pb2
from callsd_daemon.domain.costs import transcription_cost, transcription_cost_key
from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import Job, Kind, Notice, State
from callsd_daemon.domain.transcription import Engine, Task, TranscriptionSpec
from callsd_daemon.media import MediaRoots, Uploads
from callsd_daemon.models.store import ModelStatus, ModelStore
from callsd_daemon.rpc import validate
from callsd_daemon.store.database import Database
from callsd_daemon.workers.seat import Assignment, ModelFile


OBSERVED_JOBS = 20
"""How many of the latest jobs like this one tell what it will cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """Turns requests into jobs, and jobs into assignments, by what lies on this machine."""

    database: Database
    models: ModelStore
    roots: MediaRoots
    uploads: Uploads
    defaults: validate.Defaults
    default_threads: int
    max_threads: int
    now: Callable[[], datetime]

    @staticmethod
    def payload_sha256(request: job_pb2.CreateJobRequest) -> str:
        """What tells whether two requests ask for the same; what the server sets is left out."""
        asked = job_pb2.CreateJobRequest(no_queue=request.no_queue)
        asked.job.labels.update(request.job.labels)
        for field in ("transcription", "captions", "max_duration"):
            if request.job.HasField(field):
                getattr(asked.job, field).CopyFrom(getattr(request.job, field))
        return hashlib.sha256(asked.SerializeToString(deterministic=True)).hexdigest()

    async def job(
        self, request: job_pb2.CreateJobRequest, *, job_id: str, creator: str, payload: str
    ) -> Job:
        """The job that the request asks for; raises the first reason why it cannot be done."""
        draft = validate.draft(request, self.defaults)
        if draft.transcription is None:
            raise CallsdError(
                Reason.KIND_UNAVAILABLE,
                f"this server does not run {draft.kind} jobs: see ServerInfo.kinds",
                metadata={"kind": draft.kind},
            )
        spec = draft.transcription
        await asyncio.to_thread(self._check, spec)
        threads = self._threads(spec)
        spec_notices: tuple[Notice, ...] = ()
        if spec.threads and threads != spec.threads:
            spec_notices = (
                Notice(
                    code="THREADS_CLAMPED",
                    message=f"{spec.threads} threads were asked for; {threads} are used, of 1 to "
                    f"{self.max_threads}",
                ),
            )
        cost_key = transcription_cost_key(spec, threads)
        observed = await self.database.read(
            lambda books: books.recent_usage(cost_key, OBSERVED_JOBS)
        )
        now = self.now()
        return Job(
            id=job_id,
            kind=Kind.TRANSCRIPTION,
            state=State.QUEUED,
            creator=creator,
            create_time=now,
            update_time=now,
            max_duration_seconds=draft.max_duration_seconds,
            reservation=transcription_cost(spec, threads, observed),
            cost_key=cost_key,
            transcription=spec,
            labels=draft.labels,
            request_id=request.request_id,
            payload_sha256=payload,
            notices=spec_notices,
        )

    def assignment(self, job: Job) -> Assignment:
        """All that a worker must know; checks again that everything is still there."""
        spec = job.transcription
        assert spec is not None
        media, model = self._check(spec)
        assert model.manifest is not None
        return Assignment(
            job=job,
            media=media,
            model_directory=model.directory,
            model_files=tuple(
                ModelFile(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256)
                for file in model.manifest.files
            ),
            threads=self._threads(spec),
        )

    def _threads(self, spec: TranscriptionSpec) -> int:
        return min(max(spec.threads or self.default_threads, 1), self.max_threads)

    def _check(self, spec: TranscriptionSpec) -> tuple[tuple[Path, ...], ModelStatus]:
        """Blocks on files, for up to a second when a model is looked at for the first time."""
        media = self._media(spec)
        model = self.models.require(spec.model)
        if spec.engine is not Engine.AUTO and spec.engine not in model.engines:
            raise CallsdError(
                Reason.ENGINE_UNAVAILABLE,
                f"{spec.engine} cannot run the model {spec.model} here; these can: "
                f"{', '.join(model.engines)}",
                metadata={"engine": spec.engine, "engines": ",".join(model.engines)},
            )
        languages = {spec.language, *(track.language for track in spec.tracks)} - {"", "en"}
        if not model.is_multilingual and (languages or spec.task is Task.TRANSLATE):
            wanted = ", ".join(sorted(languages)) or "translation"
            raise CallsdError(
                Reason.LANGUAGE_UNSUPPORTED,
                f"the model {spec.model} only knows English, not {wanted}: take a multilingual "
                "model, such as base",
                metadata={"model": spec.model, "language": wanted},
            )
        return media, model

    def _media(self, spec: TranscriptionSpec) -> tuple[Path, ...]:
        return tuple(
            self.uploads.resolve(track.upload_id)
            if track.upload_id
            else self.roots.resolve(track.path)
            for track in spec.tracks
        )
