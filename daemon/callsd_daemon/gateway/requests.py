# SPDX-License-Identifier: Apache-2.0
"""Jobs as the plugin writes them, in our own terms, and ours as the plugin reads them."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from callsd_daemon.domain import mattermost
from callsd_daemon.domain.captions import CaptionsSpec
from callsd_daemon.domain.capture import CAPTURE, CaptureSpec
from callsd_daemon.domain.jobs import Job, Notice
from callsd_daemon.domain.languages import LANGUAGES
from callsd_daemon.domain.mattermost import MattermostCall, SiteSecrets
from callsd_daemon.domain.recording import (
    PROFILES,
    QUALITY_RANGES,
    RECORDING,
    PageSecrets,
    Profile,
    Quality,
    RecordingSpec,
)
from callsd_daemon.domain.transcription import (
    TRANSCRIPTION,
    Format,
    Track,
    TranscriptionSpec,
)
from callsd_daemon.domain.work import MAX_DURATION_SECONDS
from callsd_daemon.gateway.errors import HttpError
from callsd_daemon.mattermost.work import JOB_TYPES
from callsd_daemon.usecases.jobs import JobRequest
from callsd_transcript.formats import Compaction


TRANSCRIBING_TIMES = 2
"""So many times as long as its recording the plugin lets a transcription take, which is when the
call is captured: room is held for that."""

MAX_NUMBER = 10_000_000
"""Larger ones mean nothing, and would not fit into messages."""
MAX_RUNNER_CHARACTERS = 256

SITE_LABEL, CALL_LABEL, POST_LABEL, RUNNER_LABEL = (
    "mattermost.site",
    "mattermost.call",
    "mattermost.post",
    "mattermost.runner",
)

QUALITY_KEYS = {
    "width": "width",
    "height": "height",
    "frame_rate": "frame_rate",
    "video_rate": "video_kbps",
    "audio_rate": "audio_kbps",
}
"""The plugin's names and ours; the ranges are the same."""

COMPACTION_KEYS = {
    "text_compact_silence_threshold_ms": "silence_seconds",
    "text_compact_max_segment_duration_ms": "max_seconds",
}
"""The plugin's names and ours."""

KINDS = {"recording": RECORDING, "transcribing": TRANSCRIPTION}

CALL_KEYS = frozenset({"site_url", "call_id", "post_id", "auth_token"})
RECORDING_KEYS = CALL_KEYS | QUALITY_KEYS.keys() | {"recording_id", "video_preset", "output_format"}
TRANSCRIBING_KEYS = CALL_KEYS | {
    "transcription_id",
    "transcribe_api",
    "transcribe_api_options",
    "model_size",
    "output_format",
    "num_threads",
    "language",
    "live_captions_on",
    "live_captions_model_size",
    "live_captions_num_transcribers",
    "live_captions_num_threads_per_transcriber",
    "live_captions_language",
    "webvtt_omit_speaker",
    *COMPACTION_KEYS,
}

MAX_COMPACTION_MS = 3_600_000

_LANGUAGE = re.compile(r"([a-z]{2,3})(?:[-_][a-z0-9]+)*")

SPEAKER = "Call"
"""Whose a transcript's words are that is made of a recording: who spoke is not known there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A job that the plugin wants. `data` is its `input_data`."""

    kind: str
    runner: str
    max_duration_seconds: float
    call: MattermostCall
    token: str = field(repr=False)
    data: Mapping[str, Any] = field(repr=False)
    fingerprint: str
    notices: tuple[Notice, ...]

    @property
    def labels(self) -> dict[str, str]:
        """By which the job is found, and seen where it comes from."""
        return {
            SITE_LABEL: urlsplit(self.call.site_url).netloc,
            CALL_LABEL: self.call.call_id,
            POST_LABEL: self.call.post_id,
            RUNNER_LABEL: self.runner,
        }

    @property
    def pair_labels(self) -> dict[str, str]:
        """Which both jobs of a call's recording have; their sites may be written differently."""
        return {CALL_LABEL: self.call.call_id, POST_LABEL: self.call.post_id}


