# SPDX-License-Identifier: Apache-2.0
"""What a request or a job was refused with, and a note of every reason that a test has seen."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import pytest

from callsd import CallsdError
from callsd._errors import error_from_rpc
from callsd.v1.error_pb2 import ErrorReason
from callsd.v1.job_pb2 import JOB_STATE_FAILED, Job, JobState


PREFIX = "ERROR_REASON_"

ALL = frozenset(name.removeprefix(PREFIX) for name in list(ErrorReason.keys())) - {"UNSPECIFIED"}

SEEN: set[str] = set()
"""Reasons produced within the current test; what its `reason` markers promise is held to this."""


class Refusal:
    """What `refused` has caught."""

    error: CallsdError


@contextmanager
def refused(reason: str, code: grpc.StatusCode | None = None) -> Iterator[Refusal]:
    """The block ends with a gRPC error that carries this reason (and has this code)."""
    refusal = Refusal()
    with pytest.raises((grpc.RpcError, CallsdError)) as caught:
        yield refusal
    error = caught.value
    if isinstance(error, grpc.RpcError):
        error = error_from_rpc(error)
    assert isinstance(error, CallsdError)
    refusal.error = error
    assert refusal.error.reason == reason, refusal.error
    assert refusal.error.message
    if code is not None:
        assert refusal.error.code is code
    SEEN.add(reason)


def status(call: Callable[[], object]) -> grpc.StatusCode:
    """The code with which a request ends."""
    try:
        call()
    except grpc.RpcError as error:
        return error_from_rpc(error).code
    return grpc.StatusCode.OK


def failure(job: Job) -> str:
    """The reason with which a job has failed."""
    assert job.state == JOB_STATE_FAILED, JobState.Name(job.state)
    reason = ErrorReason.Name(job.failure.reason).removeprefix(PREFIX)
    assert job.failure.message
    SEEN.add(reason)
    return reason


def waiting_for(job: Job) -> str:
    """What a queued job waits for."""
    reason = ErrorReason.Name(job.waiting_for).removeprefix(PREFIX)
    SEEN.add(reason)
    return reason
