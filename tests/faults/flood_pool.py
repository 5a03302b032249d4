# SPDX-License-Identifier: Apache-2.0
"""What a flood is made of: messages of the workers' contract with anything in them, by hypothesis.

They are drawn before the flood begins, as that takes longer than to send them, and lie in a file
for the worker that sends them.
"""

import base64
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from callsd_ipc.v1 import worker_pb2
from tests.helpers.anything import messages


REPORTS = 100
"""Drawn of each kind of report; each is sent again and again, among different ones."""

LARGEST_BYTES = 1024 * 1024 - 1000
"""What the daemon still takes in one message, or nearly so."""

SIZES = (10_000, 64 * 1024, 256 * 1024, LARGEST_BYTES, LARGEST_BYTES, LARGEST_BYTES + 2000)
MOST_ITEMS = 20_000

FILES = st.sampled_from(
    ["media/0", "media/1", "model/", "model/../../owner.token", "transcript.vtt", "", "\0", "/"]
)

Place = tuple[Message, Any]
"""A message and the descriptor of one of its fields."""


def draw(strategy: st.SearchStrategy[Any], count: int, chance: random.Random) -> list[Any]:
    """So many examples, or some fewer; the same ones for the same random numbers."""
    found: list[Any] = []

    @seed(chance.getrandbits(64))
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def take(example: Any) -> None:
        found.append(example)

    take()
    return found


@st.composite
def swollen(draw: st.DrawFn, strategy: st.SearchStrategy[Message]) -> Message:
    """A message of which, now and then, one text or one list is as long as a message may be."""
    message = draw(strategy)
    places = list(_places(message))
    if places and draw(st.integers(0, 9)) == 9:
        _swell(*draw(st.sampled_from(places)), draw(st.sampled_from(SIZES)))
    return message


def _places(message: Message) -> Iterator[Place]:
    """Where a message has, or could have, something that can be long."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        if field.is_repeated or field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            yield message, field
        elif field.message_type is not None and message.HasField(field.name):
            yield from _places(getattr(message, field.name))


def _swell(message: Message, field: FieldDescriptor, size_bytes: int) -> None:
    value = getattr(message, field.name)
    if not field.is_repeated:
        unit = value or ("\u202e" if isinstance(value, str) else b"\xff")
        unit_bytes = len(unit.encode() if isinstance(unit, str) else unit)
        setattr(message, field.name, unit * (size_bytes // unit_bytes))
    elif field.message_type is not None:
        item = value[0] if value else GetMessageClass(field.message_type)()
        value.extend([item] * min(MOST_ITEMS, size_bytes // (item.ByteSize() + 2)))
    else:
        value.extend([value[0] if value else "x"] * (size_bytes // 100))


def reports(kind: Descriptor, chance: random.Random) -> list[Message]:
    """What a stream may say, whatever it may say next to it; each kind of report as often."""
    (oneof,) = kind.oneofs
    found: list[Message] = [GetMessageClass(kind)()]
    for field in oneof.fields:
        assert field.message_type is not None
        for report in draw(swollen(messages(field.message_type)), REPORTS, chance):
            message = GetMessageClass(kind)()
            getattr(message, field.name).CopyFrom(report)
            found.append(message)
    return found


def requests(kind: Descriptor, chance: random.Random) -> list[Message]:
    """What a call that is about files may say."""
    return draw(swollen(messages(kind)), REPORTS, chance)


@st.composite
def ends(draw: st.DrawFn) -> worker_pb2.Outcome:
    """The outcome of work that was done; all that it says besides is anything."""
    tracks = st.lists(messages(worker_pb2.TrackOutcome.DESCRIPTOR), min_size=1, max_size=3)
    notices = st.lists(messages(worker_pb2.OutcomeNotice.DESCRIPTOR), min_size=1, max_size=3)
    outcome = worker_pb2.Outcome(
        transcription=draw(messages(worker_pb2.TranscriptionOutcome.DESCRIPTOR)),  # type: ignore[arg-type]
        recording=draw(messages(worker_pb2.RecordingOutcome.DESCRIPTOR)),  # type: ignore[arg-type]
        notices=draw(notices) * 300,  # type: ignore[arg-type]
        cpu_seconds=draw(st.floats()),
        wall_seconds=draw(st.floats()),
        peak_memory_bytes=draw(st.integers(-(2**63), 2**63 - 1)),
    )
    outcome.transcription.tracks.extend(draw(tracks) * 100)  # type: ignore[arg-type]
    return outcome


def pool(chance: random.Random) -> dict[str, list[bytes]]:
    """All that a flood is made of, by where it is sent to."""
    files = draw(FILES, 10, chance)
    reads = requests(worker_pb2.ReadFileRequest.DESCRIPTOR, chance)
    reads += [worker_pb2.ReadFileRequest(name=name) for name in files]
    sends = requests(worker_pb2.SendFileRequest.DESCRIPTOR, chance)
    sends += [
        worker_pb2.SendFileRequest(start=worker_pb2.SendFileStart(file_name=name)) for name in files
    ]
    captions = reports(worker_pb2.CaptionRequest.DESCRIPTOR, chance)
    for one in captions[::2]:
        if isinstance(one, worker_pb2.CaptionRequest) and one.HasField("news"):
            one.news.track = 1  # the first one that there is
    found: Mapping[str, Sequence[Message]] = {
        "Session": reports(worker_pb2.SessionRequest.DESCRIPTOR, chance),
        "Caption": captions,
        "ReadFile": reads,
        "SendFile": sends,
        "outcome": draw(ends(), 10, chance)[-1:],
    }
    pool = {name: [one.SerializeToString() for one in found[name]] for name in found}
    nonsense = draw(st.binary(max_size=5000), REPORTS, chance)
    return {**pool, "bytes": nonsense}


def write_pool(path: Path, chance: random.Random) -> None:
    """Draw a pool, and write it down for `flood.py`."""
    text = {
        name: [base64.b64encode(one).decode() for one in ones]
        for name, ones in pool(chance).items()
    }
    path.write_text(json.dumps(text))
