# SPDX-License-Identifier: Apache-2.0
"""Decodes the audio of any local file into blocks of 16 kHz mono, timed by the file's own clock."""

import contextlib
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.codec.codec import UnknownCodecError
from av.error import FFmpegError
from numpy.typing import NDArray


log = logging.getLogger(__name__)

Samples = NDArray[np.float32]

SAMPLE_RATE_HZ = 16_000
"""The rate that recognisers and voice detection expect."""

BLOCK_SECONDS = 10.0
"""Length of a block: large enough to amortise overhead, small in memory (0.6 MB)."""

MAX_TRACK_SECONDS = 48 * 3600.0
"""Longer tracks are cut: false times in a file must not cause endless work."""

MAX_CHANNELS = 16
"""More channels than any call client sends: such a file is not one speaker's track."""

MIN_SOURCE_RATE_HZ = 4_000
MAX_SOURCE_RATE_HZ = 768_000
"""No codec for speech has a rate outside of these: the header is wrong."""

MAX_BAD_PACKETS = 1_000
"""After so many undecodable packets the rest of the file is given up."""

GAP_TOLERANCE_SECONDS = 0.06
"""Clock steps up to three Opus packets are jitter of the container, longer ones are holes."""

_GATHER_SECONDS = 1
_RIFF_UNKNOWN_BYTES = 0x7FFF_0000

# A file is read by one of these or refused: playlist-like formats (HLS, concat, DASH, SDP) would
# make the library open other files or hosts on behalf of an uploaded file.
_FORMATS = (
    "wav,w64,rf64,aiff,au,caf,flac,ogg,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mp3,aac,"
    "amr,amrnb,amrwb,mpegts,mpeg,avi,flv,asf"
)


def _is_sound_decoder(name: str) -> bool:
    try:
        return av.Codec(name, "r").type == "audio"
    except UnknownCodecError:
        return False  # there is only an encoder of this name


# Only these decoders are ever opened: to find the size of pictures and videos the library would
# decode them, and a picture of a few kilobytes may need gigabytes.
_SOUND_CODECS = ",".join(sorted(filter(_is_sound_decoder, av.codecs_available)))

MAX_STREAMS = 64
"""A recording of a call has one or two, and seldom a handful; each costs memory and time."""

_PROBE = {
    # How much is read to find the streams: FFmpeg's own limits, here for every format.
    "probesize": "5000000",
    "analyzeduration": "10000000",
    "max_streams": str(MAX_STREAMS),
    "codec_whitelist": _SOUND_CODECS,
    "format_whitelist": _FORMATS,
    # The library gets an open file, and may open nothing else.
    "protocol_whitelist": "",
}

_READ_BYTES = 256 * 1024

Source = Path | int
"""A file: its path, or a descriptor that is open for reading and stays so."""


class MediaError(Exception):
    """A file that cannot be used; the message says why, where in it, and what to do.

    It does not name the file: the caller does, as uploads have no names.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Consecutive samples; between blocks may be holes, which are silence."""

    start_sample: int
    """Position at 16 kHz by the file's clock."""
    samples: Samples
    """Mono, float32, within [-1, 1], always finite."""


