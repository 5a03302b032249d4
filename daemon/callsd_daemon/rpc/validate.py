# SPDX-License-Identifier: Apache-2.0
"""Checks requests, all fields at once, and turns them into the domain's words."""

import re
import uuid
from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from callsd.v1 import caption_pb2, job_pb2, transcription_pb2
from callsd_daemon.domain.captions import CaptionsSpec
from callsd_daemon.domain.errors import invalid_fields
from callsd_daemon.domain.jobs import Kind, State
from callsd_daemon.domain.recording import Profile, RecordingSpec
from callsd_daemon.domain.transcription import Format, Track, TranscriptionSpec
from callsd_daemon.rpc import validate_recording
from callsd_daemon.rpc.convert import ENGINES, FORMATS, KINDS, STATES, TASKS
from callsd_daemon.rpc.problems import CONTROL_IN_PROMPT, MODEL, Problems


Number = TypeVar("Number", bound=int)
Value = TypeVar("Value")

MAX_JOB_BYTES = 128 * 1024
"""Length of a job in a request. Room for 256 tracks with their paths, names in any script, a
vocabulary and a prompt; it is kept with each of the job's changes, and sent with each of them."""

MAX_TRACKS = 256
MAX_ACTIVE_SPEAKERS = 50
DEFAULT_ACTIVE_SPEAKERS = 2
MAX_LABELS = 32
MAX_FILTER_LABELS = 16
"""Each one is looked up for each job that has the rarest of them."""

MAX_NAMES = 100
MAX_SPEAKER_CHARACTERS = 200
MAX_PROMPT_CHARACTERS = 2000
MAX_VOCABULARY = 100
MAX_WORD_CHARACTERS = 100
MAX_LABEL_CHARACTERS = 256
MAX_PATH_CHARACTERS = 4096
MAX_OFFSET_SECONDS = 30 * 86400.0
MAX_DURATION_SECONDS = 7 * 86400.0
MAX_PAGE_SIZE = 1000
DEFAULT_PAGE_SIZE = 50

