# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies for any message that a protocol has words for."""

import string
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st


DEPTH = 4

Scalars = Callable[[FieldDescriptor], st.SearchStrategy[Any]]
"""What a field that is no message may have."""

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


def messages(
    kind: Descriptor, depth: int = DEPTH, *, scalars: Scalars = scalars
) -> st.SearchStrategy[Message]:
    """Messages of one type, with any of their fields."""
    fields = {
        field.name: _values(field, depth, scalars)
        for field in kind.fields
        if field.message_type is None or depth
    }

    def build(chosen: dict[str, Any]) -> Message:
        message = GetMessageClass(kind)()
        for name, value in chosen.items():
            _set(message, name, value)
        return message

    return st.fixed_dictionaries({}, optional=fields).map(build)


def _values(field: FieldDescriptor, depth: int, scalars: Scalars) -> st.SearchStrategy[Any]:
    """Values of one field, whatever it is."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        return st.dictionaries(scalars(key), scalars(value), max_size=3)
    if field.message_type is None:
        one = scalars(field)
    else:
        one = messages(field.message_type, depth - 1, scalars=scalars)
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
