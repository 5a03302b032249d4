# SPDX-License-Identifier: Apache-2.0
"""The reference of the API, made of what proto/callsd/v1 says about itself."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)


ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "callsd.v1"
TIMEOUT_SECONDS = 60

# Numbers of fields in descriptor.proto, of which the paths of comments are made.
MESSAGE, ENUM, SERVICE = 4, 5, 6
FIELD, METHOD, VALUE = 2, 2, 2

Path_ = tuple[int, ...]


def reference() -> str:
    """All services with their methods, then all messages and enums, in the order of their files."""
    files = [_File(file) for file in _files()]
    services = [line for file in files for line in file.services()]
    types = [line for file in files for line in file.types()]
    return "\n".join([*services, "## Messages", "", *types]).rstrip()


def _files() -> list[FileDescriptorProto]:
    done = subprocess.run(
        [Path(sys.executable).parent / "buf", "build", "--as-file-descriptor-set", "--output", "-"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        timeout=TIMEOUT_SECONDS,
        check=True,
    )
    found = FileDescriptorSet.FromString(done.stdout)
    return [file for file in found.file if file.package == PACKAGE]


class _File:
    """One file, with the comment of each of its parts."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file
        self._comments = {
            tuple(place.path): " ".join(place.leading_comments.split())
            for place in file.source_code_info.location
        }

    def services(self) -> Iterator[str]:
        for index, service in enumerate(self._file.service):
            yield from self._service(service, (SERVICE, index))

    def types(self) -> Iterator[str]:
        for index, message in enumerate(self._file.message_type):
            yield from self._message(message, (MESSAGE, index), "")
        for index, enum in enumerate(self._file.enum_type):
            yield from self._enum(enum, (ENUM, index), "")

    def _comment(self, path: Path_) -> str:
        return self._comments.get(path, "").replace("|", "\\|")

    def _service(self, service: ServiceDescriptorProto, path: Path_) -> Iterator[str]:
        yield from (f"## {service.name}", "", self._comment(path), "")
        for index, method in enumerate(service.method):
            asks = _link(method.input_type, many=method.client_streaming)
            answers = _link(method.output_type, many=method.server_streaming)
            yield from (f"### {method.name}", "", f"{asks} → {answers}", "")
            yield from (self._comment((*path, METHOD, index)), "")

    def _message(self, message: DescriptorProto, path: Path_, outer: str) -> Iterator[str]:
        if message.options.map_entry:
            return
        name = f"{outer}{message.name}"
        yield from (f"### {name}", "", self._comment(path), "")
        if message.field:
            yield from ("| Field | Type | |", "|---|---|---|")
        for index, field in enumerate(message.field):
            comment = self._comment((*path, FIELD, index))
            yield f"| `{field.name}` | {_type(message, field)} | {comment} |"
        yield ""
        nested_type, nested_enum = 3, 4
        for index, nested in enumerate(message.nested_type):
            yield from self._message(nested, (*path, nested_type, index), f"{name}.")
        for index, enum in enumerate(message.enum_type):
            yield from self._enum(enum, (*path, nested_enum, index), f"{name}.")

    def _enum(self, enum: EnumDescriptorProto, path: Path_, outer: str) -> Iterator[str]:
        yield from (f"### {outer}{enum.name}", "", self._comment(path), "")
        yield from ("| Value | |", "|---|---|")
        for index, value in enumerate(enum.value):
            yield f"| `{value.name}` | {self._comment((*path, VALUE, index))} |"
        yield ""


def _type(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    text = _link(field.type_name) if field.type_name else _scalar(field)
    for nested in message.nested_type:
        if nested.options.map_entry and field.type_name.endswith(f".{message.name}.{nested.name}"):
            key, value = nested.field
            return f"map of {_scalar(key)} to {_link(value.type_name) or _scalar(value)}"
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {text}"
    if field.proto3_optional:
        return f"optional {text}"
    if field.HasField("oneof_index"):
        return f"{text}, one of `{message.oneof_decl[field.oneof_index].name}`"
    return text


def _scalar(field: FieldDescriptorProto) -> str:
    return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def _link(type_name: str, *, many: bool = False) -> str:
    """A type's name; those of this API lead to where they are described."""
    name = type_name.removeprefix(f".{PACKAGE}.")
    if not name:
        return ""
    is_ours = type_name.startswith(f".{PACKAGE}.")
    text = f"[{name}](#{name.lower().replace('.', '')})" if is_ours else name.removeprefix(".")
    return f"stream of {text}" if many else text
