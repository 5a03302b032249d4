# SPDX-License-Identifier: Apache-2.0
"""Whatever is sent, the answer is a documented one."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callsd._errors import error_from_rpc
from callsd.v1.job_pb2 import CreateJobRequest
from callsd_daemon.rpc.public import SERVICES
from tests.conftest import StartDaemon
from tests.helpers.anything import messages
from tests.helpers.api import Api
from tests.helpers.daemon import Daemon
from tests.helpers.invariants import assert_invariants
from tests.helpers.reasons import ALL


EXAMPLES = 200
"""For each method, the same ones each time; half as many of bytes that are no message."""

QUIETLY = settings(
    deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)

SECONDS = 10.0

# These would fetch from the network, or work for minutes.
SLOW = ("PullModel", "VerifyModel")

POOL = descriptor_pool.Default()
METHODS = [
    method
    for service in SERVICES
    for method in POOL.FindServiceByName(service).methods
    if method.name not in SLOW
]


@pytest.fixture(scope="module")
def fuzzed(shared_daemon: StartDaemon) -> Daemon:
    """A daemon for all of it; jobs that come about find no slot."""
    one = shared_daemon(config={"jobs": {"max_concurrent_jobs": 1, "max_queued_jobs": 100}})
    one.create(one.api(), "sleep")
    return one


def outcome(call: Callable[[], Any]) -> str:
    """The status of a request, which is checked to be a documented one."""
    try:
        call()
    except grpc.RpcError as error:
        found = error_from_rpc(error)
        assert found.code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), found
        # An endless watch runs into its deadline, which is no refusal.
        if found.code is not grpc.StatusCode.DEADLINE_EXCEEDED:
            assert found.reason in ALL - {"INTERNAL"}, found
        return found.code.name
    return "OK"


def send(api: Api, method: MethodDescriptor, payloads: list[bytes], *, is_endless: bool) -> str:
    """Send one method raw messages, and read what it answers."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    seconds = 0.02 if is_endless else SECONDS
    call = api.raw(path)
    return outcome(lambda: list(call(iter(payloads), timeout=seconds, metadata=api.metadata)))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_messages(fuzzed: Daemon, method: MethodDescriptor) -> None:
    """Any message, valid or not, gets a documented answer."""
    api = fuzzed.api()
    is_endless = method.name.startswith("Watch")

    @settings(QUIETLY, max_examples=EXAMPLES)
    @given(messages(method.input_type))
    def check(message: Message) -> None:
        send(api, method, [message.SerializeToString()], is_endless=is_endless)
        if isinstance(message, CreateJobRequest):
            # A good job with some oddities gets further than a random one.
            request = fuzzed.request()
            request.MergeFrom(message)
            send(api, method, [request.SerializeToString()], is_endless=False)

    check()
    assert_invariants(fuzzed)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_bytes(fuzzed: Daemon, method: MethodDescriptor) -> None:
    """Any bytes, and any number of messages, get a documented answer."""
    api = fuzzed.api()
    is_endless = method.name.startswith("Watch")

    most = 3 if method.client_streaming else 1

    @settings(QUIETLY, max_examples=EXAMPLES // 2)
    @given(st.lists(st.binary(max_size=200), min_size=1, max_size=most))
    def check(payloads: list[bytes]) -> None:
        send(api, method, payloads, is_endless=is_endless)

    check()
    assert_invariants(fuzzed)
