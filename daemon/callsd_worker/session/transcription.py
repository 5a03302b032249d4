# SPDX-License-Identifier: Apache-2.0
"""Runs a transcription as the daemon assigns it."""

import time
from collections.abc import Sequence
from dataclasses import replace

from callsd_ipc.v1 import worker_pb2
from callsd_transcript.formats import (
    FORMATS,
    Compaction,
    Style,
    mattermost_name,
    shown_name,
)
from callsd_transcript.transcript import TrackResult, Transcript
from callsd_worker.session.client import Session
from callsd_worker.session.failures import failure_of
from callsd_worker.session.inputs import Inputs, RefusedInputError
from callsd_worker.session.outcome import write_artifact, write_outcome
from callsd_worker.transcriber import pipeline


def transcribe(session: Session, inputs: Inputs) -> None:
    """Make the transcript of the session's assignment, and write its outcome.

    A track whose file cannot be had is reported as one that cannot be used, and the others are
    transcribed. Raises SpeechError as `callsd_worker.transcriber.pipeline.transcribe`, and
    RefusedInputError when there is no file at all, and InputError.
    """
    assert session.assignment is not None
    work = session.assignment.transcription
    directory, generation = session.directory, session.generation
    session.report(worker_pb2.Status(phase="loading"))
    model = inputs.model("model", work.model_files)
    began = time.monotonic()
    last = worker_pb2.Status()

    def on_progress(progress: pipeline.Progress) -> None:
        total = progress.total_seconds
        last.CopyFrom(
            worker_pb2.Status(
                phase=progress.phase,
                fraction=min(1.0, progress.processed_seconds / total) if total else 0.0,
                processed_seconds=progress.processed_seconds,
                total_seconds=total,
                real_time_factor=progress.real_time_factor,
            )
        )
        session.report(worker_pb2.Status.FromString(last.SerializeToString()))

    tracks, missing = _tracks(work.tracks, inputs)
    transcript = pipeline.transcribe(
        tracks,
        pipeline.Settings(
            model=pipeline.ModelFiles(name=work.model_name, directory=model),
            engine=work.engine,
            threads=work.threads,
            language=work.language,
            task=work.task,
            initial_prompt=work.initial_prompt,
            vocabulary=tuple(work.vocabulary),
        ),
        on_progress=on_progress,
        should_stop=session.should_stop,
    )
    elapsed = time.monotonic() - began
    read = iter(transcript.tracks)
    transcript = replace(
        transcript,
        tracks=tuple(missing.get(number) or next(read) for number in range(len(work.tracks))),
    )
    style = _style(work)
    artifacts = []
    for suffix in work.formats:
        form = FORMATS[suffix]
        content = form.write(transcript, style).encode()
        artifacts.append(
            write_artifact(directory, f"transcript.{suffix}", form.media_type, content)
        )
    write_outcome(
        directory,
        generation,
        artifacts=artifacts,
        notices=list(transcript.notices),
        transcription=_outcome(
            work, transcript, real_time_factor=last.real_time_factor or last.total_seconds / elapsed
        ),
    )


def _style(work: worker_pb2.TranscriptionWork) -> Style:
    compaction = None
    if work.HasField("text_compaction"):
        compaction = Compaction(
            silence_seconds=work.text_compaction.silence_seconds,
            max_seconds=work.text_compaction.max_seconds,
        )
    return Style(
        named=mattermost_name if work.mattermost_names else shown_name,
        is_speaker_in_vtt=not work.webvtt_omit_speaker,
        compaction=compaction,
    )


def _outcome(
    work: worker_pb2.TranscriptionWork, transcript: Transcript, *, real_time_factor: float
) -> worker_pb2.TranscriptionOutcome:
    return worker_pb2.TranscriptionOutcome(
        tracks=[
            worker_pb2.TrackOutcome(
                speaker=track.speaker,
                duration_seconds=track.duration_seconds,
                speech_seconds=track.speech_seconds,
                language=track.language,
                failure_reason=track.failure_reason,
                failure_message=track.failure_message,
            )
            for track in transcript.tracks
        ],
        language=transcript.language,
        engine=transcript.engine,
        segment_count=len(transcript.segments),
        word_count=sum(len(segment.text.split()) for segment in transcript.segments),
        audio_seconds=max(
            (
                track.start_offset_seconds + found.duration_seconds
                for track, found in zip(work.tracks, transcript.tracks, strict=True)
            ),
            default=0.0,
        ),
        real_time_factor=real_time_factor,
    )


def _tracks(
    assigned: Sequence[worker_pb2.TrackWork], inputs: Inputs
) -> tuple[list[pipeline.Track], dict[int, TrackResult]]:
    """The tracks whose files are there, and what became of the others, by their numbers."""
    tracks: list[pipeline.Track] = []
    missing: dict[int, TrackResult] = {}
    for number, track in enumerate(assigned):
        try:
            source = inputs.open(f"media/{number}")
        except RefusedInputError as problem:
            if len(missing) == len(assigned) - 1:
                raise
            reason, message = failure_of(problem)
            missing[number] = TrackResult(
                speaker=track.speaker,
                duration_seconds=0.0,
                speech_seconds=0.0,
                language="",
                failure_reason=reason,
                failure_message=message,
            )
            continue
        tracks.append(
            pipeline.Track(
                source=source,
                speaker=track.speaker,
                start_offset_seconds=track.start_offset_seconds,
                language=track.language,
                speaker_id=track.speaker_id,
            )
        )
    return tracks, missing