def decode(body: bytes) -> dict[str, Any]:
    """A JSON object, whatever its content type; raises HttpError."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as problem:
        raise HttpError(400, f"failed to decode request body: {problem}") from None
    if not isinstance(message, dict):
        raise HttpError(400, "failed to decode request body: it is no JSON object")
    return message


def wanted(message: Mapping[str, Any]) -> Wanted:
    """What a POST /jobs asks for; raises HttpError."""
    type_, runner = message.get("type") or "", message.get("runner") or ""
    if not type_:
        raise HttpError(400, "invalid Type value: should not be empty")
    if not isinstance(runner, str) or not runner or len(runner) > MAX_RUNNER_CHARACTERS:
        raise HttpError(400, "invalid Runner value: should not be empty, or longer than 256")
    seconds = message.get("max_duration_sec")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        raise HttpError(400, "invalid MaxDurationSec value: should be positive")
    kind = KINDS.get(type_) if isinstance(type_, str) else None
    if kind is None:
        raise HttpError(400, f"invalid Type value: {json.dumps(type_)[:100]}")
    data = message.get("input_data")
    if not isinstance(data, dict):
        raise HttpError(400, "invalid InputData value: should be an object")
    own_key, known = (
        ("recording_id", RECORDING_KEYS)
        if kind == RECORDING
        else ("transcription_id", TRANSCRIBING_KEYS)
    )
    token = data.get("auth_token")
    if not isinstance(token, str) or not mattermost.is_token(token):
        raise HttpError(400, "invalid InputData value: auth_token: should be the bot's token")
    return Wanted(
        kind=kind,
        runner=runner,
        max_duration_seconds=float(min(seconds, MAX_DURATION_SECONDS)),
        call=MattermostCall(
            site_url=_site(data.get("site_url")),
            call_id=_identifier(data, "call_id"),
            post_id=_identifier(data, "post_id"),
            job_id=_identifier(data, own_key),
        ),
        token=token,
        data=data,
        fingerprint=hashlib.sha256(json.dumps(message, sort_keys=True).encode()).hexdigest(),
        notices=tuple(_ignored(data.keys() - known)),
    )


def _site(url: object) -> str:
    """A site's address; what the plugin's own check allows, and nothing else."""
    text = url.rstrip("/") if isinstance(url, str) else ""
    if not mattermost.is_site(text):
        raise HttpError(
            400, "invalid InputData value: site_url: should be http(s)://HOST without a path"
        )
    return text


def _identifier(data: Mapping[str, Any], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or not mattermost.is_identifier(value):
        raise HttpError(400, f"invalid InputData value: {key}: should be 26 of a-z and 0-9")
    return value


def _ignored(keys: Iterable[str]) -> Iterable[Notice]:
    if names := sorted(map(str, keys)):
        shown = ", ".join(name[:40] for name in names[:20])
        yield Notice(code="INPUT_IGNORED", message=f"callsd has no use for: {shown}")


# Our terms


def recording(asked: Wanted) -> JobRequest:
    """The recording that is wanted."""
    quality, notices = PROFILES[Profile.MEDIUM], list(asked.notices)
    changes = dict[str, int]()
    for key, name in QUALITY_KEYS.items():
        low, high = QUALITY_RANGES[name]
        number = _number(asked.data.get(key))
        if number is None:
            continue
        used = min(max(number, low), high)
        used -= used % 2 if name in ("width", "height") else 0
        if used != number:
            notices.append(_changed(key, number, used))
        changes[name] = used
    quality = replace(quality, **changes)
    return JobRequest(
        kind=RECORDING,
        spec=RecordingSpec(url="", profile=_profile(quality), quality=quality, call=asked.call),
        secrets=PageSecrets(token=asked.token),
        labels=asked.labels,
        max_duration_seconds=asked.max_duration_seconds,
        may_queue=False,
        request_id=f"{RECORDING}/{asked.call.job_id}",
        fingerprint=asked.fingerprint,
        notices=tuple(notices),
    )


def capture(asked: Wanted, recording_id: str, captions_model: str) -> JobRequest:
    """The capture of the call, of which the transcription is made."""
    data, notices = asked.data, list(asked.notices)
    captions = None
    if _is_set(data.get("live_captions_on")):
        captions = CaptionsSpec(
            model=str(data.get("live_captions_model_size") or captions_model)[:64],
            language=_language(data, notices, "live_captions_language"),
        )
    return JobRequest(
        kind=CAPTURE,
        spec=CaptureSpec(call=asked.call, captions=captions),
        secrets=SiteSecrets(token=asked.token),
        labels=asked.labels,
        max_duration_seconds=asked.max_duration_seconds,
        may_queue=False,
        is_owed=True,
        companion_of=recording_id,
        request_id=f"{CAPTURE}/{asked.call.job_id}",
        fingerprint=asked.fingerprint,
        notices=tuple(notices),
    )


def transcription(
    asked: Wanted, capture_id: str, recording_id: str, default_model: str
) -> JobRequest:
    """The transcription that is wanted, of what will have been captured of the call."""
    data, notices = asked.data, list(asked.notices)
    tracks = (Track(speaker=SPEAKER, capture=capture_id, recording=recording_id),)
    threads = _number(data.get("num_threads")) or 0
    return JobRequest(
        kind=TRANSCRIPTION,
        spec=TranscriptionSpec(
            tracks=tracks,
            model=str(data.get("model_size") or default_model)[:64],
            threads=max(threads, 0),
            language=_language(data, notices),
            formats=_formats(data, notices),
            webvtt_omit_speaker=_is_set(data.get("webvtt_omit_speaker")),
            text_compaction=_compaction(data, notices),
            call=asked.call,
        ),
        secrets=SiteSecrets(token=asked.token),
        labels=asked.labels,
        max_duration_seconds=asked.max_duration_seconds,
        is_owed=True,
        request_id=f"{TRANSCRIPTION}/{asked.call.job_id}",
        fingerprint=asked.fingerprint,
        notices=tuple(notices),
    )


def plain_transcription(model: str) -> TranscriptionSpec:
    """A transcription of some recording by this model, to see whether there can be one."""
    return TranscriptionSpec(tracks=(Track(speaker=SPEAKER, recording="-"),), model=model)


def plain_capture(asked: Wanted, captions_model: str) -> JobRequest:
    """A capture as it will be asked for in a moment, as far as that is known."""
    captions = CaptionsSpec(model=captions_model) if captions_model else None
    seconds = min(TRANSCRIBING_TIMES * asked.max_duration_seconds, MAX_DURATION_SECONDS)
    return JobRequest(
        kind=CAPTURE,
        spec=CaptureSpec(call=asked.call, captions=captions),
        max_duration_seconds=seconds,
    )


def capture_choices(wish: JobRequest, model: str) -> Iterator[JobRequest]:
    """A capture as it is wanted, with another model, without a language, and without captions."""
    yield wish
    assert isinstance(wish.spec, CaptureSpec)
    captions = wish.spec.captions
    if captions is None:
        return
    told, is_same = list[str](), captions.model == model
    if not is_same:
        told.append(f"captions by {captions.model} cannot be had here, {model} makes them")
        yield _told(wish, told, captions=replace(captions, model=model))
    if captions.language:
        told.append(f"{model} makes no captions in {captions.language}, what is spoken is detected")
        yield _told(wish, told, captions=CaptionsSpec(model=model))
    names = f"{model} cannot" if is_same else f"neither {captions.model} nor {model} can"
    yield _told(wish, [f"there are no captions: {names} be used here"], captions=None)


def _told(wish: JobRequest, told: Iterable[str], *, captions: CaptionsSpec | None) -> JobRequest:
    assert isinstance(wish.spec, CaptureSpec)
    notices = (Notice(code="INPUT_CHANGED", message=message) for message in told)
    return replace(
        wish, spec=replace(wish.spec, captions=captions), notices=(*wish.notices, *notices)
    )


def choices(wish: JobRequest, model: str) -> Iterator[JobRequest]:
    """A transcription as it is wanted, with another model, and without its language."""
    yield wish
    assert isinstance(wish.spec, TranscriptionSpec)
    told = f"the model {wish.spec.model} cannot be used here, {model} is used"
    changed = replace(
        wish,
        spec=replace(wish.spec, model=model),
        notices=(*wish.notices, Notice(code="INPUT_CHANGED", message=told)),
    )
    yield changed
    told = f"the language {wish.spec.language} cannot be used here, what is spoken is detected"
    yield replace(
        changed,
        spec=replace(wish.spec, model=model, language=""),
        notices=(*changed.notices, Notice(code="INPUT_CHANGED", message=told)),
    )


def _language(data: Mapping[str, Any], notices: list[Notice], key: str = "language") -> str:
    """A code that a model may know, of "de", "DE" or "de-AT"; empty = to be detected."""
    asked = data.get(key)
    text = asked.strip().lower() if isinstance(asked, str) else ""
    if text in ("", "auto"):
        return ""
    match = _LANGUAGE.fullmatch(text)
    if match is not None and match[1] in LANGUAGES:
        return match[1]
    notices.append(
        Notice(
            code="INPUT_CHANGED",
            message=f"{key}: {text[:40]} is not known, what is spoken is detected",
        )
    )
    return ""


def _formats(data: Mapping[str, Any], notices: list[Notice]) -> tuple[Format, ...]:
    """Subtitles and text, as a call's thread gets both, whichever is asked for."""
    formats = (Format.VTT, Format.TEXT)
    asked = data.get("output_format")
    if asked and asked not in (*formats, "text"):
        notices.append(_changed("output_format", str(asked)[:40], "vtt with txt"))
    return formats


