# SPDX-License-Identifier: Apache-2.0
"""Opens what may be a media file: its formats and decoders, and what of its header is believed."""

import contextlib
import os
import re

import av
from av.codec.codec import UnknownCodecError
from av.error import FFmpegError

from callsd_worker.media.clock import MAX_LATE_SECONDS
from callsd_worker.media.files import MediaError, Section


MAX_CHANNELS = 32
"""More than any layout that has a name: such a header is wrong."""

MIN_SOURCE_RATE_HZ = 4_000
MAX_SOURCE_RATE_HZ = 768_000
"""No codec for speech has a rate outside of these: the header is wrong."""

MAX_STREAMS = 64
"""A recording of a call has one or two, and seldom a handful; each costs memory and time."""

# A file is read by one of these or refused: playlist-like formats (HLS, concat, DASH, SDP) would
# make the library open other files or hosts on behalf of an uploaded file.
_FORMATS = (
    "wav,w64,rf64,aiff,au,caf,flac,ogg,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mp3,aac,"
    "amr,amrnb,amrwb,mpegts,mpeg,avi,flv,asf,"
    "ac3,eac3,dts,dtshd,mlp,truehd,loas,tta,wv,ape,tak,mpc,mpc8,voc,ircam,sox,nistsphere,"
    "nut,rm,mxf,oma,qcp,xwma,wtv,ast,mmf"
)

_LENGTH_KNOWN = {"wav", "w64", "aiff", "au", "caf", "flac", "ogg", "mov", "matroska", "asf"}
"""Formats that say how long they are. Of others the library makes an estimate by the rate of their
beginning, or by clocks that may leap."""

_HAS_CLOCK = {"ogg", "matroska", "mov", "mpegts", "mpeg", "asf", "flv", "mxf", "nut", "rm", "wtv"}
"""Formats with timestamps. For others the library makes some up, of a rate that may change."""

_HAS_BROKEN_CLOCK = {"mpegts", "mpeg"}
"""Formats that are cut out of streams and put together again, timestamps and all."""

_MAX_HOLE_SECONDS = 10.0
"""A longer leap of such a clock is another recording: FFmpeg's own limit."""


def _is_sound_decoder(name: str) -> bool:
    try:
        return av.Codec(name, "r").type == "audio"
    except UnknownCodecError:
        return False  # there is only an encoder of this name


# Only these decoders are ever opened: to find the size of pictures and videos the library would
# decode them, and a picture of a few kilobytes may need gigabytes.
_SOUND_CODECS = ",".join(sorted(filter(_is_sound_decoder, av.codecs_available)))

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

_PROBE_FAR = {
    **_PROBE,
    # What is read for it is kept in memory meanwhile.
    "probesize": "64000000",
    "analyzeduration": str(int(MAX_LATE_SECONDS * av.time_base)),
}
"""For sound that is far from the beginning of a stream, behind nothing but pictures."""

ENCRYPTED = "its sound is encrypted (DRM); send a file without protection"

_MP3_LENGTH = re.compile(rb"(?:Xing|Info)\0\0\0[\x03\x07\x0b\x0f].{4}(.{4})", re.DOTALL)
"""Flags, of which two are set, the number of frames, and that of bytes."""

_READ_BYTES = 256 * 1024


