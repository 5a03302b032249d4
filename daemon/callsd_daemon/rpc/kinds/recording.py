# SPDX-License-Identifier: Apache-2.0
"""Recording jobs."""

import re
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from callsd.v1 import recording_pb2
from callsd_daemon.domain.recording import (
    PROFILES,
    QUALITY_RANGES,
    PageSecrets,
    Profile,
    RecordingResult,
    RecordingSpec,
)
from callsd_daemon.kinds.recording import Recording
from callsd_daemon.rpc.convert import duration
from callsd_daemon.rpc.kinds import mattermost
from callsd_daemon.rpc.problems import CONTROL_IN_PROMPT, Problems


MAX_URL_CHARACTERS = 4096
MAX_FRAGMENT_CHARACTERS = 16_384
MAX_HEADERS = 32
MAX_ORIGINS = 32
MAX_PORT = 65_535
MAX_EXPRESSION_CHARACTERS = 4096
MAX_READY_SECONDS = 600.0
DEFAULT_READY_SECONDS = 20.0
PAGE_FIELDS = frozenset(
    {
        "url",
        "url_fragment",
        "headers",
        "header_origins",
        "ready_expression",
        "over_expression",
        "leave_expression",
        "ready_timeout",
    }
)
"""What is known of a call's page."""

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_ORIGIN = re.compile(
    r"https?://([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:(?P<port>[0-9]{1,5}))?"
)
_CONTROL_OR_SPACE = re.compile(r"[\x00-\x20\x7f]")

PROFILE_NUMBERS = {
    profile: recording_pb2.RecordingProfile.Value(f"RECORDING_PROFILE_{profile.name}")
    for profile in Profile
}
PROFILE_OF = {number: profile for profile, number in PROFILE_NUMBERS.items()}


def parse(
    problems: Problems, message: recording_pb2.RecordingSpec, kind: Recording
) -> tuple[RecordingSpec, PageSecrets]:
    """What is asked for, and what the page alone is told."""
    at = "job.recording"
    call = None
    if message.HasField("mattermost_call"):
        call = mattermost.parse(problems, f"{at}.mattermost_call", message.mattermost_call)
        if message.audio_only:
            problems.add(
                f"{at}.audio_only", "must not be set: the plugin is told of the first picture"
            )
        for name in PAGE_FIELDS & {field.name for field, _ in message.ListFields()}:
            problems.add(f"{at}.{name}", "must not be set with mattermost_call, which knows it")
    else:
        _check_url(problems, f"{at}.url", message.url)
    _check_page(problems, at, message)
    if message.profile and message.profile not in PROFILE_OF:
        problems.add(f"{at}.profile", f"{message.profile} is no value that this server knows")
    profile = PROFILE_OF.get(message.profile, kind.default_profile)
    ready_seconds = DEFAULT_READY_SECONDS
    if message.HasField("ready_timeout"):
        ready_seconds = problems.seconds(
            f"{at}.ready_timeout", message.ready_timeout, 1, MAX_READY_SECONDS
        )
    spec = RecordingSpec(
        url=message.url,
        profile=profile,
        quality=replace(PROFILES[profile], **_parse_quality(problems, at, message)),
        header_names=tuple(sorted(message.headers)),
        header_origins=tuple(message.header_origins),
        audio_only=message.audio_only,
        ready_expression=message.ready_expression,
        over_expression=message.over_expression,
        leave_expression=message.leave_expression,
        ready_timeout_seconds=ready_seconds,
        call=call,
    )
    secrets = PageSecrets(
        url_fragment=message.url_fragment,
        headers=dict(message.headers),
        token=message.mattermost_call.token,
    )
    return spec, secrets


