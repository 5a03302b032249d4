# SPDX-License-Identifier: Apache-2.0
"""Decodes live Opus packets into blocks of 16 kHz mono, timed from the start of the call.

Packets may be lost, late, doubled, damaged, or not sent while nobody speaks (RFC 7587).
"""

from collections.abc import Sequence

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.error import FFmpegError

from callsd_ipc import opus
from callsd_ipc.opus import OPUS_RATE_HZ
from callsd_worker.media.decode import SAMPLE_RATE_HZ, Block
from callsd_worker.media.live import TOLERANCE_SAMPLES, Piece, TimeLine, joined


MAX_HELD_PACKETS = 3
"""Packets that wait for a missing one: 60 ms of the usual 20 ms. After that it counts as lost."""

MAX_CONCEALED_SAMPLES = SAMPLE_RATE_HZ // 10
"""The codec fills up to 100 ms of lost audio by what was before; more would be invented."""

_RATIO = OPUS_RATE_HZ // SAMPLE_RATE_HZ

_CODE_MASK = 0b11


def frame_samples(first_byte: int) -> int:
    """Length of each frame of a packet, in samples at 16 kHz."""
    return opus.frame_samples(first_byte) // _RATIO


def packet_samples(packet: bytes) -> int:
    """Length of a packet in samples at 16 kHz, by its first bytes; 0 = not a packet."""
    return opus.claimed_samples(packet, SAMPLE_RATE_HZ)


class OpusDecoder:
    """Packets of any mode and length, one or two channels. See `LiveDecoder`."""

    def __init__(self, *, start_sample: int) -> None:
        self.skipped_samples = 0
        self._codec = av.AudioCodecContext.create("libopus", "r")
        # The codec itself mixes two channels into one, which is cheaper than to do it afterwards.
        self._codec.layout = "mono"
        self._codec.sample_rate = OPUS_RATE_HZ
        self._codec.thread_count = 1
        self._resampler: AudioResampler | None = None
        self._line = TimeLine(start_sample)
        self._end_sample: int | None = None
        """End of the decoded audio; the resampler may still hold the last of it."""
        self._sequence: int | None = None
        """Number of the last packet that was decoded or given up."""
        self._held: dict[int, Piece] = {}
        self._lost_packets = 0
        """Packets given up since the last one that was decoded."""
        self._last_packet = b""

    def feed(self, pieces: Sequence[Piece]) -> list[Block]:
        blocks: list[Block] = []
        for piece in pieces:
            if self._sequence is None:
                self._sequence = piece.sequence - 1
            if piece.sequence > self._sequence:
                self._held[piece.sequence] = piece
                self._release(blocks, keep=MAX_HELD_PACKETS - 1)
        return joined(blocks)

    def finish(self) -> list[Block]:
        blocks: list[Block] = []
        self._release(blocks, keep=0)
        self._drain(blocks)
        return joined(blocks)

    def _release(self, blocks: list[Block], *, keep: int) -> None:
        """Decode what is next; give up missing packets when more than `keep` wait for them."""
        while self._held:
            assert self._sequence is not None
            first = min(self._held)
            missing = first - self._sequence - 1
            if missing and len(self._held) <= keep:
                return
            self._lost_packets += missing
            self._sequence = first
            self._take(self._held.pop(first), blocks)

    def _take(self, piece: Piece, blocks: list[Block]) -> None:
        if packet_samples(piece.data):
            self._go_to(piece.start_sample, blocks)
            if self._decode(piece.data, blocks):
                self._last_packet = piece.data
                self._lost_packets = 0
                return
        self._lost_packets += 1

    def _go_to(self, start_sample: int, blocks: list[Block]) -> None:
        """Move to the beginning of a packet, across lost packets and pauses."""
        if self._end_sample is None:
            self._end_sample = start_sample
            self._line.jump(start_sample)
            return
        lost_samples = self._lost_packets * packet_samples(self._last_packet)
        expected = self._end_sample + lost_samples
        if abs(start_sample - expected) <= TOLERANCE_SAMPLES:
            start_sample = expected
        lost_samples = min(max(start_sample - self._end_sample, 0), lost_samples)
        self.skipped_samples += lost_samples
        self._lost_packets = 0
        self._conceal(min(lost_samples, MAX_CONCEALED_SAMPLES), blocks)
        if self._end_sample != start_sample:
            self._drain(blocks)
            self._end_sample = start_sample
            self._line.jump(start_sample)

    def _conceal(self, length: int, blocks: list[Block]) -> None:
        # In Opus a packet of one empty frame stands for a lost frame.
        lost_frame = bytes([self._last_packet[0] & ~_CODE_MASK]) if length else b""
        while length and length >= frame_samples(lost_frame[0]):
            length -= frame_samples(lost_frame[0])
            if not self._decode(lost_frame, blocks):
                return

    def _decode(self, packet: bytes, blocks: list[Block]) -> bool:
        """Decode a packet; returns whether that was possible."""
        assert self._end_sample is not None
        try:
            frames = self._codec.decode(av.Packet(packet))
        except FFmpegError:
            return False
        if self._resampler is None:
            self._resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
        for frame in frames:
            # Positions are counted in samples; with timestamps the filter would fill holes itself.
            frame.pts = None
            self._end_sample += frame.samples * SAMPLE_RATE_HZ // OPUS_RATE_HZ
            self._place(self._resampler.resample(frame), blocks)
        return True

    def _drain(self, blocks: list[Block]) -> None:
        """Take what the resampler has buffered; it starts anew then."""
        if self._resampler is not None:
            self._place(self._resampler.resample(None), blocks)
            self._resampler = None

    def _place(self, frames: list[av.AudioFrame], blocks: list[Block]) -> None:
        for frame in frames:
            if frame.samples:
                samples = np.clip(frame.to_ndarray()[0], np.float32(-1.0), np.float32(1.0))
                block = self._line.place(samples)
                if block is not None:
                    blocks.append(block)
