# SPDX-License-Identifier: Apache-2.0
"""Reads what `packet_log` has written, and trusts none of it."""

import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from callsd_worker.capture.call import Packet, SenderReport, Speaker
from callsd_worker.capture.packet_log import (
    CHECKED,
    HEAD,
    MAGIC,
    MAX_BODY_BYTES,
    MAX_LOG_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_TEXT_CHARACTERS,
    PACKET_BODY,
    REPORT_BODY,
    START_BODY,
    Kind,
    Mark,
    Record,
    RecordingStart,
    TrackInfo,
)
from callsd_worker.files import open_regular


MAX_UNIX_SECONDS = float(1 << 33)
"""The year 2242."""

_READ_BYTES = 256 * 1024
_PACKET_KIND = Kind.PACKET.value
_SUMMED_FROM = HEAD.size - CHECKED.size


@dataclass(slots=True)
class Damage:
    """What a reader had to leave out."""

    size_bytes: int = 0
    """Not counted is what is missing at the end, as the writer may have been killed."""


def read(path: Path, damage: Damage | None = None) -> Iterator[Record]:
    """The records of a log, in order; damaged ones are left out.

    Raises OSError if it cannot be opened or is no regular file.
    """
    with open_regular(path) as file:
        yield from _records(file, damage or Damage())


def _records(file: BinaryIO, damage: Damage) -> Iterator[Record]:
    data = b""
    doubtful_bytes = 0
    left_bytes = MAX_LOG_BYTES
    while True:
        more = file.read(min(_READ_BYTES, left_bytes))
        left_bytes -= len(more)
        data += more
        at = 0
        while True:
            end = _end_of_record(data, at)
            if end is None and more:
                break  # the rest of it may be in what is read next
            if end is None or end < 0:
                following = data.find(MAGIC, at + 1)
                if following < 0:
                    # The last byte may be the first one of the next record.
                    following = max(len(data) - (1 if more else 0), at)
                doubtful_bytes += following - at
                at = following
                if len(data) - at < len(MAGIC):
                    break
                continue
            damage.size_bytes += doubtful_bytes
            doubtful_bytes = 0
            record = _record(data, at, end)
            if record is not None:
                yield record
            at = end
        if not more:
            return
        data = data[at:]


def _end_of_record(data: bytes, at: int) -> int | None:
    """Where the whole record at this place ends; None: data ends before it does; < 0: no record."""
    if len(data) - at < HEAD.size:
        return None
    magic, checksum, length, _ = HEAD.unpack_from(data, at)
    if magic != MAGIC or length > MAX_BODY_BYTES:
        return -1
    end = at + HEAD.size + int(length)
    if end > len(data):
        return None
    return end if zlib.crc32(data[at + _SUMMED_FROM : end]) == checksum else -1


def _record(data: bytes, at: int, end: int) -> Record | None:
    """A record whose checksum is right; None: it says nothing, or what cannot be."""
    kind, begin = data[at + HEAD.size - 1], at + HEAD.size
    if kind == _PACKET_KIND:
        return _packet(data, begin, end)
    body = data[begin:end]
    match kind:
        case Kind.REPORT.value:
            return _report(body)
        case Kind.TRACK.value:
            return _track(body)
        case Kind.RECORDING_START.value:
            return _start(body)
        case Kind.MUTED.value | Kind.ENDED.value:
            return Mark(kind)
        case _:
            return None


def _packet(data: bytes, begin: int, end: int) -> Packet | None:
    if not PACKET_BODY.size <= end - begin <= PACKET_BODY.size + MAX_PAYLOAD_BYTES:
        return None
    sequence, timestamp, arrival = PACKET_BODY.unpack_from(data, begin)
    if not _is_time(arrival):
        return None
    payload = data[begin + PACKET_BODY.size : end]
    return Packet(sequence=sequence, timestamp=timestamp, payload=payload, arrival_seconds=arrival)


def _report(body: bytes) -> SenderReport | None:
    if len(body) != REPORT_BODY.size:
        return None
    timestamp, ntp, arrival = REPORT_BODY.unpack(body)
    if not (_is_time(ntp) and _is_time(arrival)):
        return None
    return SenderReport(timestamp=timestamp, ntp_seconds=ntp, arrival_seconds=arrival)


def _start(body: bytes) -> RecordingStart | None:
    if len(body) != START_BODY.size:
        return None
    (start,) = START_BODY.unpack(body)
    return RecordingStart(time_seconds=start) if _is_time(start) else None


def _is_time(seconds: float) -> bool:
    return math.isfinite(seconds) and 0 <= seconds < MAX_UNIX_SECONDS


def _track(body: bytes) -> TrackInfo | None:
    try:
        facts = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(facts, dict):
        return None
    texts = [facts.get(key, "") for key in ("track_id", "session_id", "user_id", "name")]
    if not all(isinstance(text, str) and len(text) <= MAX_TEXT_CHARACTERS for text in texts):
        return None
    # Half a character is text to JSON, but to nobody else.
    track_id, session_id, user_id, name = (text.encode(errors="replace").decode() for text in texts)
    return TrackInfo(
        track_id=track_id, speaker=Speaker(session_id=session_id, user_id=user_id, name=name)
    )
