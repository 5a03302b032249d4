# SPDX-License-Identifier: Apache-2.0
"""Typed exceptions, made from a gRPC status and its details.

callsd answers each refusal with a `google.rpc.ErrorInfo` whose reason is a name of
`callsd.v1.ErrorReason` without its prefix. The exception's class follows the status code, so that
a reason newer than this client is still caught by the right `except`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status


DOMAIN = "callsd"


class SettingsError(ValueError):
    """The client's own settings are wrong: an address, a token file, a certificate file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldViolation:
    """One invalid field of a request."""

    field: str
    """Path of the field, such as `job.transcription.tracks[0].speaker`."""
    description: str
    """What is wrong with it, for a person."""


class CallsdError(Exception):
    """A request that did not succeed.

    Attributes:
        code: gRPC status code.
        reason: Name from `callsd.v1.ErrorReason` without its prefix; empty when the error comes
            from gRPC itself, not from callsd.
        message: What happened and what to do, for a person.
        metadata: The facts in the message, for a program.
        retry_after_seconds: When it makes sense to try again, if the server said so.
        field_violations: All invalid fields of the request.
    """

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode,
        reason: str = "",
        metadata: Mapping[str, str] = MappingProxyType({}),
        retry_after_seconds: float | None = None,
        field_violations: tuple[FieldViolation, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata = metadata
        self.retry_after_seconds = retry_after_seconds
        self.field_violations = field_violations

    def __str__(self) -> str:
        return f"{self.message} [{self.reason or self.code.name}]"


class InvalidRequestError(CallsdError):
    """The request is wrong in itself; `field_violations` lists what."""


class NotFoundError(CallsdError):
    """There is no such job, artifact, upload or file."""


class AccessError(CallsdError):
    """The token is missing, unknown or expired, or its scopes do not cover this."""


class CapacityError(CallsdError):
    """The machine, or a limit set on it, has no room for this now."""

    @property
    def required(self) -> float | None:
        """How much it takes; the unit is that of the reason's resource: cores or bytes."""
        return _number(self.metadata.get("required"))

    @property
    def available(self) -> float | None:
        """How much there is, in the unit of `required`."""
        return _number(self.metadata.get("available"))


class ConflictError(CallsdError):
    """Things are not in the state that this needs: a job, an etag, a model, an upload."""


class OutOfRangeError(CallsdError):
    """A revision or an offset lies outside what the server has."""


class UnavailableError(CallsdError):
    """The server cannot be reached, or is shutting down."""


class DeadlineError(CallsdError):
    """The time given to the request has passed; what it asked for may still happen."""


class IntegrityError(CallsdError):
    """Bytes are not what they were: those that arrived, or those of the server's database."""


_CLASSES: Mapping[grpc.StatusCode, type[CallsdError]] = MappingProxyType(
    {
        grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
        grpc.StatusCode.NOT_FOUND: NotFoundError,
        grpc.StatusCode.UNAUTHENTICATED: AccessError,
        grpc.StatusCode.PERMISSION_DENIED: AccessError,
        grpc.StatusCode.RESOURCE_EXHAUSTED: CapacityError,
        grpc.StatusCode.FAILED_PRECONDITION: ConflictError,
        grpc.StatusCode.ABORTED: ConflictError,
        grpc.StatusCode.ALREADY_EXISTS: ConflictError,
        grpc.StatusCode.OUT_OF_RANGE: OutOfRangeError,
        grpc.StatusCode.UNAVAILABLE: UnavailableError,
        grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
        grpc.StatusCode.DATA_LOSS: IntegrityError,
    }
)


def error_from_rpc(error: grpc.RpcError) -> CallsdError:
    """The typed exception for what a stub raised, sync or asyncio."""
    call = cast("grpc.Call", error)  # each RpcError that a stub raises is also its call
    code = call.code()
    info, violations, retry_after_seconds = _details(call)
    kind = _CLASSES.get(code, CallsdError)
    if kind is CapacityError and info is None:
        # gRPC itself answers RESOURCE_EXHAUSTED when a message is too large: no capacity is short.
        kind = CallsdError
    return kind(
        call.details() or code.name.lower().replace("_", " "),
        code=code,
        reason=info.reason if info else "",
        metadata=MappingProxyType(dict(info.metadata) if info else {}),
        retry_after_seconds=retry_after_seconds,
        field_violations=violations,
    )


def typed_error(error: grpc.RpcError | CallsdError) -> CallsdError:
    """Whatever a request or the reading of its answers raised, as one of ours."""
    return error if isinstance(error, CallsdError) else error_from_rpc(error)


def _details(
    call: grpc.Call,
) -> tuple[error_details_pb2.ErrorInfo | None, tuple[FieldViolation, ...], float | None]:
    """What the status carries beside code and message."""
    info: error_details_pb2.ErrorInfo | None = None
    violations: tuple[FieldViolation, ...] = ()
    retry_after_seconds: float | None = None
    try:
        status = rpc_status.from_call(call)
    except ValueError:  # details that contradict the status are not ours
        status = None
    for detail in status.details if status else ():
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            candidate = error_details_pb2.ErrorInfo()
            detail.Unpack(candidate)
            info = candidate if candidate.domain == DOMAIN else info
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            detail.Unpack(bad)
            violations = tuple(
                FieldViolation(field=one.field, description=one.description)
                for one in bad.field_violations
            )
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after_seconds = retry.retry_delay.ToTimedelta().total_seconds()
    return info, violations, retry_after_seconds


def _number(text: str | None) -> float | None:
    """A number from metadata; None when absent or not one."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
