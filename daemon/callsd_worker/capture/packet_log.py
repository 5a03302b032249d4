# SPDX-License-Identifier: Apache-2.0
"""What was captured of each track, on the disk while the call goes on.

One file for each track, only ever appended to, in whole records with a checksum: whatever kills the
capture, the file can be read up to the last record that was written. See `log_reader`.
"""

import contextlib
import json
import logging
import os
import struct
import threading
import zlib
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from callsd_worker.capture.call import Packet, SenderReport, Speaker


log = logging.getLogger(__name__)

MAX_TRACKS = 256
"""Of a call; as many files stay open."""

MAX_PAYLOAD_BYTES = 1500
"""More does not come in a datagram of the Internet."""

MAX_TEXT_CHARACTERS = 256
"""Of identifiers and names; what is longer is cut."""

PACKET_SECONDS = 0.02
"""Of sound, as people send it."""

MAX_LOG_BYTES = 1 << 30
"""Of a track: more than a day of sound as people send it. More is refused."""

MAX_WAITING_BYTES = 256 * 1024
"""Of a track, until the next `flush`: a minute of sound as people send it. More is refused."""

MAGIC = b"\xc5\x9a"
"""Begins each record, so that reading can go on after damage."""

HEAD = struct.Struct("<2sIHB")
"""Magic, checksum of what follows, bytes of the body, kind."""

MAX_BODY_BYTES = 16 * 1024


class Kind(Enum):
    """Of records. Numbers stay: files may be read by later versions."""

    TRACK = 1
    PACKET = 2
    REPORT = 3
    MUTED = 4
    ENDED = 5
    RECORDING_START = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackInfo:
    """Whose sound it is. May come several times, as more is known; the last one counts."""

    track_id: str
    speaker: Speaker


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingStart:
    """By the server, the recording of the call began at this Unix time of our own clock."""

    time_seconds: float


class Mark(Enum):
    """What else happened to a track."""

    MUTED = Kind.MUTED.value
    ENDED = Kind.ENDED.value


Record = TrackInfo | Packet | SenderReport | Mark | RecordingStart

CHECKED = struct.Struct("<HB")
"""The part of the head that the checksum covers."""

PACKET_BODY = struct.Struct("<HId")
REPORT_BODY = struct.Struct("<Idd")
START_BODY = struct.Struct("<d")

_SUMMED_PACKET = struct.Struct(CHECKED.format + PACKET_BODY.format.lstrip("<"))
_PACKET_KIND = Kind.PACKET.value
_U16, _U32 = 0xFFFF, 0xFFFF_FFFF


def file_name(number: int) -> str:
    """Name of a track's log."""
    return f"track-{number:03}.packets"


def numbers(directory: Path) -> list[int]:
    """Numbers of the logs in a directory, in order."""
    names = {file_name(number): number for number in range(MAX_TRACKS)}
    present = (path.name for path in directory.iterdir())
    return sorted(names[name] for name in present if name in names)


class PacketLogs:
    """Writes the logs of a call.

    Nothing but `flush` and `close` touches the disk or raises OSError. `flush` may be called in a
    thread of its own: a disk that hangs then holds up nobody who brings packets.
    """

    def __init__(self, directory: Path) -> None:
        """In a directory with logs already, new ones get the next numbers. Raises OSError."""
        self._directory = directory
        self._next_number = max(numbers(directory), default=-1) + 1
        self._logs: dict[str, _TrackLog] = {}
        self._start = b""
        self.refused_packets = 0
        """Too large, too many of one track, or of a track that was never announced."""

    @property
    def lost_packets(self) -> int:
        """Packets with sound that could not be written."""
        return sum(track.lost_packets for track in self._logs.values())

    @property
    def lost_seconds(self) -> list[tuple[Speaker, float]]:
        """About how much sound of each track is missing in its log, where some is."""
        tracks = self._logs.values()
        return [(track.speaker, track.lost_seconds) for track in tracks if track.lost_seconds]

    def track(self, track_id: str, speaker: Speaker) -> bool:
        """Begin a track, or know more of it; returns whether there is still room for one."""
        found = self._logs.get(track_id)
        if found is None:
            if self._next_number >= MAX_TRACKS:
                return False
            found = _TrackLog(self._directory / file_name(self._next_number))
            self._next_number += 1
            self._logs[track_id] = found
            if self._start:
                found.keep(Kind.RECORDING_START, self._start)
        found.speaker = speaker
        found.keep(Kind.TRACK, _track_body(track_id, speaker))
        return True

    def packet(self, track_id: str, packet: Packet) -> None:
        """Keep a packet; one that cannot be right is refused and counted."""
        found = self._logs.get(track_id)
        payload = packet.payload
        if found is None or len(payload) > MAX_PAYLOAD_BYTES or not found.has_room:
            self.refused_packets += 1
            if found is not None and payload:
                found.refused_packets += 1
            return
        summed = _SUMMED_PACKET.pack(
            PACKET_BODY.size + len(payload),
            _PACKET_KIND,
            packet.sequence & _U16,
            packet.timestamp & _U32,
            packet.arrival_seconds,
        )
        checksum = zlib.crc32(payload, zlib.crc32(summed))
        record = b"".join((MAGIC, checksum.to_bytes(4, "little"), summed, payload))
        found.put(record, packets=1 if payload else 0)

    def sender_report(self, track_id: str, report: SenderReport) -> None:
        """Keep a report."""
        if (found := self._logs.get(track_id)) is not None and found.has_room:
            body = REPORT_BODY.pack(
                report.timestamp & _U32, report.ntp_seconds, report.arrival_seconds
            )
            found.put(_record(Kind.REPORT, body))

    def muted(self, session_id: str) -> None:
        """Note it in all tracks of this session."""
        for track in self._logs.values():
            if track.speaker.session_id == session_id and track.has_room:
                track.put(_record(Kind.MUTED, b""))

    def track_ended(self, track_id: str) -> None:
        """Note it."""
        if (found := self._logs.get(track_id)) is not None and found.has_room:
            found.put(_record(Kind.ENDED, b""))

    def recording_started(self, time_seconds: float) -> None:
        """Note it in all tracks, those that are still to come too."""
        self._start = START_BODY.pack(time_seconds)
        for track in self._logs.values():
            track.keep(Kind.RECORDING_START, self._start)

    def flush(self) -> None:
        """Write what has gathered; to be called some five times a second.

        Raises OSError once when a track cannot be written. What had gathered of it is lost then,
        nothing half written stays, and later packets are tried again.
        """
        problem: OSError | None = None
        for track in list(self._logs.values()):
            track.flush()
            if track.problem is not None:
                problem, track.problem = problem or track.problem, None
        if problem is not None:
            raise problem

    def close(self) -> None:
        """Write what has gathered, and close the files. Raises OSError as `flush`."""
        try:
            self.flush()
        finally:
            for track in self._logs.values():
                track.close()


