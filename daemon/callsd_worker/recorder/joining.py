# SPDX-License-Identifier: Apache-2.0
"""Joins the pieces of a recording into one file."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer, OutputContainer
from av.stream import Stream

from callsd_worker.recorder.errors import Reason, RecordingError
from callsd_worker.recorder.pieces import Piece


DATE = "creation_time"
"""What a piece says of its beginning: the Unix time that its first picture shows. Its name has the
time of its making, which is some tenths of a second earlier. It is not in `pieces`: a recorder that
was started before an upgrade has that one already when it reads this module."""

THUMBNAIL_SECONDS = 5.0
"""Time of the thumbnail in the recording: late enough to show somebody."""

THUMBNAIL_WIDTH = 640

_ROUNDED_SECONDS = Fraction(1, 1000)
"""Matroska rounds times to this. In the MP4 a packet within it follows the one before directly:
sound placed by rounded times would crack every 21 ms in players that follow them exactly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """The joined file. Times in seconds, sizes in pixels and bytes."""

    duration_seconds: float
    width: int
    height: int
    frame_rate: float
    size_bytes: int
    sha256: str
    piece_count: int
    gap_seconds: float
    start_seconds: float
    """Unix time of what is seen at the beginning."""


def join(
    pieces: Sequence[Piece], target: Path, *, on_progress: Callable[[float], None] | None = None
) -> Joined:
    """Join pieces into an MP4 file that plays while it is fetched, without encoding again.

    Each piece is placed by the clock, so that speech keeps its time; between two pieces the last
    picture stays. Incomplete packets at the end of a piece are left out. `on_progress` gets the
    seconds that are done. The file gets its name only once it is complete and on the disk. Raises
    RECORDING_LOST when there is nothing to join, OSError when the disk is full.
    """
    draft = target.with_name(f".{target.name}.part")
    joiner = _Joiner(draft, on_progress or (lambda _: None))
    try:
        for piece in pieces:
            joiner.add(piece)
        joiner.close()
        with draft.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
    except BaseException:
        joiner.abandon()
        draft.unlink(missing_ok=True)
        raise
    size_bytes = draft.stat().st_size
    draft.replace(target)
    return Joined(
        duration_seconds=joiner.end_seconds,
        width=joiner.width,
        height=joiner.height,
        frame_rate=joiner.frame_rate,
        size_bytes=size_bytes,
        sha256=digest,
        piece_count=joiner.piece_count,
        gap_seconds=joiner.gap_seconds,
        start_seconds=joiner.start_seconds,
    )


@dataclass(slots=True)
class _Track:
    """A stream of the MP4, and where it ends. Times in its own ticks."""

    stream: Stream
    tick: Fraction
    """Unit: seconds."""
    packet_ticks: int
    """Length of one packet."""
    last: int | None = None
    """Decoding time of the last packet."""


def _start_seconds(source: InputContainer, piece: Piece) -> float:
    """When the piece begins, as its encoder has noted; else when it was made."""
    try:
        return datetime.fromisoformat(source.metadata.get(DATE, "")).timestamp()
    except ValueError:
        return piece.start_seconds


