# SPDX-License-Identifier: Apache-2.0
"""The closed list of reasons and the one exception that carries them."""

from collections.abc import Mapping
from enum import StrEnum


class Reason(StrEnum):
    """Why a request was refused or a job failed; the values of `callsd.v1.ErrorReason`."""

    INTERNAL = "INTERNAL"
    FIELD_INVALID = "FIELD_INVALID"
    TOKEN_MISSING = "TOKEN_MISSING"  # noqa: S105 - a reason, not a secret
    TOKEN_INVALID = "TOKEN_INVALID"  # noqa: S105 - a reason, not a secret
    SCOPE_MISSING = "SCOPE_MISSING"
    PATH_FORBIDDEN = "PATH_FORBIDDEN"
    JOB_NOT_FOUND = "JOB_NOT_FOUND"
    ARTIFACT_NOT_FOUND = "ARTIFACT_NOT_FOUND"
    UPLOAD_NOT_FOUND = "UPLOAD_NOT_FOUND"
    MEDIA_NOT_FOUND = "MEDIA_NOT_FOUND"
    JOB_STATE_CONFLICT = "JOB_STATE_CONFLICT"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    ETAG_MISMATCH = "ETAG_MISMATCH"
    UPLOAD_INCOMPLETE = "UPLOAD_INCOMPLETE"
    UPLOAD_MISMATCH = "UPLOAD_MISMATCH"
    UPLOAD_TOO_LARGE = "UPLOAD_TOO_LARGE"
    REVISION_COMPACTED = "REVISION_COMPACTED"
    REVISION_UNKNOWN = "REVISION_UNKNOWN"
    SLOW_CONSUMER = "SLOW_CONSUMER"
    CPU_EXHAUSTED = "CPU_EXHAUSTED"
    MEMORY_EXHAUSTED = "MEMORY_EXHAUSTED"
    DISK_EXHAUSTED = "DISK_EXHAUSTED"
    SLOTS_EXHAUSTED = "SLOTS_EXHAUSTED"
    QUEUE_FULL = "QUEUE_FULL"
    STREAMS_EXHAUSTED = "STREAMS_EXHAUSTED"
    CANNOT_FIT = "CANNOT_FIT"
    KIND_UNAVAILABLE = "KIND_UNAVAILABLE"
    MODEL_UNKNOWN = "MODEL_UNKNOWN"
    MODEL_MISSING = "MODEL_MISSING"
    MODEL_INVALID = "MODEL_INVALID"
    SOURCE_UNAVAILABLE = "SOURCE_UNAVAILABLE"
    LANGUAGE_UNSUPPORTED = "LANGUAGE_UNSUPPORTED"
    ENGINE_UNAVAILABLE = "ENGINE_UNAVAILABLE"
    INPUT_INVALID = "INPUT_INVALID"
    DRAINING = "DRAINING"
    DISK_FULL = "DISK_FULL"
    WORKER_KILLED = "WORKER_KILLED"
    WORKER_START_TIMEOUT = "WORKER_START_TIMEOUT"
    WORKER_UNRESPONSIVE = "WORKER_UNRESPONSIVE"
    CRASH_LOOP = "CRASH_LOOP"
    MAX_DURATION_EXCEEDED = "MAX_DURATION_EXCEEDED"
    HOST_REBOOT = "HOST_REBOOT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    UPLOAD_BUSY = "UPLOAD_BUSY"
    OFFSET_INVALID = "OFFSET_INVALID"
    STREAM_REPLACED = "STREAM_REPLACED"
    CAPTURE_UNAVAILABLE = "CAPTURE_UNAVAILABLE"
    PAGE_UNAVAILABLE = "PAGE_UNAVAILABLE"
    RECORDING_LOST = "RECORDING_LOST"
    CALL_UNAVAILABLE = "CALL_UNAVAILABLE"
    DATABASE_DAMAGED = "DATABASE_DAMAGED"


class CallsdError(Exception):
    """A refusal with a reason from the closed list.

    `message` is for a person and says what to do; `metadata` holds the same facts for a program.
    `violations` are (field path, what is wrong) for FIELD_INVALID.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: tuple[tuple[str, str], ...] = (),
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = violations
        self.retry_after_seconds = retry_after_seconds


def invalid_fields(violations: list[tuple[str, str]]) -> CallsdError:
    """One error that names every invalid field, so that a caller repairs all of them at once."""
    summary = "; ".join(f"{field}: {problem}" for field, problem in violations)
    return CallsdError(Reason.FIELD_INVALID, summary, violations=tuple(violations))