class _TrackLog:
    """The file of one track."""

    def __init__(self, path: Path) -> None:
        self.speaker = Speaker(session_id="")
        self.lost_packets = 0
        self.refused_packets = 0
        """With sound."""
        self.problem: OSError | None = None
        """Not told yet."""
        self._path = path
        self._descriptor: int | None = None
        self._size = 0
        self._is_failing = False
        self._parts: list[bytes] = []
        self._waiting_bytes = 0
        self._waiting_packets = 0
        self._kept: dict[Kind, bytes] = {}
        """Records that are written again when they were lost with others."""
        self._is_owed = False
        """Whether one of those found no room."""
        self._gathering = threading.Lock()
        """Of what waits; held for moments."""
        self._writing = threading.Lock()
        """Of the file; held for as long as the disk takes."""

    @property
    def lost_seconds(self) -> float:
        return (self.lost_packets + self.refused_packets) * PACKET_SECONDS

    @property
    def has_room(self) -> bool:
        waiting_bytes = self._waiting_bytes
        return waiting_bytes < MAX_WAITING_BYTES and self._size + waiting_bytes < MAX_LOG_BYTES

    def keep(self, kind: Kind, body: bytes) -> None:
        record = _record(kind, body)
        with self._gathering:
            is_known = self._kept.get(kind) == record
            self._kept[kind] = record
            has_room = self.has_room
            if not (is_known or has_room):
                self._is_owed = True
        if not is_known and has_room:
            self.put(record)

    def put(self, record: bytes, *, packets: int = 0) -> None:
        with self._gathering:
            self._parts.append(record)
            self._waiting_bytes += len(record)
            self._waiting_packets += packets

    def flush(self) -> None:
        with self._writing:
            self._write_waiting()

    def _write_waiting(self) -> None:
        with self._gathering:
            if self._is_owed and self._size < MAX_LOG_BYTES:
                self._parts += self._kept.values()
            self._is_owed = False
            data, packets = b"".join(self._parts), self._waiting_packets
            self._parts.clear()
            self._waiting_bytes = self._waiting_packets = 0
        if not data:
            return
        try:
            self._append(data)
        except OSError as error:
            self.lost_packets += packets
            with self._gathering:
                kept = list(self._kept.values())
                self._parts[:0] = kept
                self._waiting_bytes += sum(len(record) for record in kept)
            if not self._is_failing:
                log.warning("%s cannot be written: %s", self._path.name, error.strerror)
                self.problem = error
            self._is_failing = True
        else:
            self._is_failing = False

    def _append(self, data: bytes) -> None:
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o600)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            # If not even this works, the reader finds the next whole record.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            self._size = os.fstat(self._descriptor).st_size
            raise
        self._size += len(data)

    def close(self) -> None:
        with self._writing:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
            self._parts.clear()


def _record(kind: Kind, body: bytes) -> bytes:
    summed = CHECKED.pack(len(body), kind.value) + body
    return MAGIC + zlib.crc32(summed).to_bytes(4, "little") + summed


def _track_body(track_id: str, speaker: Speaker) -> bytes:
    facts = {
        "track_id": track_id,
        "session_id": speaker.session_id,
        "user_id": speaker.user_id,
        "name": speaker.name,
    }
    cut = {key: text[:MAX_TEXT_CHARACTERS] for key, text in facts.items()}
    return json.dumps(cut).encode()
