# SPDX-License-Identifier: Apache-2.0
"""From a request to a job that can be done: media, model, language, threads, cost."""

import asyncio
import contextlib
import functools
import hashlib
import os
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from callsd.v1 import job_pb2
from callsd_daemon.domain.captions import CaptionsSpec
from callsd_daemon.domain.costs import (
    captions_cost,
    captions_cost_key,
    recording_cost,
    recording_cost_key,
    transcription_cost,
    transcription_cost_key,
)
from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import Job, Kind, Notice, Reservation, State, Usage
from callsd_daemon.domain.recording import PageSecrets, RecordingSpec
from callsd_daemon.domain.transcription import Engine, Task, Track, TranscriptionSpec
from callsd_daemon.media.roots import MediaRoots
from callsd_daemon.media.uploads import Uploads
from callsd_daemon.models.store import ModelStatus, ModelStore
from callsd_daemon.rpc import validate
from callsd_daemon.store.database import Database
from callsd_daemon.workers.captions.link import CaptionerWork
from callsd_daemon.workers.slot import (
    Assignment,
    ModelFile,
    Opener,
    RecordingAssignment,
    TranscriptionAssignment,
)


OBSERVED_JOBS = 20
"""How many of the latest jobs like this one tell what it will cost."""

EVERYBODY_READS = 0o444


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeRules:
    """The administrator's settings for what is taken in."""

    roots: MediaRoots
    defaults: validate.Defaults
    default_threads: int
    max_threads: int
    caption_workers: int
    caption_fallback: str
    min_free_bytes: int
    """Disk space that no job may use."""