class AudioStream:
    """One audio track of a local file, decoded as it is iterated.

    Holds one block at a time whatever the file's length.
    Damage after a usable beginning raises nothing; it is described in `notices`.

    Raises:
        MediaError: on opening, if nothing can be decoded from this file.
    """

    def __init__(self, source: Source) -> None:
        self.notices: list[tuple[str, str]] = []
        """(code, message) pairs, complete once the blocks are exhausted."""
        self.position_samples = 0
        """End of what has been decoded so far, in 16 kHz samples."""
        self._bad_packets = 0
        self._first_bad_seconds = 0.0
        self._not_finite = 0
        self._file = _open_regular(source)
        try:
            with _as_media_error():
                self._container = _open(self._file)
                self._stream = _choose_stream(self._container)
        except BaseException:
            self._file.close()
            raise
        self.declared_seconds = self._declared_seconds()
        """Length according to the header, or 0.0. Not trusted for allocations."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._container.close()
        self._file.close()

    @property
    def position_seconds(self) -> float:
        return self.position_samples / SAMPLE_RATE_HZ

    def blocks(self) -> Iterator[Block]:
        """Yield the audio in order, each block at most `BLOCK_SECONDS` plus one packet long.

        Raises:
            MediaError: if no sample could be decoded, or all of them are NaN.
        """
        decoded_samples = 0
        pending: list[Samples] = []
        pending_samples = 0
        limit_samples = int(MAX_TRACK_SECONDS * SAMPLE_RATE_HZ)
        runs = self._runs()
        while True:
            with _as_media_error():
                run = next(runs, None)
            if run is None:
                break
            start_sample, samples = run
            expected = self.position_samples
            is_hole = start_sample > expected
            is_full = pending_samples >= BLOCK_SECONDS * SAMPLE_RATE_HZ
            if pending and (is_hole or is_full):
                yield self._block(pending, pending_samples)
                pending, pending_samples = [], 0
            if is_hole:
                self.position_samples = start_sample
            decoded_samples += samples.size
            pending.append(samples)
            pending_samples += samples.size
            self.position_samples += samples.size
            if self.position_samples > limit_samples:
                hours = MAX_TRACK_SECONDS / 3600
                self._notice("TRACK_TOO_LONG", f"cut at {hours:.0f} h; split the file")
                break
        if pending:
            yield self._block(pending, pending_samples)
        self._conclude(decoded_samples)

    def _block(self, parts: list[Samples], length: int) -> Block:
        samples = np.concatenate(parts) if len(parts) > 1 else parts[0]
        finite = np.isfinite(samples)
        if not finite.all():
            self._not_finite += int(samples.size - np.count_nonzero(finite))
            samples = np.where(finite, samples, np.float32(0.0))
        samples = np.clip(samples, -1.0, 1.0)
        return Block(start_sample=self.position_samples - length, samples=samples)

    def _runs(self) -> Iterator[tuple[int, Samples]]:
        """Decoded frames as (start at 16 kHz, samples); the start follows the file's clock."""
        resampler = _Resampler()
        origin_seconds = self._origin_seconds()
        source_seconds = 0.0
        position = 0
        for frame in self._frames():
            if frame.sample_rate < MIN_SOURCE_RATE_HZ:
                self._note_bad(source_seconds)
                continue
            if frame.pts is not None and frame.time_base is not None:
                clock = float(frame.pts * frame.time_base) - origin_seconds
                if GAP_TOLERANCE_SECONDS < clock - source_seconds < MAX_TRACK_SECONDS:
                    for samples in resampler.finish():
                        yield position, samples
                        position += samples.size
                    source_seconds = clock
                    position = max(position, round(clock * SAMPLE_RATE_HZ))
            source_seconds += frame.samples / frame.sample_rate
            for samples in resampler.feed(frame):
                yield position, samples
                position += samples.size
        for samples in resampler.finish():
            yield position, samples
            position += samples.size

    def _frames(self) -> Iterator[av.AudioFrame]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except FFmpegError:
                self._note_bad(self.position_seconds)
                return
            try:
                frames = packet.decode()
            except FFmpegError:
                self._note_bad(self.position_seconds)
                if self._bad_packets >= MAX_BAD_PACKETS:
                    return
                continue
            for frame in frames:
                assert isinstance(frame, av.AudioFrame)
                yield frame

    def _note_bad(self, at_seconds: float) -> None:
        if not self._bad_packets:
            self._first_bad_seconds = at_seconds
        self._bad_packets += 1

    def _conclude(self, decoded_samples: int) -> None:
        if not decoded_samples:
            raise MediaError(
                "no sound could be decoded from byte 0 on; "
                "the file is empty, cut short or damaged: send it again"
            )
        if self._not_finite >= decoded_samples:
            raise MediaError(
                "every sample is NaN or infinite; export the track again as 16-bit PCM"
            )
        if self._not_finite:
            self._notice("SAMPLES_CLEANED", f"{self._not_finite} NaN or infinite samples silenced")
        if self._bad_packets:
            self._notice(
                "INPUT_DAMAGED",
                f"{self._bad_packets} undecodable packets, the first at "
                f"{self._first_bad_seconds:.1f} s; the rest was used",
            )
        missing_bytes = _riff_missing_bytes(self._file)
        if missing_bytes:
            self._notice(
                "INPUT_TRUNCATED",
                f"ends at {self.position_seconds:.1f} s, {missing_bytes} bytes before its header "
                "says; what is there was used",
            )
        missing_seconds = self.declared_seconds - self.position_seconds
        if missing_seconds > 1.0 and self.declared_seconds < MAX_TRACK_SECONDS:
            self._notice(
                "INPUT_TRUNCATED",
                f"ends at {self.position_seconds:.1f} s, its header promises "
                f"{self.declared_seconds:.1f} s; what is there was used",
            )

    def _notice(self, code: str, message: str) -> None:
        self.notices.append((code, message))

    def _declared_seconds(self) -> float:
        stream = self._stream
        if stream.duration is not None and stream.time_base is not None:
            seconds = float(stream.duration * stream.time_base)
        elif self._container.duration is not None:
            seconds = self._container.duration / av.time_base
        else:
            return 0.0
        return max(0.0, seconds)

    def _origin_seconds(self) -> float:
        # The container's start, not the stream's: audio may begin after the picture.
        if self._container.start_time is None:
            return 0.0
        return self._container.start_time / av.time_base


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


