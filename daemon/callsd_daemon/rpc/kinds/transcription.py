# SPDX-License-Identifier: Apache-2.0
"""Transcription jobs."""

import re

from callsd.v1 import error_pb2, transcription_pb2
from callsd_daemon.domain.jobs import job_name
from callsd_daemon.domain.mattermost import SiteSecrets
from callsd_daemon.domain.transcription import (
    MAX_OFFSET_SECONDS,
    NO_UPLOAD_YET,
    Format,
    Task,
    Track,
    TranscriptionResult,
    TranscriptionSpec,
)
from callsd_daemon.kinds.transcription import Transcription
from callsd_daemon.rpc.convert import ENGINES, REASONS, duration
from callsd_daemon.rpc.kinds import mattermost
from callsd_daemon.rpc.problems import CONTROL_IN_PROMPT, MAX_SPEAKER_CHARACTERS, Problems
from callsd_transcript.formats import Compaction


MAX_TRACKS = 256
MAX_PROMPT_CHARACTERS = 2000
MAX_VOCABULARY = 100
MAX_WORD_CHARACTERS = 100
MAX_PATH_CHARACTERS = 4096
MAX_COMPACTION_SECONDS = 3600.0

JOB = re.compile(r"jobs/([a-z0-9]{8,40})")
UPLOAD = re.compile(r"uploads/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")

TASKS = {
    task: transcription_pb2.TranscriptionTask.Value(f"TRANSCRIPTION_TASK_{task.name}")
    for task in Task
}
FORMATS = {
    format_: transcription_pb2.TranscriptFormat.Value(f"TRANSCRIPT_FORMAT_{format_.name}")
    for format_ in Format
}
ENGINE_OF = {number: engine for engine, number in ENGINES.items()}
TASK_OF = {number: task for task, number in TASKS.items()}
FORMAT_OF = {number: format_ for format_, number in FORMATS.items()}


def parse(
    problems: Problems, message: transcription_pb2.TranscriptionSpec, kind: Transcription
) -> tuple[TranscriptionSpec, SiteSecrets | None]:
    """What is asked for."""
    at = "job.transcription"
    tracks = _parse_tracks(problems, f"{at}.tracks", message)
    problems.model(f"{at}.model", message.model)
    if len(message.vocabulary) > MAX_VOCABULARY:
        problems.add(f"{at}.vocabulary", f"has {len(message.vocabulary)} words, at most 100")
    for index, word in enumerate(message.vocabulary[:MAX_VOCABULARY]):
        problems.text(f"{at}.vocabulary[{index}]", word, MAX_WORD_CHARACTERS)
    problems.text(
        f"{at}.initial_prompt", message.initial_prompt, MAX_PROMPT_CHARACTERS, CONTROL_IN_PROMPT
    )
    problems.language(f"{at}.language", message.language)
    for field, number, known in (
        ("engine", message.engine, ENGINE_OF),
        ("task", message.task, TASK_OF),
    ):
        if number and number not in known:
            problems.add(f"{at}.{field}", f"{number} is no value that this server knows")
    formats = _parse_formats(problems, f"{at}.formats", message)
    call, secrets = None, None
    if message.HasField("mattermost_call"):
        call = mattermost.parse(problems, f"{at}.mattermost_call", message.mattermost_call)
        secrets = SiteSecrets(token=message.mattermost_call.token)
        if not {Format.VTT, Format.TEXT} <= set(formats):
            problems.add(f"{at}.formats", "must have VTT and TEXT for a mattermost_call")
    spec = TranscriptionSpec(
        tracks=tracks,
        model=message.model or kind.default_model,
        engine=ENGINE_OF.get(message.engine, kind.default_engine),
        threads=message.threads if message.HasField("threads") else 0,
        language=message.language,
        task=TASK_OF.get(message.task, next(iter(TASKS))),
        initial_prompt=message.initial_prompt,
        vocabulary=tuple(message.vocabulary),
        formats=formats,
        webvtt_omit_speaker=message.webvtt_omit_speaker,
        text_compaction=_parse_compaction(problems, f"{at}.text_compaction", message),
        call=call,
    )
    return spec, secrets


def _parse_tracks(
    problems: Problems, at: str, message: transcription_pb2.TranscriptionSpec
) -> tuple[Track, ...]:
    if not 1 <= len(message.tracks) <= MAX_TRACKS:
        problems.add(at, f"has {len(message.tracks)} tracks, must be 1 to {MAX_TRACKS}")
    tracks = tuple(
        _parse_track(problems, f"{at}[{index}]", track)
        for index, track in enumerate(message.tracks[:MAX_TRACKS])
    )
    for source in ("recording", "capture"):
        if sum(bool(getattr(track, source)) for track in tracks) > 1:
            problems.add(at, f"has more than one track of a {source}")
    return tracks