class SoundTrack:
    """One track of sound in an open container.

    Raises:
        MediaError: if this is no media file, or has no track of sound that can be used.
    """

    def __init__(self, section: Section, *, choice: int = 0) -> None:
        """Take the first usable track from `choice` on; those that the file prefers come first."""
        self._section = section
        self.container = _open(section, _PROBE)
        is_stream = self.container.format.name in _HAS_BROKEN_CLOCK
        if is_stream and all(map(_problem, self.container.streams.audio)):
            self.container.close()
            section.seek(0)
            self.container = _open(section, _PROBE_FAR)
        try:
            tracks = sorted(
                enumerate(self.container.streams.audio, start=1),
                key=lambda track: not track[1].disposition & av.stream.Disposition.default,
            )
            self.count = len(tracks)
            self.choice, (self.number, self.stream) = _first_usable(tracks, choice)
        except BaseException:
            self.container.close()
            raise
        # One thread: the cores are for recognition, and audio decoding gains nothing by more.
        self.stream.codec_context.thread_count = 1
        self._formats = set(self.container.format.name.split(","))
        # Now: while it is read, the library corrects the start of a stream, and not its duration.
        self.length_seconds = self._told_length_seconds()
        """Length as the file says; 0.0 = it does not."""

    @property
    def origin_seconds(self) -> float:
        # The container's start, not the stream's: audio may begin after the picture.
        return (self.container.start_time or 0) / av.time_base

    @property
    def has_clock(self) -> bool:
        """Whether timestamps say anything that samples do not."""
        return bool(self._formats & _HAS_CLOCK)

    @property
    def max_hole_seconds(self) -> float:
        """A leap of the clock that is longer is no pause; infinite for formats with one clock."""
        return _MAX_HOLE_SECONDS if self._formats & _HAS_BROKEN_CLOCK else float("inf")

    def _told_length_seconds(self) -> float:
        if not self._says_its_length:
            return 0.0
        if self.stream.duration is not None and self.stream.time_base is not None:
            end = (self.stream.start_time or 0) + self.stream.duration
            return max(0.0, float(end * self.stream.time_base) - self.origin_seconds)
        return max(0.0, (self.container.duration or 0) / av.time_base - self.origin_seconds)

    @property
    def _says_its_length(self) -> bool:
        if "mp3" in self._formats:
            return _is_mp3_told(self._section)
        return bool(self._formats & _LENGTH_KNOWN)

    def scanned_seconds(self) -> float:
        """Length by the timestamps. Reads the whole file; nothing can be decoded afterwards."""
        seconds = 0.0
        last = self.origin_seconds
        longest = max(self.max_hole_seconds, MAX_LATE_SECONDS)
        with contextlib.suppress(FFmpegError):
            for packet in self.container.demux(self.stream):
                if packet.pts is None or packet.time_base is None:
                    continue
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                if 0.0 < end - last <= longest:
                    seconds += end - last
                    longest = self.max_hole_seconds
                last = end
        return seconds

    def close(self) -> None:
        self.container.close()


def _open(section: Section, options: dict[str, str]) -> av.container.InputContainer:
    if section.read(4) == b"RIFX":
        # The library takes its samples for little-endian ones, which is noise.
        raise MediaError("a WAV file with big-endian samples (RIFX); convert it to RIFF")
    section.seek(0)
    try:
        return av.open(
            section,
            "r",
            options=options,
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


def _first_usable(
    tracks: list[tuple[int, av.AudioStream]], choice: int
) -> tuple[int, tuple[int, av.AudioStream]]:
    if not tracks:
        raise MediaError("contains no sound; send a file with an audio track")
    problems = []
    for at in range(min(choice, len(tracks) - 1), len(tracks)):
        problem = _problem(tracks[at][1])
        if not problem:
            return at, tracks[at]
        problems.append(problem)
    raise MediaError(problems[0])


def _problem(stream: av.AudioStream) -> str:
    """Why a track cannot be used; empty: it can."""
    if "enc_key_id" in stream.metadata:  # of Matroska
        return ENCRYPTED
    context = stream.codec_context
    if context is None:
        return "sound in a form that no decoder here knows; export the track as 16-bit PCM"
    rate_hz = context.sample_rate or 0
    if not MIN_SOURCE_RATE_HZ <= rate_hz <= MAX_SOURCE_RATE_HZ:
        return (
            f"sample rate {rate_hz} Hz in the header; expected "
            f"{MIN_SOURCE_RATE_HZ} to {MAX_SOURCE_RATE_HZ} Hz: export the track again"
        )
    if not 1 <= context.channels <= MAX_CHANNELS:
        return (
            f"{context.channels} channels in the header; expected 1 to {MAX_CHANNELS}: "
            "send one track per speaker"
        )
    return ""


def _is_mp3_told(section: Section) -> bool:
    """Whether the first frame, behind an ID3 tag, tells the length of all of the file.

    Of files put end to end it tells that of the first.
    """
    head = os.pread(section.descriptor, 10, section.start)
    at = section.start
    if head[:3] == b"ID3":
        at += 10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    found = _MP3_LENGTH.search(os.pread(section.descriptor, 256, at))
    # A tag behind the sound makes a file a little longer than its header says.
    if found is None:
        return False
    return int.from_bytes(found[1], "big") * 17 // 16 >= section.end - at
