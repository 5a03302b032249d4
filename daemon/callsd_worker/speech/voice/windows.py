# SPDX-License-Identifier: Apache-2.0
"""Packs utterances of one speaker into windows, and converts window time to track time."""

from dataclasses import dataclass, replace

import numpy as np

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples
from callsd_worker.speech.voice.utterances import Utterance


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of the track in a window. Positions in samples at 16 kHz."""

    track_start_sample: int
    window_start_sample: int
    length_samples: int
    voiced_seconds: float

    @property
    def window_start_seconds(self) -> float:
        return self.window_start_sample / SAMPLE_RATE_HZ

    @property
    def window_end_seconds(self) -> float:
        return (self.window_start_sample + self.length_samples) / SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Audio to recognise: one or more utterances of one speaker, without the pauses between."""

    samples: Samples
    pieces: tuple[Piece, ...]

    @property
    def seconds(self) -> float:
        return self.samples.size / SAMPLE_RATE_HZ

    @property
    def voiced_seconds(self) -> float:
        return sum(piece.voiced_seconds for piece in self.pieces)

    def piece_at(self, window_seconds: float) -> int:
        """Index of the piece at a time in the window."""
        sample = window_seconds * SAMPLE_RATE_HZ
        for index in range(len(self.pieces) - 1, 0, -1):
            if sample >= self.pieces[index].window_start_sample:
                return index
        return 0

    def track_seconds(self, window_seconds: float, *, piece: int) -> float:
        """The time in the track, limited to the given piece."""
        part = self.pieces[piece]
        within = window_seconds * SAMPLE_RATE_HZ - part.window_start_sample
        within = min(max(within, 0.0), float(part.length_samples))
        return (part.track_start_sample + within) / SAMPLE_RATE_HZ

    def unpacked(self) -> list["Window"]:
        """The same audio, one window per piece."""
        return [self.part(index, index + 1) for index in range(len(self.pieces))]

    def part(self, first: int, after: int) -> "Window":
        """The audio from a piece to before another one."""
        pieces = self.pieces[first:after]
        begin = pieces[0].window_start_sample
        end = pieces[-1].window_start_sample + pieces[-1].length_samples
        return Window(
            samples=self.samples[begin:end],
            pieces=tuple(
                replace(piece, window_start_sample=piece.window_start_sample - begin)
                for piece in pieces
            ),
        )


class WindowPacker:
    """Joins neighbouring utterances until a window is full."""

    def __init__(self, *, target_seconds: float) -> None:
        self._target_samples = int(target_seconds * SAMPLE_RATE_HZ)
        self._waiting: list[Utterance] = []
        self._waiting_samples = 0

    def add(self, utterance: Utterance) -> list[Window]:
        """Take the next utterance; returns the window that it completes, if any."""
        done = []
        if self._waiting_samples + utterance.samples.size > self._target_samples:
            done = self.finish()
        self._waiting.append(utterance)
        self._waiting_samples += utterance.samples.size
        return done

    def finish(self) -> list[Window]:
        if not self._waiting:
            return []
        pieces = []
        position = 0
        for utterance in self._waiting:
            pieces.append(
                Piece(
                    track_start_sample=utterance.start_sample,
                    window_start_sample=position,
                    length_samples=utterance.samples.size,
                    voiced_seconds=utterance.voiced_seconds,
                )
            )
            position += utterance.samples.size
        window = Window(
            samples=np.concatenate([utterance.samples for utterance in self._waiting]),
            pieces=tuple(pieces),
        )
        self._waiting = []
        self._waiting_samples = 0
        return [window]
