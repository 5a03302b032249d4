# SPDX-License-Identifier: Apache-2.0
"""Decodes the audio of any local file into blocks of 16 kHz mono, timed by the file's own clock."""

import contextlib
import functools
import logging
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.error import FFmpegError

from callsd_worker.media.clock import GAP_TOLERANCE_SECONDS, Places, Run
from callsd_worker.media.container import ENCRYPTED, MIN_SOURCE_RATE_HZ, SoundTrack
from callsd_worker.media.files import MediaError, MediaFile, Source
from callsd_worker.media.mixing import Mixer
from callsd_worker.media.sound import SAMPLE_RATE_HZ, Block, Samples


__all__ = [
    "BLOCK_SECONDS",
    "GAP_TOLERANCE_SECONDS",
    "SAMPLE_RATE_HZ",
    "AudioStream",
    "Block",
    "MediaError",
    "Samples",
    "Source",
]

log = logging.getLogger(__name__)

BLOCK_SECONDS = 10.0
"""Length of a block: large enough to amortise overhead, small in memory (0.6 MB)."""

MAX_TRACK_SECONDS = 48 * 3600.0
"""Longer tracks are cut: false times in a file must not cause endless work."""

MAX_SURPLUS_BYTES = 800
"""A tenth of a second of sound, at the least; what is less nobody misses."""

MAX_BAD_PACKETS = 1_000
"""After so many undecodable packets the rest of the file is given up."""

MAX_MEASURED_PARTS = 100
"""The length of a file of more is estimated by these."""


