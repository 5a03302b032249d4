# SPDX-License-Identifier: Apache-2.0
"""Checks what a request for a recording says."""

import re
from dataclasses import replace
from urllib.parse import urlsplit

from callsd.v1 import job_pb2, recording_pb2
from callsd_daemon.domain.recording import PROFILES, PageSecrets, Profile, RecordingSpec
from callsd_daemon.rpc.convert import PROFILE_NUMBERS
from callsd_daemon.rpc.problems import CONTROL_IN_PROMPT, Problems


MAX_URL_CHARACTERS = 4096
MAX_FRAGMENT_CHARACTERS = 16_384
MAX_HEADERS = 32
MAX_EXPRESSION_CHARACTERS = 4096
MAX_READY_SECONDS = 600.0
DEFAULT_READY_SECONDS = 20.0
QUALITY_RANGES = {
    "width": (1280, 3840),
    "height": (720, 2160),
    "frame_rate": (10, 60),
    "video_kbps": (500, 10_000),
    "audio_kbps": (32, 320),
}
"""What may be asked for in place of what the profile has."""

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_CONTROL_OR_SPACE = re.compile(r"[\x00-\x20\x7f]")

PROFILE_OF = {number: profile for profile, number in PROFILE_NUMBERS.items()}


def recording(
    problems: Problems, spec: recording_pb2.RecordingSpec, default_profile: Profile
) -> RecordingSpec:
    """Note what is wrong with it; returns it in the domain's words."""
    at = "job.recording"
    _check_url(problems, f"{at}.url", spec.url)
    # What is wrong with a secret is told without showing it.
    problems.text(f"{at}.url_fragment", spec.url_fragment, MAX_FRAGMENT_CHARACTERS)
    if len(spec.headers) > MAX_HEADERS:
        problems.add(f"{at}.headers", f"has {len(spec.headers)} headers, at most {MAX_HEADERS}")
    for name, value in list(spec.headers.items())[:MAX_HEADERS]:
        if not _HEADER_NAME.fullmatch(name):
            problems.add(f"{at}.headers", f'"{name[:80]}" is no name of an HTTP header')
        problems.text(f"{at}.headers[{name[:80]}]", value, MAX_EXPRESSION_CHARACTERS)
    if spec.profile and spec.profile not in PROFILE_OF:
        problems.add(f"{at}.profile", f"{spec.profile} is no value that this server knows")
    profile = PROFILE_OF.get(spec.profile, default_profile)
    given = {field.name: value for field, value in spec.ListFields()}
    asked = {name: given[name] for name in QUALITY_RANGES if name in given}
    for name, value in asked.items():
        low, high = QUALITY_RANGES[name]
        if not low <= value <= high:
            problems.add(f"{at}.{name}", f"is {value}, must be {low} to {high}")
        elif name in ("width", "height") and value % 2:
            problems.add(f"{at}.{name}", f"is {value}, must be even")
    for name in ("ready_expression", "over_expression", "leave_expression"):
        expression = getattr(spec, name)
        problems.text(f"{at}.{name}", expression, MAX_EXPRESSION_CHARACTERS, CONTROL_IN_PROMPT)
    ready_seconds = DEFAULT_READY_SECONDS
    if spec.HasField("ready_timeout"):
        ready_seconds = problems.seconds(
            f"{at}.ready_timeout", spec.ready_timeout, 1, MAX_READY_SECONDS
        )
    return RecordingSpec(
        url=spec.url,
        profile=profile,
        quality=replace(PROFILES[profile], **asked),
        header_names=tuple(sorted(spec.headers)),
        audio_only=spec.audio_only,
        ready_expression=spec.ready_expression,
        over_expression=spec.over_expression,
        leave_expression=spec.leave_expression,
        ready_timeout_seconds=ready_seconds,
    )


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


def page_secrets(job: job_pb2.Job) -> PageSecrets | None:
    """What a checked request tells the page alone; None when it is not about a page."""
    if not job.HasField("recording"):
        return None
    return PageSecrets(url_fragment=job.recording.url_fragment, headers=dict(job.recording.headers))
