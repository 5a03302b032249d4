# SPDX-License-Identifier: Apache-2.0
"""The exception of this package, with reasons from a closed list."""

from enum import StrEnum


class Reason(StrEnum):
    """Why a page cannot be recorded."""

    CAPTURE_UNAVAILABLE = "CAPTURE_UNAVAILABLE"
    """A program is missing, or cannot be started."""
    FIELD_INVALID = "FIELD_INVALID"
    """An expression is no JavaScript."""
    PAGE_UNAVAILABLE = "PAGE_UNAVAILABLE"
    """The page did not load, or did not become ready."""
    RECORDING_LOST = "RECORDING_LOST"
    """Nothing was recorded, or what was recorded cannot be read."""
    CANCELLED = "CANCELLED"
    """Stopped before anything was recorded."""


class RecordingError(Exception):
    """A recording that cannot be made; `message` says what to do about it."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