def _parse_formats(
    problems: Problems, at: str, message: transcription_pb2.TranscriptionSpec
) -> tuple[Format, ...]:
    """Each once, in the order in which they are named; all, if none is."""
    formats: list[Format] = []
    for wanted in message.formats:
        if wanted not in FORMAT_OF:
            problems.add(at, f"{wanted} is no value that this server knows")
        elif FORMAT_OF[wanted] not in formats:
            formats.append(FORMAT_OF[wanted])
    return tuple(formats) or tuple(Format)


def _parse_compaction(
    problems: Problems, at: str, message: transcription_pb2.TranscriptionSpec
) -> Compaction | None:
    """What is not said is as usual."""
    if not message.HasField("text_compaction"):
        return None
    asked, usual = message.text_compaction, Compaction()
    silence_seconds, max_seconds = usual.silence_seconds, usual.max_seconds
    if asked.HasField("silence"):
        silence_seconds = problems.seconds(
            f"{at}.silence", asked.silence, 0, MAX_COMPACTION_SECONDS
        )
    if asked.HasField("max_duration"):
        max_seconds = problems.seconds(
            f"{at}.max_duration", asked.max_duration, 0, MAX_COMPACTION_SECONDS
        )
    return Compaction(silence_seconds=silence_seconds, max_seconds=max_seconds)


def _parse_job(problems: Problems, field: str, name: str) -> str:
    match = JOB.fullmatch(name)
    if match is None:
        problems.add(field, 'must be "jobs/JOB"')
        return ""
    return match[1]


def _parse_track(problems: Problems, at: str, track: transcription_pb2.Track) -> Track:
    upload_id = recording = capture = ""
    match track.WhichOneof("media"):
        case "path":
            problems.text(f"{at}.path", track.path, MAX_PATH_CHARACTERS)
            if not track.path.startswith("/"):
                problems.add(f"{at}.path", "must be an absolute path")
        case "upload":
            match = UPLOAD.fullmatch(track.upload)
            if problems.is_preview and track.upload == f"uploads/{NO_UPLOAD_YET}":
                upload_id = NO_UPLOAD_YET
            elif match is None:
                problems.add(f"{at}.upload", 'must be "uploads/UUID"')
            else:
                upload_id = match[1]
        case "recording":
            recording = _parse_job(problems, f"{at}.recording", track.recording)
        case "capture":
            capture = _parse_job(problems, f"{at}.capture", track.capture)
        case _:
            problems.add(f"{at}.media", "is missing: set path, upload, recording or capture")
    offset = 0.0
    if track.HasField("start_offset"):
        offset = problems.seconds(f"{at}.start_offset", track.start_offset, 0, MAX_OFFSET_SECONDS)
    return Track(
        speaker=problems.text(f"{at}.speaker", track.speaker, MAX_SPEAKER_CHARACTERS),
        path=track.path,
        upload_id=upload_id,
        recording=recording,
        capture=capture,
        start_offset_seconds=offset,
        language=problems.language(f"{at}.language", track.language),
    )


def spec(spec: TranscriptionSpec) -> transcription_pb2.TranscriptionSpec:
    """What was asked for."""
    return transcription_pb2.TranscriptionSpec(
        tracks=[_track(track) for track in spec.tracks],
        model=spec.model,
        engine=ENGINES[spec.engine],
        threads=spec.threads or None,
        language=spec.language,
        task=TASKS[spec.task],
        initial_prompt=spec.initial_prompt,
        vocabulary=spec.vocabulary,
        formats=[FORMATS[format_] for format_ in spec.formats],
        webvtt_omit_speaker=spec.webvtt_omit_speaker,
        text_compaction=None if spec.text_compaction is None else _compaction(spec.text_compaction),
        mattermost_call=None if spec.call is None else mattermost.message(spec.call),
    )


def _compaction(rule: Compaction) -> transcription_pb2.TextCompaction:
    return transcription_pb2.TextCompaction(
        silence=duration(rule.silence_seconds), max_duration=duration(rule.max_seconds)
    )


def _track(track: Track) -> transcription_pb2.Track:
    message = transcription_pb2.Track(
        speaker=track.speaker,
        start_offset=duration(track.start_offset_seconds),
        language=track.language,
    )
    if track.upload_id:
        message.upload = f"uploads/{track.upload_id}"
    elif track.capture:
        message.capture = job_name(track.capture)
    elif track.recording:
        message.recording = job_name(track.recording)
    else:
        message.path = track.path
    return message


def result(result: TranscriptionResult) -> transcription_pb2.TranscriptionResult:
    """What came of it."""
    return transcription_pb2.TranscriptionResult(
        tracks=[
            transcription_pb2.TrackResult(
                speaker=track.speaker,
                duration=duration(track.duration_seconds),
                speech_duration=duration(track.speech_seconds),
                language=track.language,
                failure_reason=(
                    REASONS[track.failure_reason]
                    if track.failure_reason
                    else error_pb2.ERROR_REASON_UNSPECIFIED
                ),
                failure_message=track.failure_message,
            )
            for track in result.tracks
        ],
        language=result.language,
        engine=ENGINES[result.engine],
        segment_count=result.segment_count,
        word_count=result.word_count,
        audio_duration=duration(result.audio_seconds),
        real_time_factor=result.real_time_factor,
    )