class _Joiner:
    """Copies packets, one piece after the other."""

    def __init__(self, target: Path, on_progress: Callable[[float], None]) -> None:
        self.end_seconds = 0.0
        self.gap_seconds = 0.0
        self.piece_count = 0
        self.width = self.height = 0
        self.frame_rate = 0.0
        self._target = target
        self._on_progress = on_progress
        self._output: OutputContainer | None = None
        self._tracks: dict[str, _Track] = {}
        self.start_seconds = 0.0

    def add(self, piece: Piece) -> None:
        try:
            # Only Matroska: other formats were not written by our encoder.
            source = av.open(str(piece.path), format="matroska", options={"fflags": "+genpts"})
        except (av.FFmpegError, OSError):
            return  # The piece was begun, but nothing was written.
        with source:
            self._copy(source, piece)

    def _copy(self, source: InputContainer, piece: Piece) -> None:
        streams = [stream for stream in source.streams if stream.type in ("video", "audio")]
        offset: float | None = None
        start_seconds = _start_seconds(source, piece)
        for packet in _packets(source, streams):
            if self._output is None:
                self._open(streams)
                self.start_seconds = start_seconds
            if offset is None:
                # The clock may have been set back; a recording never runs backwards.
                offset = max(start_seconds - self.start_seconds, self.end_seconds)
                self.gap_seconds += offset - self.end_seconds
                self.piece_count += 1
            self._put(packet, offset)
        self._on_progress(self.end_seconds)

    def _open(self, streams: Sequence[Stream]) -> None:
        self._output = av.open(
            str(self._target), "w", format="mp4", options={"movflags": "+faststart"}
        )
        for stream in streams:
            self._tracks[stream.type] = track = _track(self._output, stream)
            track.stream.time_base = track.tick
            if isinstance(stream, av.VideoStream):
                self.width, self.height = stream.width, stream.height
                self.frame_rate = float(stream.average_rate or stream.base_rate or 0)

    def _put(self, packet: "av.Packet[Stream]", offset: float) -> None:
        track = self._tracks.get(packet.stream.type)
        base = packet.time_base
        if track is None or packet.dts is None or packet.pts is None or base is None:
            return
        dts = round((packet.dts * base + Fraction(offset).limit_denominator(1000)) / track.tick)
        if track.last is not None:
            due = track.last + track.packet_ticks
            if abs(dts - due) * track.tick <= _ROUNDED_SECONDS:
                dts = due
            if dts <= track.last:
                return
        track.last = dts
        packet.pts = dts + round((packet.pts - packet.dts) * base / track.tick)
        packet.dts = dts
        packet.duration = track.packet_ticks
        packet.time_base = track.tick
        packet.stream = track.stream
        self.end_seconds = max(self.end_seconds, float((packet.pts + packet.duration) * track.tick))
        assert self._output is not None
        self._output.mux(packet)

    def close(self) -> None:
        if self._output is None:
            raise RecordingError(
                Reason.RECORDING_LOST, "nothing was recorded: look at the job's log"
            )
        self._output.close()

    def abandon(self) -> None:
        if self._output is not None:
            with contextlib.suppress(av.FFmpegError, OSError):
                self._output.close()


def _track(output: OutputContainer, stream: Stream) -> _Track:
    added = output.add_stream_from_template(stream)
    if isinstance(stream, av.AudioStream):
        return _Track(added, Fraction(1, stream.rate), stream.codec_context.frame_size)
    assert isinstance(stream, av.VideoStream)
    packet_seconds = 1 / Fraction(stream.average_rate or stream.base_rate or 1000)
    # A thousandth of a packet can express whole milliseconds, too, at which pieces begin.
    return _Track(added, packet_seconds / 1000, 1000)


def _packets(source: InputContainer, streams: Sequence[Stream]) -> Iterator["av.Packet[Stream]"]:
    """All packets of a piece up to its end, or to where it breaks off."""
    with contextlib.suppress(av.InvalidDataError, av.EOFError):
        for packet in source.demux(list(streams)):
            if packet.size:
                yield packet


def thumbnail(recording: Path, target: Path) -> bool:
    """Write a picture of a recording as JPEG; False when it has none."""
    with av.open(str(recording)) as source:
        if not source.streams.video:
            return False
        stream = source.streams.video[0]
        seconds = float(source.duration or 0) / av.time_base
        source.seek(round(min(THUMBNAIL_SECONDS, seconds / 2) * av.time_base))
        frame = next(source.decode(stream), None)
        if frame is None:
            return False
        height = round(THUMBNAIL_WIDTH * frame.height / frame.width / 2) * 2
        small = frame.reformat(THUMBNAIL_WIDTH, height, format="yuvj420p")
    codec = av.CodecContext.create("mjpeg", "w")
    assert isinstance(codec, av.VideoCodecContext)
    codec.width, codec.height, codec.pix_fmt = THUMBNAIL_WIDTH, height, "yuvj420p"
    codec.time_base = Fraction(1, 25)
    small.pts = 0
    small.time_base = codec.time_base
    target.write_bytes(b"".join(bytes(packet) for packet in codec.encode(small)))
    return True
