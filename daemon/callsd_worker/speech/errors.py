# SPDX-License-Identifier: Apache-2.0
"""The exception of this package, with reasons from a closed list."""

from enum import StrEnum
from pathlib import Path


class SpeechReason(StrEnum):
    """Why speech work cannot be done."""

    INPUT_INVALID = "INPUT_INVALID"
    MODEL_INVALID = "MODEL_INVALID"
    MODEL_MISSING = "MODEL_MISSING"
    ENGINE_UNAVAILABLE = "ENGINE_UNAVAILABLE"
    LANGUAGE_UNSUPPORTED = "LANGUAGE_UNSUPPORTED"
    CANCELLED = "CANCELLED"


class SpeechError(Exception):
    """Work on speech that cannot be done; `message` says what to do about it."""

    def __init__(self, reason: SpeechReason, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


def require_file(path: Path) -> None:
    """Raises SpeechError MODEL_MISSING if a file of a model is not there."""
    if not path.is_file():
        raise SpeechError(
            SpeechReason.MODEL_MISSING, f"{path}: no such file; pull the model to get it"
        )