def _check_page(problems: Problems, at: str, message: recording_pb2.RecordingSpec) -> None:
    # What is wrong with a secret is told without showing it.
    problems.text(f"{at}.url_fragment", message.url_fragment, MAX_FRAGMENT_CHARACTERS)
    if len(message.headers) > MAX_HEADERS:
        problems.add(f"{at}.headers", f"has {len(message.headers)} headers, at most {MAX_HEADERS}")
    for name, value in list(message.headers.items())[:MAX_HEADERS]:
        if not _HEADER_NAME.fullmatch(name):
            problems.add(f"{at}.headers", f'"{name[:80]}" is no name of an HTTP header')
        problems.text(f"{at}.headers[{name[:80]}]", value, MAX_EXPRESSION_CHARACTERS)
    _check_origins(problems, f"{at}.header_origins", message.header_origins)
    for name in ("ready_expression", "over_expression", "leave_expression"):
        expression = getattr(message, name)
        problems.text(f"{at}.{name}", expression, MAX_EXPRESSION_CHARACTERS, CONTROL_IN_PROMPT)


def _check_origins(problems: Problems, field: str, origins: Sequence[str]) -> None:
    if len(origins) > MAX_ORIGINS:
        problems.add(field, f"has {len(origins)} origins, at most {MAX_ORIGINS}")
    for number, origin in enumerate(origins[:MAX_ORIGINS]):
        found = _ORIGIN.fullmatch(origin)
        if found is None or int(found["port"] or 0) > MAX_PORT:
            problems.add(
                f"{field}[{number}]", "must be an origin, such as https://api.example.com:8443"
            )


def _parse_quality(
    problems: Problems, at: str, message: recording_pb2.RecordingSpec
) -> dict[str, int]:
    """What is asked for in place of what the profile has."""
    given = {field.name: value for field, value in message.ListFields()}
    asked = {name: given[name] for name in QUALITY_RANGES if name in given}
    for name, value in asked.items():
        low, high = QUALITY_RANGES[name]
        if not low <= value <= high:
            problems.add(f"{at}.{name}", f"is {value}, must be {low} to {high}")
        elif name in ("width", "height") and value % 2:
            problems.add(f"{at}.{name}", f"is {value}, must be even")
    return asked


def _check_url(problems: Problems, field: str, url: str) -> None:
    problems.text(field, url, MAX_URL_CHARACTERS, _CONTROL_OR_SPACE)
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
        has_user, _ = "@" in parts.netloc, parts.port
    except ValueError:
        is_address = has_user = False
        parts = urlsplit("")
    if not is_address:
        problems.add(field, "must be the address of a page: http://… or https://…")
    elif has_user:
        problems.add(field, "must hold no user and password: send a header instead")
    elif parts.fragment or url.endswith("#"):
        problems.add(field, 'must end before "#": what follows belongs into url_fragment')


def spec(spec: RecordingSpec) -> recording_pb2.RecordingSpec:
    """What was asked for, but for what is secret."""
    quality = spec.quality
    return recording_pb2.RecordingSpec(
        url=spec.url,
        headers=dict.fromkeys(spec.header_names, ""),
        header_origins=spec.header_origins,
        profile=PROFILE_NUMBERS[spec.profile],
        width=quality.width,
        height=quality.height,
        frame_rate=quality.frame_rate,
        video_kbps=quality.video_kbps,
        audio_kbps=quality.audio_kbps,
        audio_only=spec.audio_only,
        ready_expression=spec.ready_expression,
        over_expression=spec.over_expression,
        leave_expression=spec.leave_expression,
        ready_timeout=duration(spec.ready_timeout_seconds),
        mattermost_call=None if spec.call is None else mattermost.message(spec.call),
    )


def result(result: RecordingResult) -> recording_pb2.RecordingResult:
    """What came of it."""
    return recording_pb2.RecordingResult(
        duration=duration(result.duration_seconds),
        width=result.width,
        height=result.height,
        frame_rate=result.frame_rate,
        size_bytes=result.size_bytes,
        segment_count=result.segment_count,
        gap_duration=duration(result.gap_seconds),
        cut_short=result.is_cut_short,
    )
