# SPDX-License-Identifier: Apache-2.0
"""Measures a recording of a test page: is each picture there, and at the moment of its sound?

The pages (`site/common.js`) paint a counter and, each 2.01 s, flash and beep at one
moment. The file is read once, packet by packet; what is kept is some bytes for each frame and each
millisecond.
"""

import math
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from callsd_bench.shared.errors import BenchError


# As in site/common.js.
BLOCK_PIXELS = 16
COUNTER_BITS = 24
FLASH_PIXELS = 96
BEEP_HZ = 1000

_BLOCKS = COUNTER_BITS + 5
_MARGIN_PIXELS = 4
"""Left out at each edge of a block: there a codec blurs, and a page may be a pixel off."""

_MIN_CONTRAST = 100
"""Least luma from black to white; undamaged it is 219."""

_BIN_HZ = 1000
"""Sound is looked at by the millisecond, which is one wave of the beep."""
_WINDOW_BINS = 4
"""Half way up the slope of this window is the beginning of a beep, and codecs blur no more."""
_MIN_AMPLITUDE = 0.02
"""Full scale is 1; beeps are played at 0.5."""
_MIN_BEEP_BINS = 50
_PAIR_SECONDS = 1.0
"""Flash and beep belong together when they are no further apart: half their period."""
_MEDIAN_OF = 5

_SSIM_SECONDS = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a recording is like."""

    duration_seconds: float
    width: int
    height: int
    unique_fps: float
    """Different paintings of the page seen, per second."""
    unique_ratio: float
    """The same as a share of the frame rate: 1 = no frame shows what the one before showed."""
    missing_seconds: float
    """Longest time in which one picture stood still; one frame's length is perfect."""
    unreadable_ratio: float
    """Share of frames whose counter is torn or blurred; they count as no new picture."""
    sync_ms_start: float | None
    """Beep minus flash, median of the first five; positive = sound late. None = no such pair.

    A flash is dated by the first frame that shows it, on average half a frame after it was there:
    a recorder without fault has minus 500 / fps, which is what a viewer gets.
    """
    sync_ms_end: float | None
    """The same for the last five; a difference means that the two drift apart."""
    kbps: float
    """Sound and picture, from the size of the file."""
    video_kbps: float
    mb_per_hour: float
    """Unit: 10^6 bytes."""


def measure(path: Path, *, fps: float) -> Measured:
    """Measure a recording that was made at `fps`. BenchError: it is none, or is broken."""
    try:
        watched = _watch(path)
    except (av.FFmpegError, OSError) as error:
        raise BenchError(f"{path} cannot be decoded: {error}") from error
    times = np.array(watched.times)
    if len(times) < 2:  # noqa: PLR2004 - it takes two to have a rate
        raise BenchError(f"{path} has no picture that moves")
    counters = np.array(watched.counters)
    changes, stood_still = _changes(times, counters)
    unique_fps = changes / (times[-1] - times[0])
    sync_ms = _sync_ms(_flashes(times, np.array(watched.is_white)), _beeps(watched.waves))
    size_bytes = path.stat().st_size
    seconds = watched.duration_seconds
    return Measured(
        duration_seconds=seconds,
        width=watched.width,
        height=watched.height,
        unique_fps=float(unique_fps),
        unique_ratio=float(unique_fps / fps),
        missing_seconds=float(stood_still[:, 1].max()),
        unreadable_ratio=float((counters < 0).mean()),
        sync_ms_start=_median(sync_ms[:_MEDIAN_OF]),
        sync_ms_end=_median(sync_ms[-_MEDIAN_OF:]),
        kbps=size_bytes * 8 / 1000 / seconds,
        video_kbps=watched.video_bytes * 8 / 1000 / seconds,
        mb_per_hour=size_bytes / 1e6 / seconds * 3600,
    )


def stills(path: Path) -> NDArray[np.float64]:
    """For how long one picture stood still, each time: rows of beginning and length, in seconds."""
    watched = _watch(path)
    return _changes(np.array(watched.times), np.array(watched.counters))[1]


def flashes(path: Path) -> NDArray[np.float64]:
    """When each flash of the page is first seen, in seconds of the recording."""
    watched = _watch(path)
    return _flashes(np.array(watched.times), np.array(watched.is_white))


def ssim(reference: Path, encoded: Path) -> float:
    """How alike the pictures of two files of one size and frame rate are; 1 = the same.

    BenchError: they cannot be compared.
    """
    command = [
        *("ffmpeg", "-nostdin", "-hide_banner", "-i", str(encoded), "-i", str(reference)),
        *("-lavfi", "[0:v][1:v]ssim", "-f", "null", "-"),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_SSIM_SECONDS
        )
    except OSError as error:
        raise BenchError(f"ffmpeg cannot be started: {error.strerror}") from error
    match = re.search(r"SSIM .*All:([0-9.]+)", done.stderr)
    if done.returncode != 0 or match is None:
        raise BenchError(f"{encoded} and {reference} cannot be compared: {done.stderr[-500:]}")
    return float(match[1])


# --- one pass through the file ---


@dataclass(slots=True, kw_only=True)
class _Watched:
    duration_seconds: float
    width: int
    height: int
    times: list[float]
    counters: list[int]
    is_white: list[bool]
    video_bytes: int
    waves: NDArray[np.complex128]
    """Strength and phase of the beep's tone in each millisecond, of which frames hold parts."""


