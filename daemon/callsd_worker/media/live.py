# SPDX-License-Identifier: Apache-2.0
"""Decodes live audio into blocks of 16 kHz mono, timed from the start of the call.

Each piece has a time in the call and a number, one higher than the piece before: a gap in time
without a missing number is a pause of the speaker, one with a missing number is a loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from callsd_worker.media.decode import GAP_TOLERANCE_SECONDS, SAMPLE_RATE_HZ, Block, Samples


TOLERANCE_SAMPLES = int(GAP_TOLERANCE_SECONDS * SAMPLE_RATE_HZ)
"""Smaller steps of a sender's clock are jitter, and ignored."""

_S16_BYTES = 2
_S16_SCALE = np.float32(1.0 / 32768.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Audio of one speaker, as it was sent."""

    sequence: int
    """Counts up by one."""
    start_sample: int
    """Where it begins, in samples at 16 kHz from the start of the call."""
    data: bytes


class LiveDecoder(Protocol):
    """Decodes the pieces of one speaker."""

    skipped_samples: int
    """Length of all audio that never came or could not be decoded."""

    def feed(self, pieces: Sequence[Piece]) -> list[Block]:
        """Take pieces in the order of arrival. Between the blocks is silence."""
        ...

    def finish(self) -> list[Block]:
        """Return what is buffered, as no more comes for now. Pieces may come again later."""
        ...


class TimeLine:
    """Places decoded audio in the call, and never returns a stretch twice."""

    def __init__(self, start_sample: int) -> None:
        self._known_sample = start_sample
        self._next_sample = start_sample

    def jump(self, start_sample: int) -> None:
        """The next audio begins there."""
        self._next_sample = start_sample

    def place(self, samples: Samples) -> Block | None:
        """The next audio, without what overlaps earlier blocks."""
        start = self._next_sample
        self._next_sample += samples.size
        known = min(max(self._known_sample - start, 0), samples.size)
        if known == samples.size:
            return None
        self._known_sample = self._next_sample
        return Block(start_sample=start + known, samples=samples[known:])


class PcmDecoder:
    """Signed 16 bit, little endian, 16 kHz, one channel. See `LiveDecoder`."""

    def __init__(self, *, start_sample: int) -> None:
        self.skipped_samples = 0
        self._line = TimeLine(start_sample)
        self._sequence: int | None = None
        self._end_sample = 0

    def feed(self, pieces: Sequence[Piece]) -> list[Block]:
        blocks = []
        for piece in pieces:
            if self._sequence is None:
                self._sequence, self._end_sample = piece.sequence - 1, piece.start_sample
                self._line.jump(piece.start_sample)
            missing = piece.sequence - self._sequence - 1
            if missing < 0:
                continue
            self._sequence = piece.sequence
            step = piece.start_sample - self._end_sample
            if missing:
                self.skipped_samples += max(step, 0)
            if abs(step) > (0 if missing else TOLERANCE_SAMPLES):
                self._line.jump(piece.start_sample)
                self._end_sample = piece.start_sample
            # Half a sample at the end is dropped.
            whole = len(piece.data) // _S16_BYTES
            samples = np.frombuffer(piece.data, dtype="<i2", count=whole) * _S16_SCALE
            self._end_sample += samples.size
            block = self._line.place(samples)
            if block is not None:
                blocks.append(block)
        return joined(blocks)

    def finish(self) -> list[Block]:
        return []


def joined(blocks: list[Block]) -> list[Block]:
    """The same audio in as few blocks as possible, as each has a cost."""
    runs: list[list[Block]] = []
    for block in blocks:
        last = runs[-1][-1] if runs else None
        if last is not None and last.start_sample + last.samples.size == block.start_sample:
            runs[-1].append(block)
        else:
            runs.append([block])
    return [
        Block(
            start_sample=run[0].start_sample,
            samples=np.concatenate([block.samples for block in run]),
        )
        if len(run) > 1
        else run[0]
        for run in runs
    ]
