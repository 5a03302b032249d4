# SPDX-License-Identifier: Apache-2.0
"""The one place where a refusal becomes a gRPC status."""

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from callsd_daemon.domain.errors import CallsdError, Reason


DOMAIN = "callsd"

MAX_TEXT_BYTES = 256
"""Longest value of one fact, and longest name and problem of one field."""

MAX_MESSAGE_BYTES = 768
MAX_VIOLATIONS_BYTES = 2048
"""All of a status travels in headers, of which gRPC refuses some from 8 KiB on: the message once
percent-encoded, up to three times as long, and once more with the details in base64."""

CODES: dict[Reason, int] = {
    Reason.INTERNAL: code_pb2.INTERNAL,
    Reason.FIELD_INVALID: code_pb2.INVALID_ARGUMENT,
    Reason.TOKEN_MISSING: code_pb2.UNAUTHENTICATED,
    Reason.TOKEN_INVALID: code_pb2.UNAUTHENTICATED,
    Reason.SCOPE_MISSING: code_pb2.PERMISSION_DENIED,
    Reason.PATH_FORBIDDEN: code_pb2.PERMISSION_DENIED,
    Reason.JOB_NOT_FOUND: code_pb2.NOT_FOUND,
    Reason.ARTIFACT_NOT_FOUND: code_pb2.NOT_FOUND,
    Reason.UPLOAD_NOT_FOUND: code_pb2.NOT_FOUND,
    Reason.MEDIA_NOT_FOUND: code_pb2.NOT_FOUND,
    Reason.MODEL_UNKNOWN: code_pb2.NOT_FOUND,
    Reason.JOB_STATE_CONFLICT: code_pb2.FAILED_PRECONDITION,
    Reason.REQUEST_ID_REUSED: code_pb2.FAILED_PRECONDITION,
    Reason.UPLOAD_INCOMPLETE: code_pb2.FAILED_PRECONDITION,
    Reason.CANNOT_FIT: code_pb2.FAILED_PRECONDITION,
    Reason.KIND_UNAVAILABLE: code_pb2.FAILED_PRECONDITION,
    Reason.MODEL_MISSING: code_pb2.FAILED_PRECONDITION,
    Reason.MODEL_INVALID: code_pb2.FAILED_PRECONDITION,
    Reason.ENGINE_UNAVAILABLE: code_pb2.FAILED_PRECONDITION,
    Reason.UPLOAD_MISMATCH: code_pb2.INVALID_ARGUMENT,
    Reason.UPLOAD_TOO_LARGE: code_pb2.INVALID_ARGUMENT,
    Reason.LANGUAGE_UNSUPPORTED: code_pb2.INVALID_ARGUMENT,
    Reason.INPUT_INVALID: code_pb2.INVALID_ARGUMENT,
    Reason.ETAG_MISMATCH: code_pb2.ABORTED,
    Reason.SLOW_CONSUMER: code_pb2.ABORTED,
    Reason.UPLOAD_BUSY: code_pb2.ABORTED,
    Reason.STREAM_REPLACED: code_pb2.ABORTED,
    Reason.OFFSET_INVALID: code_pb2.OUT_OF_RANGE,
    Reason.REVISION_COMPACTED: code_pb2.OUT_OF_RANGE,
    Reason.REVISION_UNKNOWN: code_pb2.OUT_OF_RANGE,
    Reason.CPU_EXHAUSTED: code_pb2.RESOURCE_EXHAUSTED,
    Reason.MEMORY_EXHAUSTED: code_pb2.RESOURCE_EXHAUSTED,
    Reason.DISK_EXHAUSTED: code_pb2.RESOURCE_EXHAUSTED,
    Reason.SLOTS_EXHAUSTED: code_pb2.RESOURCE_EXHAUSTED,
    Reason.QUEUE_FULL: code_pb2.RESOURCE_EXHAUSTED,
    Reason.STREAMS_EXHAUSTED: code_pb2.RESOURCE_EXHAUSTED,
    Reason.DISK_FULL: code_pb2.RESOURCE_EXHAUSTED,
    Reason.DATABASE_DAMAGED: code_pb2.DATA_LOSS,
    Reason.SOURCE_UNAVAILABLE: code_pb2.UNAVAILABLE,
    Reason.DRAINING: code_pb2.UNAVAILABLE,
}
"""Reasons that a request can be refused with; the others only ever end a job."""


def to_status(error: CallsdError) -> status_pb2.Status:
    """The error with everything that a client can act on."""
    details: list[any_pb2.Any] = [_any(_error_info(error))]
    if error.violations:
        details.append(_any(_bad_request(error)))
    if error.retry_after_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after_seconds * 1000))
        details.append(_any(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(
        code=CODES[error.reason],
        message=_cut(error.message, MAX_MESSAGE_BYTES),
        details=details,
    )


def _error_info(error: CallsdError) -> error_details_pb2.ErrorInfo:
    metadata = {key: _cut(value, MAX_TEXT_BYTES) for key, value in error.metadata.items()}
    return error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)


def _bad_request(error: CallsdError) -> error_details_pb2.BadRequest:
    """As many of the fields as there is room for."""
    found = error_details_pb2.BadRequest()
    for field, problem in error.violations:
        found.field_violations.add(
            field=_cut(field, MAX_TEXT_BYTES), description=_cut(problem, MAX_TEXT_BYTES)
        )
        if found.ByteSize() > MAX_VIOLATIONS_BYTES:
            del found.field_violations[-1]
            break
    return found


def _cut(text: str, byte_count: int) -> str:
    return text.encode()[:byte_count].decode(errors="ignore")


def _any(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