def _compaction(data: Mapping[str, Any], notices: list[Notice]) -> Compaction | None:
    """None if neither limit is given."""
    limits = dict[str, float]()
    for key, name in COMPACTION_KEYS.items():
        number = _integer(data.get(key))
        if number is None:
            continue
        used = min(max(number, 0), MAX_COMPACTION_MS)
        if used != number:
            notices.append(_changed(key, number, used))
        limits[name] = used / 1000
    return Compaction(**limits) if limits else None


def _is_set(value: object) -> bool:
    """Whether it is true, be it written as text."""
    return value is True or (isinstance(value, str) and value.strip().lower() in ("true", "1"))


def _number(value: object) -> int | None:
    """An integer, be it written as one or as text; 0 and what is none count as not given."""
    return _integer(value) or None


def _integer(value: object) -> int | None:
    """An integer, be it written as one or as text; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = int(float(value))
    except (ValueError, OverflowError):
        return None
    return min(max(number, -MAX_NUMBER), MAX_NUMBER)


def _changed(key: str, asked: object, used: object) -> Notice:
    return Notice(code="INPUT_CHANGED", message=f"{key}: {asked} was asked for, {used} is used")


def _profile(quality: Quality) -> Profile:
    """The profile that comes nearest, for those who read the job."""
    exact = [profile for profile, one in PROFILES.items() if one == quality]
    return exact[0] if exact else Profile.MEDIUM


# The plugin's terms


def answer(job: Job) -> dict[str, Any]:
    """A job as the plugin's client knows it. Of its secrets nothing is shown."""
    spec = job.spec
    assert isinstance(spec, RecordingSpec | TranscriptionSpec | CaptureSpec)
    is_recording = isinstance(spec, RecordingSpec)
    data: dict[str, Any] = {"auth_token": "***"}
    if spec.call is not None:
        data |= {
            "site_url": spec.call.site_url,
            "call_id": spec.call.call_id,
            "post_id": spec.call.post_id,
            "recording_id" if is_recording else "transcription_id": spec.call.job_id,
        }
    if isinstance(spec, RecordingSpec):
        data |= {key: getattr(spec.quality, name) for key, name in QUALITY_KEYS.items()}
    message: dict[str, Any] = {
        "id": job.id,
        "type": JOB_TYPES[job.kind],
        "max_duration_sec": round(job.max_duration_seconds),
        "runner": job.labels.get(RUNNER_LABEL, ""),
        "input_data": data,
        "start_at": round((job.start_time or job.create_time).timestamp() * 1000),
    }
    if job.end_time is not None:
        message["stop_at"] = round(job.end_time.timestamp() * 1000)
    return message
