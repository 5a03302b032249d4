# SPDX-License-Identifier: Apache-2.0
"""Typed errors."""

import grpc
import pytest

from callsd import (
    AccessError,
    AsyncClient,
    CallsdError,
    CapacityError,
    Client,
    ConflictError,
    DeadlineError,
    FieldViolation,
    IntegrityError,
    InvalidRequestError,
    NotFoundError,
    OutOfRangeError,
    UnavailableError,
)
from callsd.v1.transcription_pb2 import TranscriptionSpec
from callsd_daemon.domain.errors import Reason
from callsd_daemon.rpc.status import CODES
from tests.clients.scripted import Scripted


KINDS = [
    (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID", InvalidRequestError),
    (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND", NotFoundError),
    (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING", AccessError),
    (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING", AccessError),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "CPU_EXHAUSTED", CapacityError),
    (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_MISSING", ConflictError),
    (grpc.StatusCode.ABORTED, "ETAG_MISMATCH", ConflictError),
    (grpc.StatusCode.OUT_OF_RANGE, "REVISION_COMPACTED", OutOfRangeError),
    (grpc.StatusCode.UNAVAILABLE, "DRAINING", UnavailableError),
    (grpc.StatusCode.DATA_LOSS, "DATABASE_DAMAGED", IntegrityError),
    (grpc.StatusCode.INTERNAL, "INTERNAL", CallsdError),
]


class TestErrorFromRpc:
    """What a refusal becomes."""

    @pytest.mark.parametrize(("code", "reason", "kind"), KINDS)
    def test_class_follows_the_status(
        self,
        client: Client,
        scripted: Scripted,
        code: grpc.StatusCode,
        reason: str,
        kind: type[CallsdError],
    ) -> None:
        """Each status has its class, and the reason is in the error."""
        scripted.jobs.refusals = [{"code": code, "reason": reason}]

        with pytest.raises(CallsdError) as caught:
            client.stop_job("a")

        assert type(caught.value) is kind
        assert (caught.value.code, caught.value.reason) == (code, reason)
        assert caught.value.message == f"refused: {reason}"

    async def test_asyncio_errors_are_the_same(self, scripted: Scripted) -> None:
        """An asyncio call's error carries as much as a blocking call's."""
        scripted.jobs.refusals = [
            {
                "code": grpc.StatusCode.RESOURCE_EXHAUSTED,
                "reason": "CPU_EXHAUSTED",
                "metadata": {"required": "2", "available": "0.5"},
                "retry_after_seconds": 1.5,
            }
        ]
        async with AsyncClient(scripted.address) as client:
            with pytest.raises(CapacityError) as caught:
                await client.stop_job("a")

        assert (caught.value.required, caught.value.available) == (2.0, 0.5)
        assert caught.value.retry_after_seconds == 1.5

    def test_all_field_violations_are_there(self, client: Client, scripted: Scripted) -> None:
        """A caller can repair all fields at once."""
        scripted.jobs.refusals = [
            {
                "code": grpc.StatusCode.INVALID_ARGUMENT,
                "reason": "FIELD_INVALID",
                "violations": {"job.labels": "too many", "job.spec": "missing"},
            }
        ]
        with pytest.raises(InvalidRequestError) as caught:
            client.create_job(TranscriptionSpec())

        assert caught.value.field_violations == (
            FieldViolation(field="job.labels", description="too many"),
            FieldViolation(field="job.spec", description="missing"),
        )

    def test_grpc_s_own_exhaustion_is_no_lack_of_capacity(
        self, client: Client, scripted: Scripted
    ) -> None:
        """RESOURCE_EXHAUSTED without our ErrorInfo (a message too large) is no CapacityError."""
        scripted.jobs.refusals = [{"code": grpc.StatusCode.RESOURCE_EXHAUSTED}]

        with pytest.raises(CallsdError) as caught:
            client.stop_job("a")

        assert type(caught.value) is CallsdError
        assert caught.value.reason == ""

    def test_another_service_s_reason_is_not_ours(self, client: Client, scripted: Scripted) -> None:
        """A proxy's ErrorInfo is not mistaken for callsd's."""
        scripted.jobs.refusals = [
            {"code": grpc.StatusCode.NOT_FOUND, "reason": "JOB_NOT_FOUND", "domain": "proxy"}
        ]
        with pytest.raises(NotFoundError) as caught:
            client.stop_job("a")

        assert caught.value.reason == ""

    def test_nobody_there(self) -> None:
        """An address where nobody listens is an UnavailableError without a reason."""
        with (
            Client("unix:/tmp/callsd-nobody.sock") as client,
            pytest.raises(UnavailableError) as caught,
        ):
            client.get_job("a")

        assert caught.value.reason == ""

    def test_every_unary_call_has_a_deadline(self, scripted: Scripted) -> None:
        """A server that never answers does not hold a caller who gave no deadline."""
        with Client(scripted.address, timeout_seconds=0.2) as client, pytest.raises(DeadlineError):
            client.get_server_info()

    @pytest.mark.parametrize("reason", sorted(CODES))
    def test_every_refusal_has_a_class_of_its_own(self, reason: Reason) -> None:
        """No reason but INTERNAL reaches a program as the bare base class."""
        kinds = {code.value[0]: kind for code, _, kind in KINDS}

        assert (kinds[CODES[reason]] is CallsdError) == (reason is Reason.INTERNAL)