def _watch(path: Path) -> _Watched:
    with av.open(str(path)) as source:
        if not source.streams.video or source.duration is None:
            raise BenchError(f"{path} has no picture")
        picture = source.streams.video[0]
        picture.thread_type = "AUTO"
        duration_seconds = source.duration / av.time_base
        watched = _Watched(
            duration_seconds=duration_seconds,
            width=picture.width,
            height=picture.height,
            times=[],
            counters=[],
            is_white=[],
            video_bytes=0,
            waves=np.zeros(math.ceil((duration_seconds + 1) * _BIN_HZ), np.complex128),
        )
        for packet in source.demux(picture, *source.streams.audio[:1]):
            if packet.stream is picture:
                watched.video_bytes += packet.size
            for frame in packet.decode():
                if isinstance(frame, av.VideoFrame):
                    _see(watched, frame)
                elif isinstance(frame, av.AudioFrame):
                    _hear(watched, frame)
        return watched


def _see(watched: _Watched, frame: av.VideoFrame) -> None:
    if frame.time is None:
        return
    plane = frame.planes[0]
    luma = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    rows = slice(_MARGIN_PIXELS, BLOCK_PIXELS - _MARGIN_PIXELS)
    strip = luma[rows, : _BLOCKS * BLOCK_PIXELS].reshape(-1, _BLOCKS, BLOCK_PIXELS)
    blocks = strip[:, :, _MARGIN_PIXELS:-_MARGIN_PIXELS].mean(axis=(0, 2))
    square = luma[BLOCK_PIXELS : BLOCK_PIXELS + FLASH_PIXELS, :FLASH_PIXELS]
    middle = square[FLASH_PIXELS // 4 : -FLASH_PIXELS // 4, FLASH_PIXELS // 4 : -FLASH_PIXELS // 4]
    white, black = blocks[0], blocks[1]
    watched.times.append(frame.time)
    watched.counters.append(read_counter(blocks))
    watched.is_white.append(
        bool(white - black > _MIN_CONTRAST and middle.mean() > (white + black) / 2)
    )


def read_counter(blocks: NDArray[np.float64]) -> int:
    """Number in a strip, of which the mean luma of each block is given; -1 = unreadable."""
    white, black = blocks[0], blocks[1]
    is_one = blocks > (white + black) / 2
    begins_and_ends = (is_one[0], is_one[1], is_one[-2], is_one[-1])
    payload = is_one[2:-2]
    if (
        white - black < _MIN_CONTRAST
        or begins_and_ends != (True, False, False, True)
        or payload.sum() % 2
    ):
        return -1
    # Of a Gray code each bit of the number is the sum of all bits down to it.
    bits = np.bitwise_xor.accumulate(payload[:COUNTER_BITS])
    return int("".join("1" if bit else "0" for bit in bits), 2)


def _hear(watched: _Watched, frame: av.AudioFrame) -> None:
    if frame.time is None:
        return
    # AAC, as all recordings have it, is decoded to one row of floats for each channel.
    mono = frame.to_ndarray().mean(axis=0)
    rate_hz = frame.sample_rate
    numbers = round(frame.time * rate_hz) + np.arange(len(mono))
    turned = mono * np.exp(-2j * np.pi * BEEP_HZ / rate_hz * numbers) * (2 * _BIN_HZ / rate_hz)
    bins = numbers * _BIN_HZ // rate_hz
    is_inside = (bins >= 0) & (bins < len(watched.waves))
    np.add.at(watched.waves, bins[is_inside], turned[is_inside])


# --- what follows from it ---


def _changes(
    times: NDArray[np.float64], counters: NDArray[np.int64]
) -> tuple[int, NDArray[np.float64]]:
    """How often a new painting is seen, and the times without one, as by `stills`."""
    is_readable = counters >= 0
    seen, seen_at = counters[is_readable], times[is_readable]
    is_new = np.diff(seen, prepend=-1) != 0
    moments = np.concatenate([times[:1], seen_at[is_new], times[-1:]])
    stood_still = np.column_stack([moments[:-1], np.diff(moments)])
    return max(0, int(is_new.sum()) - 1), stood_still


def _flashes(times: NDArray[np.float64], is_white: NDArray[np.bool_]) -> NDArray[np.float64]:
    """When each flash is first seen, in seconds; one that is there at the very start is not."""
    return times[1:][is_white[1:] & ~is_white[:-1]]


def _beeps(waves: NDArray[np.complex128]) -> NDArray[np.float64]:
    """When each beep begins, in seconds."""
    # Strengths, whatever their phases: a recorder that loses a sample is not therefore out of sync.
    strength = np.convolve(np.abs(waves), np.ones(_WINDOW_BINS) / _WINDOW_BINS, mode="valid")
    # Of each 2 s, 80 ms are beep: the strongest hundredth is, even if most beeps are missing.
    level = np.percentile(strength, 99)
    if level < _MIN_AMPLITUDE:
        return np.zeros(0)
    is_loud = np.concatenate([[False], strength > level / 2, [False]])
    edges = np.flatnonzero(np.diff(is_loud.astype(np.int8)))
    begins, ends = edges[::2], edges[1::2]
    begins = begins[(ends - begins >= _MIN_BEEP_BINS) & (begins > 0)]
    below, above = strength[begins - 1], strength[begins]
    crossing = begins - 1 + (level / 2 - below) / (above - below)
    # A window that is half full has the beginning in its middle.
    return np.asarray((crossing + _WINDOW_BINS / 2) / _BIN_HZ)


def _sync_ms(flashes: NDArray[np.float64], beeps: NDArray[np.float64]) -> list[float]:
    """Beep minus flash for each flash that has a beep, in their order."""
    if not len(beeps):
        return []
    distances = beeps[np.newaxis, :] - flashes[:, np.newaxis]
    nearest = distances[np.arange(len(flashes)), np.abs(distances).argmin(axis=1)]
    return [1000 * float(one) for one in nearest if abs(one) < _PAIR_SECONDS]


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None