_LABEL_KEY = re.compile(r"[a-z0-9._-]{1,63}")
_JOB = re.compile(r"jobs/([a-z0-9]{8,40})")
_ARTIFACT = re.compile(r"jobs/([a-z0-9]{8,40})/artifacts/([A-Za-z0-9][A-Za-z0-9._-]{0,99})")
_UPLOAD = re.compile(r"uploads/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_SHA256 = re.compile(r"[0-9a-f]{64}")

ENGINE_OF = {number: engine for engine, number in ENGINES.items()}
TASK_OF = {number: task for task, number in TASKS.items()}
FORMAT_OF = {number: format_ for format_, number in FORMATS.items()}
KIND_OF = {number: kind for kind, number in KINDS.items()}
STATE_OF = {number: state for state, number in STATES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a job gets that does not say."""

    model: str
    caption_model: str
    engine: str
    profile: Profile
    max_duration_seconds: float
    max_recording_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A request for a job that is in order as far as can be seen from itself."""

    labels: dict[str, str]
    max_duration_seconds: float
    transcription: TranscriptionSpec | None
    captions: CaptionsSpec | None
    recording: RecordingSpec | None


def draft(request: job_pb2.CreateJobRequest, defaults: Defaults) -> Draft:
    """Check a CreateJob request; raises FIELD_INVALID naming every field that is wrong."""
    problems, job = Problems(), request.job
    if request.request_id:
        _check_uuid(problems, "request_id", request.request_id)
    if len(job.labels) > MAX_LABELS:
        problems.add("job.labels", f"has {len(job.labels)} labels, at most {MAX_LABELS}")
    for key, value in islice(job.labels.items(), MAX_LABELS):
        if not _LABEL_KEY.fullmatch(key):
            problems.add("job.labels", f'key "{key[:80]}" must be 1 to 63 of a-z 0-9 . _ -')
        problems.text(f"job.labels[{key[:63]}]", value, MAX_LABEL_CHARACTERS)
    is_recording = job.HasField("recording")
    max_duration = defaults.max_recording_seconds if is_recording else defaults.max_duration_seconds
    if job.HasField("max_duration"):
        max_duration = problems.seconds(
            "job.max_duration", job.max_duration, 1, MAX_DURATION_SECONDS
        )
    transcription, captions, recording = None, None, None
    match job.WhichOneof("spec"):
        case "transcription":
            transcription = _transcription(problems, job.transcription, defaults)
        case "captions":
            captions = _captions(problems, job.captions, defaults)
        case "recording":
            recording = validate_recording.recording(problems, job.recording, defaults.profile)
        case _:
            problems.add("job.spec", "is missing: say what to do, such as `transcription`")
    if (size := job.ByteSize()) > MAX_JOB_BYTES:
        problems.add("job", f"has {size} bytes, at most {MAX_JOB_BYTES} are allowed")
    problems.raise_any()
    return Draft(
        labels=dict(job.labels),
        max_duration_seconds=max_duration,
        transcription=transcription,
        captions=captions,
        recording=recording,
    )


def _transcription(
    problems: Problems, spec: transcription_pb2.TranscriptionSpec, defaults: Defaults
) -> TranscriptionSpec:
    at = "job.transcription"
    if not 1 <= len(spec.tracks) <= MAX_TRACKS:
        problems.add(f"{at}.tracks", f"has {len(spec.tracks)} tracks, must be 1 to {MAX_TRACKS}")
    tracks = tuple(
        _track(problems, f"{at}.tracks[{index}]", track)
        for index, track in enumerate(spec.tracks[:MAX_TRACKS])
    )
    problems.model(f"{at}.model", spec.model)
    if len(spec.vocabulary) > MAX_VOCABULARY:
        problems.add(f"{at}.vocabulary", f"has {len(spec.vocabulary)} words, at most 100")
    for index, word in enumerate(spec.vocabulary[:MAX_VOCABULARY]):
        problems.text(f"{at}.vocabulary[{index}]", word, MAX_WORD_CHARACTERS)
    problems.text(
        f"{at}.initial_prompt", spec.initial_prompt, MAX_PROMPT_CHARACTERS, CONTROL_IN_PROMPT
    )
    problems.language(f"{at}.language", spec.language)
    for field, number, known in (
        ("engine", spec.engine, ENGINE_OF),
        ("task", spec.task, TASK_OF),
    ):
        if number and number not in known:
            problems.add(f"{at}.{field}", f"{number} is no value that this server knows")
    formats: list[Format] = []
    for wanted in spec.formats:
        if wanted not in FORMAT_OF:
            problems.add(f"{at}.formats", f"{wanted} is no value that this server knows")
        elif FORMAT_OF[wanted] not in formats:
            formats.append(FORMAT_OF[wanted])
    default_engine = next(e for e in ENGINES if e.value == defaults.engine)
    return TranscriptionSpec(
        tracks=tracks,
        model=spec.model or defaults.model,
        engine=ENGINE_OF.get(spec.engine, default_engine),
        threads=spec.threads if spec.HasField("threads") else 0,
        language=spec.language,
        task=TASK_OF.get(spec.task, next(iter(TASKS))),
        initial_prompt=spec.initial_prompt,
        vocabulary=tuple(spec.vocabulary),
        formats=tuple(formats) or tuple(Format),
        webvtt_omit_speaker=spec.webvtt_omit_speaker,
    )


def _captions(
    problems: Problems, spec: caption_pb2.CaptionsSpec, defaults: Defaults
) -> CaptionsSpec:
    at = "job.captions"
    problems.model(f"{at}.model", spec.model)
    problems.language(f"{at}.language", spec.language)
    speakers = spec.max_active_speakers or DEFAULT_ACTIVE_SPEAKERS
    if not 1 <= speakers <= MAX_ACTIVE_SPEAKERS:
        problems.add(
            f"{at}.max_active_speakers", f"is {speakers}, must be 1 to {MAX_ACTIVE_SPEAKERS}"
        )
    return CaptionsSpec(
        model=spec.model or defaults.caption_model,
        language=spec.language,
        max_active_speakers=speakers,
    )


def _track(problems: Problems, at: str, track: transcription_pb2.Track) -> Track:
    upload_id = ""
    match track.WhichOneof("media"):
        case "path":
            problems.text(f"{at}.path", track.path, MAX_PATH_CHARACTERS)
            if not track.path.startswith("/"):
                problems.add(f"{at}.path", "must be an absolute path")
        case "upload":
            match = _UPLOAD.fullmatch(track.upload)
            if match is None:
                problems.add(f"{at}.upload", 'must be "uploads/UUID"')
            else:
                upload_id = match[1]
        case _:
            problems.add(f"{at}.media", "is missing: set path or upload")
    offset = 0.0
    if track.HasField("start_offset"):
        offset = problems.seconds(f"{at}.start_offset", track.start_offset, 0, MAX_OFFSET_SECONDS)
    return Track(
        speaker=problems.text(f"{at}.speaker", track.speaker, MAX_SPEAKER_CHARACTERS),
        path=track.path,
        upload_id=upload_id,
        start_offset_seconds=offset,
        language=problems.language(f"{at}.language", track.language),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which jobs: those that match all that is set."""

    states: AbstractSet[State] = frozenset()
    kinds: AbstractSet[Kind] = frozenset()
    labels: dict[str, str]
    ids: AbstractSet[str] = frozenset()


def job_filter(message: job_pb2.JobFilter, *, states_allowed: bool) -> Filter:
    """Check a filter; raises FIELD_INVALID."""
    problems = Problems()
    if message.states and not states_allowed:
        problems.add("filter.states", "must be empty: a watch reports jobs through all of them")
    states = _known(problems, "states", message.states, STATE_OF)
    kinds = _known(problems, "kinds", message.kinds, KIND_OF)
    for key in _few(problems, "labels", message.labels, MAX_FILTER_LABELS):
        if not _LABEL_KEY.fullmatch(key):
            problems.add("filter.labels", f'key "{key[:80]}" must be 1 to 63 of a-z 0-9 . _ -')
        problems.text(f"filter.labels[{key[:63]}]", message.labels[key], MAX_LABEL_CHARACTERS)
    names = _few(problems, "names", message.names, MAX_NAMES)
    ids = frozenset(match[1] for match in map(_JOB.fullmatch, names) if match)
    if not all(map(_JOB.fullmatch, names)):
        problems.add("filter.names", 'must each be "jobs/JOB"')
    problems.raise_any()
    return Filter(
        states=states,
        kinds=kinds,
        labels=dict(message.labels),
        ids=ids,
    )


def _few(
    problems: Problems, field: str, values: Collection[Value], limit: int
) -> Collection[Value]:
    """The values of a filter's field, or none when there are too many: nobody looks at them."""
    if len(values) <= limit:
        return values
    problems.add(f"filter.{field}", f"has {len(values)} values, at most {limit}")
    return ()


def _known(
    problems: Problems, field: str, numbers: Collection[Number], known: Mapping[Number, Value]
) -> frozenset[Value]:
    """What these numbers stand for; there is no use for more of them than there are."""
    numbers = _few(problems, field, numbers, len(known))
    unknown = [number for number in numbers if number not in known]
    if unknown:
        problems.add(f"filter.{field}", f"{unknown[0]} is no value that we know")
    return frozenset(known[number] for number in numbers if number in known)


def job_id(name: str, *, field: str = "name") -> str:
    """The id in a job's name; raises FIELD_INVALID."""
    return _groups(_JOB, field, name, "jobs/JOB")[0]


def artifact(name: str) -> tuple[str, str]:
    """Job id and file name in an artifact's name; raises FIELD_INVALID."""
    job, file_name = _groups(_ARTIFACT, "name", name, "jobs/JOB/artifacts/FILE")
    return job, file_name


def upload_id(name: str) -> str:
    """The id in an upload's name; raises FIELD_INVALID."""
    return _groups(_UPLOAD, "name", name, "uploads/UUID")[0]


def model_name(name: str) -> str:
    """A model's name; raises FIELD_INVALID."""
    if not MODEL.fullmatch(name):
        raise invalid_fields([("name", "must be a model's name: see ListModels")])
    return name


def upload_start(upload: str, size_bytes: int, sha256: str) -> None:
    """Check the first message of an upload; raises FIELD_INVALID."""
    problems = Problems()
    _check_uuid(problems, "start.upload_id", upload)
    if size_bytes < 1:
        problems.add("start.size_bytes", "must be at least 1")
    if not _SHA256.fullmatch(sha256):
        problems.add("start.sha256", "must be 64 lower-case hexadecimal digits")
    problems.raise_any()


def _groups(pattern: re.Pattern[str], field: str, value: str, shape: str) -> tuple[str, ...]:
    match = pattern.fullmatch(value)
    if match is None:
        raise invalid_fields([(field, f'must be "{shape}"')])
    return match.groups()


def _check_uuid(problems: Problems, field: str, value: str) -> None:
    try:
        valid = str(uuid.UUID(value)) == value
    except ValueError:
        valid = False
    if not valid:
        problems.add(field, "must be a UUID in lower case with hyphens")
