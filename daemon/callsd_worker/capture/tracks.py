# SPDX-License-Identifier: Apache-2.0
"""Makes a file of each track that was captured, after the call."""

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from callsd_ipc.opus import OPUS_RATE_HZ
from callsd_worker.capture.call import Speaker
from callsd_worker.capture.log_reader import Damage, read
from callsd_worker.capture.ogg import OggOpusWriter
from callsd_worker.capture.packet_log import Record, RecordingStart, TrackInfo, file_name, numbers
from callsd_worker.capture.timeline import PlacedPacket, place
from callsd_worker.files import written_whole


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedTrack:
    """A track of a call."""

    number: int
    """Of its log."""
    file_name: str
    """Among the artifacts; empty: there is none, and `problem` says why."""
    track_id: str
    session_id: str
    user_id: str
    name: str
    """Each of these is empty if it is not known."""
    start_seconds: float
    """Unix time of the file's first sample, by the clock of the machine that captured it."""
    duration_seconds: float
    problem: str
    """For a person: what of it was lost; empty: nothing."""
    error: Exception | None
    """What kept its file from being made."""
    recording_start_seconds: float | None
    """Unix time at which the server began the recording; None: it was never told."""


def finish(directory: Path, artifacts: Path) -> list[CapturedTrack]:
    """Write the sound of all logs in `directory` into `artifacts`, each file whole or not at all.

    Each begins with its own first sound. What goes wrong with one track is told there, and the
    others are made. A log without any sound and without a problem is left out. May be repeated,
    with the same result.

    Raises OSError if one of the directories cannot be used.
    """
    artifacts.mkdir(exist_ok=True)
    tracks = []
    for number in numbers(directory):
        track = _finish(directory / file_name(number), artifacts, number)
        if track is not None:
            tracks.append(track)
    return tracks


@dataclass(slots=True)
class _Facts:
    """Learned of a track on the way."""

    track_id: str = ""
    speaker: Speaker = field(default_factory=lambda: Speaker(session_id=""))
    recording_start_seconds: float | None = None


def _finish(source: Path, artifacts: Path, number: int) -> CapturedTrack | None:
    facts, damage = _Facts(), Damage()
    target = artifacts / f"{source.stem}.ogg"
    file, first, samples, problem = "", 0, 0, ""
    failed: Exception | None = None
    try:
        placed = place(_learn(read(source, damage), facts), zero_seconds=0.0)
        head = next(placed, None)
        if head is not None:
            first = head.position
            samples = _write(target, itertools.chain([head], placed), serial=number)
            file = target.name
    except OSError as error:
        failed = error
        problem = f"its sound could not be saved ({error.strerror or error}); free some space"
        log.warning("%s: %s", source.name, problem)
    except Exception as error:
        failed = error
        problem = "its sound could not be saved, by a mistake of this program; see the worker's log"
        log.exception("%s", source.name)
    if not problem and damage.size_bytes:
        problem = f"{damage.size_bytes} bytes of what was captured were damaged on the disk"
    if not file and not problem:
        return None
    return CapturedTrack(
        number=number,
        file_name=file,
        track_id=facts.track_id,
        session_id=facts.speaker.session_id,
        user_id=facts.speaker.user_id,
        name=facts.speaker.name,
        start_seconds=first / OPUS_RATE_HZ if file else 0.0,
        duration_seconds=samples / OPUS_RATE_HZ,
        problem=problem,
        error=failed,
        recording_start_seconds=facts.recording_start_seconds,
    )


def _learn(records: Iterator[Record], facts: _Facts) -> Iterator[Record]:
    for record in records:
        if isinstance(record, TrackInfo):
            facts.track_id, facts.speaker = record.track_id, record.speaker
        elif isinstance(record, RecordingStart):
            facts.recording_start_seconds = record.time_seconds
        else:
            yield record


def _write(target: Path, packets: Iterator[PlacedPacket], *, serial: int) -> int:
    """Write a file, sync and rename it; returns its length in samples. Raises OSError."""
    with written_whole(target) as file:
        writer = OggOpusWriter(file, serial=serial)
        for packet in packets:
            writer.add(packet)
        writer.close()
    return writer.samples
