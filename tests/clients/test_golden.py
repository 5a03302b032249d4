# SPDX-License-Identifier: Apache-2.0
"""Messages as released clients and servers wrote them."""

import base64
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pool import Default
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass

import callsd.v1
from tests.helpers.daemon import ROOT


FILES = sorted((ROOT / "proto" / "releases").glob("*.golden.jsonl"))

for _path in Path(callsd.v1.__path__[0]).glob("*_pb2.py"):
    importlib.import_module(f"callsd.v1.{_path.stem}")


def entries() -> Iterator[Any]:
    """All of all releases."""
    for path in FILES:
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            yield pytest.param(entry, id=f"{path.name.partition('.golden')[0]}-{entry['message']}")


@pytest.mark.parametrize("entry", list(entries()))
def test_old_bytes_mean_what_they_meant(entry: dict[str, Any]) -> None:
    """What an earlier release wrote is read as it was meant, and written again loses nothing."""
    kind = GetMessageClass(Default().FindMessageTypeByName(entry["message"]))
    written = base64.b64decode(entry["bytes"])
    message = kind.FromString(written)
    assert MessageToDict(message) == entry["json"]
    assert ParseDict(entry["json"], kind()) == message
    assert kind.FromString(message.SerializeToString()) == message


def test_each_release_is_there() -> None:
    """Each release whose API was frozen has its messages, of every type that it had."""
    assert {path.name.removesuffix(".golden.jsonl") for path in FILES} == {
        path.stem for path in (ROOT / "proto" / "releases").glob("*.binpb")
    }
