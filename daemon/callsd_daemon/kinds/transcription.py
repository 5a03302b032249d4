# SPDX-License-Identifier: Apache-2.0
"""Transcription of files."""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from callsd_daemon.domain.capture import CAPTURE, CaptureResult
from callsd_daemon.domain.costs import transcription_cost, transcription_cost_key
from callsd_daemon.domain.delivery import Delivery
from callsd_daemon.domain.errors import CallsdError, Reason
from callsd_daemon.domain.jobs import Job, Notice, Reservation, State, Usage
from callsd_daemon.domain.mattermost import SiteSecrets
from callsd_daemon.domain.recording import RECORDING, RecordingResult
from callsd_daemon.domain.transcription import (
    MAX_OFFSET_SECONDS,
    NO_UPLOAD_YET,
    TRANSCRIPTION,
    Engine,
    Task,
    Track,
    TranscriptionResult,
    TranscriptionSpec,
)
from callsd_daemon.domain.work import Secrets
from callsd_daemon.files import open_regular
from callsd_daemon.kinds.kind import Bounds, JobKind, ModelFile, Opener, Role
from callsd_daemon.kinds.models import model_files, require
from callsd_daemon.media.roots import MediaRoots
from callsd_daemon.media.uploads import Uploads
from callsd_daemon.models.measured import engine_for
from callsd_daemon.models.store import ModelStatus, ModelStore
from callsd_ipc.names import ARTIFACTS, RECORDING_FILES
from callsd_transcript.formats import UNKNOWN_SPEAKER


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptionAssignment:
    """All that a worker must know to do a transcription."""

    spec: TranscriptionSpec
    media: tuple[Opener, ...]
    """A file for each track, in the order of the job's tracks."""
    model_files: tuple[ModelFile, ...]
    threads: int

    @property
    def files(self) -> Mapping[str, Opener]:
        """What the worker may read, by the names it asks with."""
        return {f"media/{number}": opener for number, opener in enumerate(self.media)} | {
            f"model/{file.path}": file.open for file in self.model_files
        }


