# SPDX-License-Identifier: Apache-2.0
"""Write a message of every type of the API, with every field set, as bytes and as JSON.

usage: python tools/golden.py FILE

One line each: {"message", "bytes" (base64), "json"}. What was written at a release is never written
anew: tests/clients/test_golden.py decodes it for ever.
"""

import base64
import importlib
import json
import sys
from pathlib import Path

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass


PACKAGE = Path(importlib.import_module("callsd.v1").__path__[0])
MAX_DEPTH = 4
"""Messages within messages within messages: deeper ones stay empty."""


def filled(kind: Descriptor, depth: int = 0) -> Message:
    """A message with a value in each field; of several that exclude each other the last one's."""
    message = GetMessageClass(kind)()
    for field in kind.fields:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            getattr(message, field.name)["key"] = "value"
        elif field.message_type is not None and depth >= MAX_DEPTH:
            continue
        elif field.is_repeated:
            getattr(message, field.name).extend([_value(field, depth), _value(field, depth)])
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(_value(field, depth))
        else:
            setattr(message, field.name, _value(field, depth))
    return message


def _value(field: FieldDescriptor, depth: int) -> object:
    if field.message_type is not None:
        return filled(field.message_type, depth + 1)
    if field.enum_type is not None:
        return field.enum_type.values[-1].number
    scalars: dict[int, object] = {
        FieldDescriptor.TYPE_BYTES: b"\x00\xff" + field.name.encode(),
        FieldDescriptor.TYPE_STRING: f"{field.name} ä",
        FieldDescriptor.TYPE_BOOL: True,
        FieldDescriptor.TYPE_DOUBLE: field.number + 0.5,
        FieldDescriptor.TYPE_FLOAT: field.number + 0.5,
    }
    return scalars.get(field.type, field.number + 100)


def main() -> None:
    """Write all of them."""
    lines = []
    for path in sorted(PACKAGE.glob("*_pb2.py")):
        module = importlib.import_module(f"callsd.v1.{path.stem}")
        for kind in module.DESCRIPTOR.message_types_by_name.values():
            message = filled(kind)
            entry = {
                "message": kind.full_name,
                "bytes": base64.b64encode(message.SerializeToString(deterministic=True)).decode(),
                "json": MessageToDict(message),
            }
            lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
    Path(sys.argv[1]).write_text("".join(lines), encoding="utf-8")
    print(f"wrote {sys.argv[1]}: {len(lines)} messages")


if __name__ == "__main__":
    main()