@dataclass(slots=True, kw_only=True)
class Intake:
    """Turns requests into jobs, and jobs into assignments, by what lies on this machine."""

    database: Database
    models: ModelStore
    uploads: Uploads
    rules: IntakeRules
    """May be replaced while the daemon runs."""
    now: Callable[[], datetime]

    @staticmethod
    def payload_sha256(request: job_pb2.CreateJobRequest) -> str:
        """What tells whether two requests ask for the same; what the server sets is left out."""
        asked = job_pb2.CreateJobRequest(no_queue=request.no_queue)
        asked.job.labels.update(request.job.labels)
        for field in ("transcription", "captions", "recording", "max_duration"):
            if request.job.HasField(field):
                getattr(asked.job, field).CopyFrom(getattr(request.job, field))
        return hashlib.sha256(asked.SerializeToString(deterministic=True)).hexdigest()

    async def job(
        self, request: job_pb2.CreateJobRequest, *, job_id: str, creator: str, payload: str
    ) -> Job:
        """The job that the request asks for; raises the first reason why it cannot be done."""
        draft = validate.draft(request, self.rules.defaults)
        now = self.now()
        job = Job(
            id=job_id,
            kind=Kind.TRANSCRIPTION,
            state=State.QUEUED,
            creator=creator,
            create_time=now,
            update_time=now,
            max_duration_seconds=draft.max_duration_seconds,
            reservation=Reservation(),
            cost_key="",
            labels=draft.labels,
            request_id=request.request_id,
            payload_sha256=payload,
        )
        if draft.captions is not None:
            return await self._captions(job, draft.captions)
        if draft.recording is not None:
            return await self._recording(job, draft.recording)
        assert draft.transcription is not None
        return await self._transcription(job, draft.transcription)

    async def _transcription(self, job: Job, spec: TranscriptionSpec) -> Job:
        await asyncio.to_thread(self._check, spec, job.creator)
        threads = self._threads(spec)
        notices: tuple[Notice, ...] = ()
        if spec.threads and threads != spec.threads:
            notices = (
                Notice(
                    code="THREADS_CLAMPED",
                    message=f"{spec.threads} threads were asked for; {threads} are used, of 1 to "
                    f"{self.rules.max_threads}",
                ),
            )
        cost_key = transcription_cost_key(spec, threads)
        observed = await self._observed(cost_key)
        return replace(
            job,
            transcription=spec,
            cost_key=cost_key,
            reservation=transcription_cost(spec, threads, observed),
            notices=notices,
        )

    async def _captions(self, job: Job, spec: CaptionsSpec) -> Job:
        await asyncio.to_thread(self._model, spec.model, {spec.language})
        cost_key = captions_cost_key(spec)
        observed = await self._observed(cost_key)
        return replace(
            job,
            kind=Kind.CAPTIONS,
            captions=spec,
            cost_key=cost_key,
            reservation=captions_cost(spec, observed),
        )

    async def _recording(self, job: Job, spec: RecordingSpec) -> Job:
        cost_key = recording_cost_key(spec)
        observed = await self._observed(cost_key)
        return replace(
            job,
            kind=Kind.RECORDING,
            recording=spec,
            cost_key=cost_key,
            reservation=recording_cost(spec, job.max_duration_seconds, observed),
        )

    async def _observed(self, cost_key: str) -> tuple[Usage, ...]:
        return await self.database.read(lambda tx: tx.recent_usage(cost_key, OBSERVED_JOBS))

    def captioner(self, name: str) -> CaptionerWork:
        """All that a captioner must know; raises CallsdError when its model is not there."""
        fallback: tuple[ModelFile, ...] = ()
        if self.rules.caption_fallback not in ("", name):
            fallback = _files(self.models.require(self.rules.caption_fallback))
        return CaptionerWork(
            model=name,
            model_files=_files(self.models.require(name)),
            workers=self.rules.caption_workers,
            fallback_files=fallback,
        )

    def assignment(self, job: Job, page_secrets: PageSecrets) -> Assignment:
        """All that a worker must know; checks again that everything is still there."""
        if job.recording is not None:
            return RecordingAssignment(
                spec=job.recording,
                secrets=page_secrets,
                max_seconds=job.max_duration_seconds,
                min_free_bytes=self.rules.min_free_bytes,
            )
        spec = job.transcription
        assert spec is not None
        # Whose the uploads are was seen when the job was accepted.
        model = self._check(spec, None)
        return TranscriptionAssignment(
            spec=spec,
            media=tuple(self._opener(track) for track in spec.tracks),
            model_files=_files(model),
            threads=self._threads(spec),
        )

    def _threads(self, spec: TranscriptionSpec) -> int:
        return min(max(spec.threads or self.rules.default_threads, 1), self.rules.max_threads)

    def _check(self, spec: TranscriptionSpec, creator: str | None) -> ModelStatus:
        """Blocks on files, for up to a second when a model is looked at for the first time."""
        for track in spec.tracks:
            if track.upload_id:
                self.uploads.check(track.upload_id, creator)
            else:
                self.rules.roots.check(track.path)
        languages = {spec.language, *(track.language for track in spec.tracks)}
        if spec.task is Task.TRANSLATE:
            languages.add("translation")
        model = self._model(spec.model, languages)
        if spec.engine is not Engine.AUTO and spec.engine not in model.engines:
            raise CallsdError(
                Reason.ENGINE_UNAVAILABLE,
                f"{spec.engine} cannot run the model {spec.model} here; these can: "
                f"{', '.join(model.engines)}",
                metadata={"engine": spec.engine, "engines": ",".join(model.engines)},
            )
        return model

    def _model(self, name: str, languages: AbstractSet[str]) -> ModelStatus:
        """The model, which must be able to do these languages, or whatever else is not English."""
        model = self.models.require(name)
        foreign = ", ".join(sorted(languages - {"", "en"}))
        if foreign and not model.is_multilingual:
            raise CallsdError(
                Reason.LANGUAGE_UNSUPPORTED,
                f"the model {name} only knows English, not {foreign}: take a multilingual model, "
                "such as base",
                metadata={"model": name, "language": foreign},
            )
        return model

    def _opener(self, track: Track) -> Opener:
        """Looks the file up anew each time: what is opened is what is checked."""
        if track.upload_id:
            return functools.partial(self.uploads.open, track.upload_id)
        return functools.partial(self.rules.roots.open, track.path)


def _files(model: ModelStatus) -> tuple[ModelFile, ...]:
    assert model.manifest is not None
    return tuple(
        ModelFile(
            path=file.path,
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            open=functools.partial(_open_model_file, model.directory / file.path),
        )
        for file in model.manifest.files
    )


def _open_model_file(path: Path) -> int:
    """Open it so that others can: a worker may be of another user, and engines open by name."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as problem:
        raise CallsdError(
            Reason.MODEL_INVALID,
            f"{path} cannot be read ({problem.strerror}): pull the model again",
        ) from problem
    mode = os.fstat(descriptor).st_mode
    # Only if it has to be: each change of a mode, even to what it is, is a reason to hash the file
    # anew, and the job that comes next would wait for that.
    if mode & EVERYBODY_READS != EVERYBODY_READS:
        with contextlib.suppress(PermissionError):
            os.fchmod(descriptor, mode | EVERYBODY_READS)
    return descriptor
