# SPDX-License-Identifier: Apache-2.0
"""Collects what is wrong with a request, all of it, before anything is said."""

import re
import uuid

from google.protobuf.duration_pb2 import Duration

from callsd_daemon.domain.errors import invalid_fields
from callsd_daemon.domain.languages import LANGUAGES


MODEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# Control characters have no place in names, prompts or paths; line breaks only in prompts.
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
CONTROL_IN_PROMPT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

MAX_SPEAKER_CHARACTERS = 200
MAX_LABEL_CHARACTERS = 256

_LABEL_KEY = re.compile(r"[a-z0-9._-]{1,63}")


class Problems:
    """Collects what is wrong with a request. `is_preview`: one that creates nothing."""

    def __init__(self, *, is_preview: bool = False) -> None:
        self.is_preview = is_preview
        self._found: list[tuple[str, str]] = []

    def add(self, field: str, problem: str) -> None:
        """Note a problem."""
        self._found.append((field, problem))

    def text(self, field: str, value: str, limit: int, bad: re.Pattern[str] = CONTROL) -> str:
        """Check a string's length and characters."""
        if len(value) > limit:
            self.add(field, f"has {len(value)} characters, at most {limit} are allowed")
        elif bad.search(value):
            self.add(field, "holds control characters")
        return value

    def language(self, field: str, value: str) -> str:
        """Check a language code."""
        if value and value not in LANGUAGES:
            self.add(field, f'"{value[:20]}" is no language code we know, such as "en" or "de"')
        return value

    def model(self, field: str, value: str) -> None:
        """Check a model's name, if there is one."""
        if value and not MODEL.fullmatch(value):
            self.add(field, "must be a model's name: see ListModels")

    def label(self, field: str, key: str, value: str) -> None:
        """Check a label."""
        if not _LABEL_KEY.fullmatch(key):
            self.add(field, f'key "{key[:80]}" must be 1 to 63 of a-z 0-9 . _ -')
        self.text(f"{field}[{key[:63]}]", value, MAX_LABEL_CHARACTERS)

    def uuid(self, field: str, value: str) -> None:
        """Check a UUID."""
        try:
            valid = str(uuid.UUID(value)) == value
        except ValueError:
            valid = False
        if not valid:
            self.add(field, "must be a UUID in lower case with hyphens")

    def seconds(self, field: str, value: Duration, low: float, high: float) -> float:
        """Check a duration."""
        seconds = value.seconds + value.nanos / 1e9
        if not low <= seconds <= high:
            self.add(field, f"is {seconds:g} s, must be {low:g} to {high:g}")
        return seconds

    def raise_any(self) -> None:
        """Raise FIELD_INVALID with all that was found."""
        if self._found:
            raise invalid_fields(self._found)