def _open_regular(source: Source) -> BinaryIO:
    """Open the file once, so that the file that is checked is the one that is decoded."""
    is_ours = not isinstance(source, int)
    try:
        # Opening a pipe without a writer would block.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = source if isinstance(source, int) else os.open(source, flags)
    except OSError as error:
        raise MediaError(
            f"cannot be read ({error.strerror}); check the path and its permissions"
        ) from None
    except ValueError:
        raise MediaError("the path contains a NUL byte; send a plain file path") from None
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size:
        file = os.fdopen(descriptor, "rb", buffering=0, closefd=is_ours)
        file.seek(0)
        return file
    if is_ours:
        os.close(descriptor)
    if stat.S_ISREG(status.st_mode):
        raise MediaError("empty (0 bytes); send the file again")
    raise MediaError("not a regular file; give the path of a media file")


def _riff_missing_bytes(file: BinaryIO) -> int:
    """How many bytes a WAV file lacks by its own header, which the library does not report."""
    head = os.pread(file.fileno(), 8, 0)
    claimed_bytes = int.from_bytes(head[4:], "little")
    # Writers that do not know the length in advance write zero or (nearly) all ones.
    if head[:4] != b"RIFF" or not 0 < claimed_bytes < _RIFF_UNKNOWN_BYTES:
        return 0
    return max(0, claimed_bytes + 8 - os.fstat(file.fileno()).st_size)


def _open(file: BinaryIO) -> av.container.InputContainer:
    try:
        return av.open(
            file,
            "r",
            options=_PROBE,
            metadata_errors="replace",
            buffer_size=_READ_BYTES,
        )
    except av.error.MemoryError:
        raise MediaError(
            f"has more than {MAX_STREAMS} streams, or a header that asks for too much memory; "
            "send the sound alone"
        ) from None
    except (FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError(
            f"not a media file that can be read ({reason}, at byte 0); "
            "send WAV, FLAC, Ogg/Opus, MP4 or Matroska"
        ) from None


def _choose_stream(container: av.container.InputContainer) -> av.AudioStream:
    if not container.streams.audio:
        raise MediaError("contains no sound; send a file with an audio track")
    stream = container.streams.audio[0]
    context = stream.codec_context
    rate_hz = context.sample_rate or 0
    if not MIN_SOURCE_RATE_HZ <= rate_hz <= MAX_SOURCE_RATE_HZ:
        raise MediaError(
            f"sample rate {rate_hz} Hz in the header; expected "
            f"{MIN_SOURCE_RATE_HZ} to {MAX_SOURCE_RATE_HZ} Hz: export the track again"
        )
    channels = context.channels
    if not 1 <= channels <= MAX_CHANNELS:
        raise MediaError(
            f"{channels} channels in the header; expected 1 to {MAX_CHANNELS}: "
            "send one track per speaker"
        )
    # One thread: the cores are for recognition, and audio decoding gains nothing by more.
    context.thread_count = 1
    return stream


class _Resampler:
    """To 16 kHz mono; follows changes of rate or layout in mid-file."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        # Opus frames of 20 ms cost a third less when several are resampled together.
        self._gathered = av.AudioFifo()
        self._inner = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)

    def feed(self, frame: av.AudioFrame) -> list[Samples]:
        # Positions are counted in samples; with timestamps the filter would fill holes itself.
        frame.pts = None
        try:
            self._gathered.write(frame)
        except ValueError:
            # The frame has other parameters than those before.
            if not self._gathered.samples_written:
                raise MediaError("sound in a form that cannot be read; send 16-bit PCM") from None
            return self.finish() + self.feed(frame)
        if self._gathered.samples < frame.sample_rate * _GATHER_SECONDS:
            return []
        return _arrays(self._inner.resample(self._gathered.read()))

    def finish(self) -> list[Samples]:
        """Return what is buffered; the next frame starts anew."""
        last = self._gathered.read(partial=True) if self._gathered.samples else None
        if last is None and not self._gathered.samples_written:
            return []
        rest = _arrays(self._inner.resample(last)) if last is not None else []
        rest += _arrays(self._inner.resample(None))
        self._begin()
        return rest


def _arrays(frames: list[av.AudioFrame]) -> list[Samples]:
    return [frame.to_ndarray()[0] for frame in frames if frame.samples]
