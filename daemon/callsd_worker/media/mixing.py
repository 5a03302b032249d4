# SPDX-License-Identifier: Apache-2.0
"""From frames of any rate, format and number of channels to samples of one voice."""

from dataclasses import dataclass

import av
import numpy as np
from av.audio.resampler import AudioResampler

from callsd_worker.media.sound import SAMPLE_RATE_HZ, Samples


_GATHER_SECONDS = 1
_MIN_OFFSET = 0.003
"""A smaller one harms nobody, and good sound stays as it is."""

_MIN_OFFSET_SECONDS = 0.5
"""The mean of less sound than this is a piece of a wave rather than its offset."""

_MAX_LEVEL = 4.0
"""Full scale is 1; what is louder still is cut, before sums of it overflow."""

_HEARD_POWER = 1e-7
"""-70 dB: a channel below has nothing that anybody would hear."""

_INVERTED_CORRELATION = -0.5
"""Channels that are more alike than this, with the opposite sign, would cancel each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """A format of samples."""

    dtype: type[np.generic]
    zero: float = 0.0
    full_scale: float = 1.0


_KINDS = {
    "u8": _Kind(dtype=np.uint8, zero=2.0**7, full_scale=2.0**7),
    "s16": _Kind(dtype=np.int16, full_scale=2.0**15),
    "s32": _Kind(dtype=np.int32, full_scale=2.0**31),
    "s64": _Kind(dtype=np.int64, full_scale=2.0**63),
    "flt": _Kind(dtype=np.float32),
    "dbl": _Kind(dtype=np.float64),
}


class Mixer:
    """To 16 kHz mono; follows changes of rate or layout in mid-file."""

    def __init__(self) -> None:
        self.values = 0
        """How many samples there were, of all channels."""
        self.not_finite = 0
        """How many of them were NaN or infinite, and were silenced."""
        self._form = ("", 0, 0)
        self._begin()

    def _begin(self) -> None:
        # Opus frames of 20 ms cost a third less when several are resampled together.
        self._gathered = av.AudioFifo()
        self._resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
        self._offsets = np.zeros(0, np.float32)
        self._signs = np.ones(0, np.float32)
        self._is_heard = np.zeros(0, np.bool_)

    def feed(self, frame: av.AudioFrame) -> list[Samples]:
        # Positions are counted in samples; with timestamps the filter would fill holes itself.
        frame.pts = None
        # The FIFO takes a frame of fewer channels, too, and reads beyond its end.
        form = (frame.format.name, frame.sample_rate, frame.layout.nb_channels)
        ended = self.finish() if form != self._form else []
        self._form = form
        self._gathered.write(frame)
        if self._gathered.samples < frame.sample_rate * _GATHER_SECONDS:
            return ended
        return ended + self._resampled()

    def finish(self) -> list[Samples]:
        """Return what is buffered; the next frame starts anew."""
        if not self._gathered.samples_written:
            return []
        rest = self._resampled() + _arrays(self._resampler.resample(None))
        self._begin()
        return rest

    def _resampled(self) -> list[Samples]:
        frame = self._gathered.read(partial=True)
        if frame is None:
            return []
        mono = av.AudioFrame.from_ndarray(self._mixed(frame)[None], format="flt", layout="mono")
        mono.sample_rate = frame.sample_rate
        return _arrays(self._resampler.resample(mono))

    def _mixed(self, frame: av.AudioFrame) -> Samples:
        """One channel of all.

        The library knows how to do that for some layouts only, and there channels of opposite
        signs cancel each other: a microphone wired the wrong way round would be silence.
        """
        channels = self._cleaned(_floats(frame))
        count, length = channels.shape
        if self._offsets.size != count:
            self._offsets = np.zeros(count, np.float32)
            self._signs = np.ones(count, np.float32)
            self._is_heard = np.zeros(count, np.bool_)
        if length >= _MIN_OFFSET_SECONDS * frame.sample_rate:
            means = channels.mean(axis=1)
            self._offsets = np.where(abs(means) > _MIN_OFFSET, means, 0).astype(np.float32)
        channels = channels - self._offsets[:, None]
        if count == 1:
            alone: Samples = channels[0]
            return alone
        power = np.einsum("ij,ij->i", channels, channels)
        loudest = int(np.argmax(power))
        alike = (channels @ channels[loudest]) / np.sqrt(power * power[loudest] + 1e-20)
        # The loudest channel is another one at times: its own sign stays.
        self._signs = np.where(alike < _INVERTED_CORRELATION, -1, 1) * self._signs[loudest]
        # A channel that nobody has spoken on must not make the others quieter.
        self._is_heard |= power > _HEARD_POWER * length
        heard = max(int(np.count_nonzero(self._is_heard)), 1)
        mixed: Samples = (self._signs @ channels / heard).astype(np.float32)
        return mixed

    def _cleaned(self, channels: Samples) -> Samples:
        self.values += channels.size
        finite = np.isfinite(channels)
        if not finite.all():
            self.not_finite += channels.size - int(np.count_nonzero(finite))
            channels[~finite] = 0.0
        return np.clip(channels, np.float32(-_MAX_LEVEL), np.float32(_MAX_LEVEL))


def _floats(frame: av.AudioFrame) -> Samples:
    """Channels by samples; full scale is 1.

    Not by the frame's own conversion: of eight planes it reads a ninth, which is not there.
    """
    count = frame.layout.nb_channels
    planes, length = (
        (count, frame.samples) if frame.format.is_planar else (1, frame.samples * count)
    )
    kind = _KINDS[frame.format.name.removesuffix("p")]
    data = np.stack([np.frombuffer(bytes(p), kind.dtype, length) for p in frame.planes[:planes]])
    if not frame.format.is_planar:
        data = data.reshape(-1, count).T
    with np.errstate(over="ignore"):
        samples: Samples = data.astype(np.float32)
    return (samples - kind.zero) / kind.full_scale


def _arrays(frames: list[av.AudioFrame]) -> list[Samples]:
    return [frame.to_ndarray()[0] for frame in frames if frame.samples]