class AudioStream:
    """One audio track of a local file, decoded as it is iterated.

    Holds one block at a time, or what is doubtful of its clock, whatever the file's length.
    Damage after a usable beginning raises nothing; it is described in `notices`.

    Raises:
        MediaError: on opening, if nothing can be decoded from this file.
    """

    def __init__(self, source: Source, *, choice: int = 0) -> None:
        """Of several tracks in a file take the first usable one from `choice` on."""
        self.notices: list[tuple[str, str]] = []
        """(code, message) pairs, complete once the blocks are exhausted."""
        self._bad_packets = 0
        self._first_bad_seconds = 0.0
        self._is_encrypted = False
        self._clock_seconds = 0.0
        """The file's clock at the end of what was decoded last."""
        self._mixer = Mixer()
        with _as_media_error():
            self._file = MediaFile(source)
        try:
            with _as_media_error():
                self._parts = self._file.parts()
                self._track = SoundTrack(self._parts[0], choice=choice)
        except BaseException:
            self._file.close()
            raise
        self.choice = self._track.choice
        """Which one it is, in the order in which the file prefers them."""
        self.number = self._track.number
        """Which one it is in the file, from 1."""
        self.count = self._track.count
        """How many tracks of sound the file has."""
        self._places = Places(max_hole_seconds=min(self._track.max_hole_seconds, MAX_TRACK_SECONDS))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._track.close()
        self._file.close()

    @functools.cached_property
    def declared_seconds(self) -> float:
        """Length by the header, or else by its timestamps. Not trusted for allocations."""
        measured = self._parts[:MAX_MEASURED_PARTS]
        seconds = 0.0
        for part in measured:
            with (
                contextlib.suppress(MediaError),
                _as_media_error(),
                contextlib.closing(SoundTrack(replace(part, position=0))) as track,
            ):
                seconds += track.length_seconds or track.scanned_seconds()
        return seconds * self._file.size_bytes / sum(part.size_bytes for part in measured)

    @property
    def position_samples(self) -> int:
        """End of what has been decoded so far, in 16 kHz samples."""
        return self._places.position_samples

    @property
    def position_seconds(self) -> float:
        """The same by the file's clock."""
        return self.clock_seconds(self.position_samples / SAMPLE_RATE_HZ)

    def clock_seconds(self, sound_seconds: float) -> float:
        """When something in the blocks is by the file's clock, from which samples may drift away.

        For what was decoded; also after the end.
        """
        return self._places.clock_seconds(sound_seconds)

    def blocks(self) -> Iterator[Block]:
        """Yield the audio in order, each block at most `BLOCK_SECONDS` plus one packet long.

        Raises:
            MediaError: if no sample could be decoded, or all of them are NaN.
        """
        with _as_media_error():
            yield from self._blocks()
            self._conclude()

    def _blocks(self) -> Iterator[Block]:
        limit_samples = int(MAX_TRACK_SECONDS * SAMPLE_RATE_HZ)
        pending: list[Samples] = []
        start = end = 0
        for position, samples in self._placed():
            if pending and (position > end or end - start >= BLOCK_SECONDS * SAMPLE_RATE_HZ):
                yield _block(start, pending)
                pending = []
            if not pending:
                start = position
            pending.append(samples)
            end = position + samples.size
            if end > limit_samples:
                hours = MAX_TRACK_SECONDS / 3600
                self._notice("TRACK_TOO_LONG", f"cut at {hours:.0f} h; split the file")
                break
        if pending:
            yield _block(start, pending)

    def _placed(self) -> Iterator[tuple[int, Samples]]:
        for run in self._runs():
            yield from self._places.place(run)
        yield from self._places.settle()

    def _runs(self) -> Iterator[Run]:
        """The sound of all parts; the clock of each goes on where that of the last ended."""
        yield from self._runs_of_part()
        for part in self._parts[1:]:
            if self._is_given_up:
                return
            try:
                with _as_media_error():
                    track = SoundTrack(part, choice=self.choice)
            except MediaError:
                self._note_bad()
                continue
            self._track.close()
            self._track = track
            yield from self._runs_of_part()

    def _runs_of_part(self) -> Iterator[Run]:
        shift = self._clock_seconds - self._track.origin_seconds
        has_clock = self._track.has_clock
        is_first = True
        leap = 0.0
        for frame in self._frames():
            if frame.sample_rate < MIN_SOURCE_RATE_HZ:
                self._note_bad()
                continue
            if has_clock and frame.pts is not None and frame.time_base is not None:
                clock = float(frame.pts * frame.time_base) + shift
                step = clock - self._clock_seconds
                if step > GAP_TOLERANCE_SECONDS or (step < -GAP_TOLERANCE_SECONDS and not is_first):
                    for samples in self._mixer.finish():
                        yield self._run(samples, leap)
                        leap = 0.0
                    leap += step
                self._clock_seconds = clock
            is_first = False
            self._clock_seconds += frame.samples / frame.sample_rate
            for samples in self._mixer.feed(frame):
                yield self._run(samples, leap)
                leap = 0.0
        for samples in self._mixer.finish():
            yield self._run(samples, leap)
            leap = 0.0

    def _run(self, samples: Samples, leap_seconds: float) -> Run:
        return Run(samples=samples, leap_seconds=leap_seconds, end_seconds=self._clock_seconds)

    def _frames(self) -> Iterator[av.AudioFrame]:
        while not self._is_given_up:
            has_read = False
            try:
                for packet in self._track.container.demux(self._track.stream):
                    has_read = True
                    yield from self._decoded(packet)
                    if self._is_given_up:
                        return
            except FFmpegError:
                self._note_bad()
                if has_read:
                    continue  # there may be more behind what could not be read
            return

    def _decoded(self, packet: "av.Packet[av.AudioStream]") -> list[av.AudioFrame]:
        if packet.has_sidedata("encryption_info"):
            # Some decoders would make noise of it.
            self._is_encrypted = True
            self._note_bad()
            return []
        try:
            return packet.decode()
        except FFmpegError:
            self._note_bad()
            return []

    def _note_bad(self) -> None:
        if not self._bad_packets:
            self._first_bad_seconds = self._clock_seconds
        self._bad_packets += 1

    @property
    def _is_given_up(self) -> bool:
        return self._bad_packets >= MAX_BAD_PACKETS

    def _conclude(self) -> None:
        mixer = self._mixer
        if not mixer.values and self._is_encrypted:
            raise MediaError(ENCRYPTED)
        if not mixer.values:
            raise MediaError(
                "no sound could be decoded from byte 0 on; "
                "the file is empty, cut short or damaged: send it again"
            )
        if mixer.not_finite >= mixer.values:
            raise MediaError(
                "every sample is NaN or infinite; export the track again as 16-bit PCM"
            )
        if mixer.not_finite:
            self._notice("SAMPLES_CLEANED", f"{mixer.not_finite} NaN or infinite samples silenced")
        if self._bad_packets:
            kind = "encrypted (DRM)" if self._is_encrypted else "undecodable"
            self._notice(
                "INPUT_DAMAGED",
                f"{self._bad_packets} {kind} packets, the first at "
                f"{self._first_bad_seconds:.1f} s; the rest was used",
            )
        breaks = self._places.breaks_seconds
        if breaks:
            self._notice(
                "CLOCK_BROKEN",
                f"its timestamps leap where no pause can be, {len(breaks)} times, first at "
                f"{breaks[0]:.1f} s; what follows was put right behind",
            )
        self._conclude_length()

    def _conclude_length(self) -> None:
        missing_bytes = self._file.riff_missing_bytes()
        if missing_bytes:
            self._notice(
                "INPUT_TRUNCATED",
                f"ends at {self.position_seconds:.1f} s, {missing_bytes} bytes before its header "
                "says; what is there was used",
            )
        if (surplus_bytes := self._file.riff_surplus_bytes()) > MAX_SURPLUS_BYTES:
            self._notice(
                "INPUT_DAMAGED",
                f"ends at {self.position_seconds:.1f} s by its header, {surplus_bytes} bytes "
                "before the end of the file; what is behind was left out",
            )
        length = self._track.length_seconds
        if length - self.position_seconds > 1.0 and length < MAX_TRACK_SECONDS:
            self._notice(
                "INPUT_TRUNCATED",
                f"ends at {self.position_seconds:.1f} s, its header promises "
                f"{length:.1f} s; what is there was used",
            )

    def _notice(self, code: str, message: str) -> None:
        self.notices.append((code, message))


def _block(start_sample: int, parts: list[Samples]) -> Block:
    samples = np.concatenate(parts) if len(parts) > 1 else parts[0]
    return Block(start_sample=start_sample, samples=np.clip(samples, -1.0, 1.0))


@contextlib.contextmanager
def _as_media_error() -> Iterator[None]:
    """Turn any exception of the libraries into MediaError: it is caused by the file."""
    try:
        yield
    except MediaError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) and not isinstance(error, FFmpegError):
            raise  # our own shortage, not an allocation that the file's header asks for
        log.warning("a file cannot be decoded", exc_info=error)
        raise MediaError(
            f"cannot be decoded ({str(error) or type(error).__name__}); export the track again as "
            "16-bit PCM"
        ) from None
