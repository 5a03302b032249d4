# SPDX-License-Identifier: Apache-2.0
"""Whatever is sent, the answer is a documented one."""

import string
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callsd._errors import error_from_rpc
from callsd.v1.job_pb2 import CreateJobRequest
from callsd_daemon.rpc.public import SERVICES
from tests.conftest import StartDaemon
from tests.helpers.api import Api
from tests.helpers.daemon import Daemon
from tests.helpers.invariants import assert_invariants
from tests.helpers.reasons import ALL


EXAMPLES = 600
"""For each method; half as many of bytes that are no message. All of it takes half a minute."""

QUIETLY = settings(
    deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)

DEPTH = 4
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

NAMES = st.sampled_from(
    [
        *("jobs/0123456789abcdef0123", "jobs/x", "uploads/6f1c1b1e-7a7e-4b44-8a3c-2f1f3b0f5a10"),
        *("jobs/0123456789abcdef0123/artifacts/a.vtt", "/etc/passwd", "/", "../..", "tiny.test"),
        *("en", "xx", "concat:/etc/passwd", "http://127.0.0.1/", "-rf", "\0", "a\nb", "\ud7ff"),
    ]
)

_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
}


def scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Values of one field that is no message; small and large ones."""
    if field.cpp_type in _INTEGERS:
        low, high = _INTEGERS[field.cpp_type]
        return st.integers(0, 5) | st.integers(low, high) | st.sampled_from([low, high])
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return st.floats()
        case _ if field.type == FieldDescriptor.TYPE_BYTES:
            return st.binary(max_size=64)
        case _:
            text = st.text(st.characters(codec="utf-8"), max_size=40)
            return NAMES | text | st.text(string.ascii_lowercase, min_size=300, max_size=2500)


def messages(kind: Descriptor, depth: int = DEPTH) -> st.SearchStrategy[Message]:
    """Messages of one type, with any of their fields."""
    fields = {
        field.name: values(field, depth)
        for field in kind.fields
        if field.message_type is None or depth
    }

    def build(chosen: dict[str, Any]) -> Message:
        message = GetMessageClass(kind)()
        for name, value in chosen.items():
            _set(message, name, value)
        return message

    return st.fixed_dictionaries({}, optional=fields).map(build)


def values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    """Values of one field, whatever it is."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        return st.dictionaries(scalars(key), scalars(value), max_size=3)
    one = scalars(field) if field.message_type is None else messages(field.message_type, depth - 1)
    return st.lists(one, max_size=3) if field.is_repeated else one


def _set(message: Message, name: str, value: Any) -> None:
    field = getattr(message, name)
    if isinstance(value, dict):
        field.update(value)
    elif isinstance(value, list):
        field.extend(value)
    elif isinstance(value, Message):
        field.CopyFrom(value)
    else:
        setattr(message, name, value)


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