@dataclass(frozen=True, kw_only=True)
class Transcription(JobKind[TranscriptionSpec]):
    """Turns the tracks of a call into one transcript."""

    name = TRANSCRIPTION
    is_batch = True
    spec_type = TranscriptionSpec
    result_type = TranscriptionResult
    secrets_type = SiteSecrets
    role = Role.TRANSCRIBER

    models: ModelStore
    upload_store: Uploads
    roots: MediaRoots
    jobs_directory: Path
    """Where recordings lie that were made here."""
    bounds: Bounds
    max_duration_seconds: float
    default_model: str
    default_engine: Engine
    default_threads: int
    max_threads: int

    def check(self, spec: TranscriptionSpec, creator: str) -> tuple[Notice, ...]:
        """Media, model, engine and language must be there."""
        self._require(spec, creator)
        threads = self._threads(spec)
        if not spec.threads or threads == spec.threads:
            return ()
        return (
            Notice(
                code="THREADS_CLAMPED",
                message=f"{spec.threads} threads were asked for; {threads} are used, of 1 to "
                f"{self.max_threads}",
            ),
        )

    def cost_key(self, spec: TranscriptionSpec) -> str:
        """By engine, model and threads."""
        return transcription_cost_key(spec, self._threads(spec))

    def cost(
        self, spec: TranscriptionSpec, max_duration_seconds: float, observed: Sequence[Usage]
    ) -> Reservation:
        """Its threads, and the model's memory."""
        return transcription_cost(spec, self._threads(spec), observed)

    def assignment(
        self, job: Job, spec: TranscriptionSpec, secrets: Secrets, after: Mapping[str, Job]
    ) -> TranscriptionAssignment:
        """Files that are opened when the worker asks for them."""
        # Whose the uploads are was seen when the job was accepted.
        model = self._require(spec, None)
        tracks = (
            tuple(resolved(track, after)) if track.capture else (track,) for track in spec.tracks
        )
        found = tuple(itertools.chain.from_iterable(tracks))
        if any(track.capture for track in spec.tracks) and not any(one.capture for one in found):
            # Who spoke is not known in a recording: nobody is named.
            spec = replace(spec, webvtt_omit_speaker=True)
        engine = spec.engine
        if engine is Engine.AUTO:
            engine = Engine(engine_for(model, spec.language))
        spec = replace(spec, tracks=found, engine=engine)
        return TranscriptionAssignment(
            spec=spec,
            media=tuple(self._opener(track) for track in spec.tracks),
            model_files=model_files(model),
            threads=self._threads(spec),
        )

    def uploads(self, spec: TranscriptionSpec) -> frozenset[str]:
        """Tracks that were uploaded."""
        return frozenset(track.upload_id for track in spec.tracks if track.upload_id)

    def begins_after(self, spec: TranscriptionSpec) -> tuple[str, ...]:
        """The recordings and captures of which the sound is taken."""
        return tuple(
            dict.fromkeys(
                job_id
                for track in spec.tracks
                for job_id in (track.recording, track.capture)
                if job_id
            )
        )

    def delivery(self, spec: TranscriptionSpec) -> Delivery | None:
        """Into the call's thread. That the work has begun is told by who captures the call."""
        if spec.call is None:
            return None
        is_captured = any(track.capture for track in spec.tracks)
        return Delivery(call=spec.call, is_start_told=is_captured)

    def _threads(self, spec: TranscriptionSpec) -> int:
        return min(max(spec.threads or self.default_threads, 1), self.max_threads)

    def _require(self, spec: TranscriptionSpec, creator: str | None) -> ModelStatus:
        for track in spec.tracks:
            if track.upload_id == NO_UPLOAD_YET:
                continue
            if track.upload_id:
                self.upload_store.check(track.upload_id, creator)
            elif not (track.recording or track.capture):
                self.roots.check(track.path)
        languages = {spec.language, *(track.language for track in spec.tracks)}
        if spec.task is Task.TRANSLATE:
            languages.add("translation")
        model = require(self.models, spec.model, languages)
        if spec.engine is not Engine.AUTO and spec.engine not in model.engines:
            raise CallsdError(
                Reason.ENGINE_UNAVAILABLE,
                f"{spec.engine} cannot run the model {spec.model} here; these can: "
                f"{', '.join(model.engines)}",
                metadata={"engine": spec.engine, "engines": ",".join(model.engines)},
            )
        return model

    def _opener(self, track: Track) -> Opener:
        """Looks the file up anew each time: what is opened is what is checked."""
        if track.upload_id:
            return functools.partial(self.upload_store.open, track.upload_id)
        if track.capture:
            return functools.partial(self._open_captured, track)
        if track.recording:
            return functools.partial(self._open_recording, track.recording)
        return functools.partial(self.roots.open, track.path)

    def _open_captured(self, track: Track) -> int:
        return open_regular(self.jobs_directory / track.capture / ARTIFACTS / track.path)

    def _open_recording(self, job_id: str) -> int:
        for name in RECORDING_FILES:
            try:
                return open_regular(self.jobs_directory / job_id / ARTIFACTS / name)
            except FileNotFoundError:
                continue
        raise CallsdError(
            Reason.MEDIA_NOT_FOUND,
            f"the job {job_id} has recorded nothing: there is no sound to transcribe",
            metadata={"job": job_id},
        )


def resolved(track: Track, after: Mapping[str, Job]) -> Iterator[Track]:
    """The tracks that a capture has left: `path` is the name of its artifact.

    They are timed from the start of the recording's file, else from when the server said that it
    began, else from the first sound. If the call was heard to its end, and nobody has said
    anything, there are none; if it was not, and there are none, the recording's sound stands for
    them. Raises CallsdError when there is no recording either.
    """
    captured, recording = _captured(after.get(track.capture)), after.get(track.recording)
    if captured is None:
        if recording is None:
            raise CallsdError(
                Reason.MEDIA_NOT_FOUND,
                f"the job {track.capture} has captured nothing: there is no sound to transcribe",
                metadata={"job": track.capture},
            )
        yield replace(track, capture="")
        return
    if not captured.tracks:
        return
    recorded = recording.results.get(RECORDING) if recording is not None else None
    zero = recorded.start_time if isinstance(recorded, RecordingResult) else None
    zero = zero or captured.recording_start_time or min(one.start_time for one in captured.tracks)
    for one in captured.tracks:
        offset = (one.start_time - zero).total_seconds()
        yield replace(
            track,
            speaker=one.speaker or UNKNOWN_SPEAKER,
            speaker_id=one.speaker_id,
            path=one.file_name,
            start_offset_seconds=min(max(offset, -MAX_OFFSET_SECONDS), MAX_OFFSET_SECONDS),
        )


def _captured(capture: Job | None) -> CaptureResult | None:
    """What is known of who spoke; None: nothing. Only who was in a call knows it to be silent."""
    captured = capture.results.get(CAPTURE) if capture is not None else None
    if capture is None or not isinstance(captured, CaptureResult):
        return None
    is_whole = capture.state is State.SUCCEEDED and not captured.problem
    return captured if captured.tracks or is_whole else None
