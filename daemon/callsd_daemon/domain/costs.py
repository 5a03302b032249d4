# SPDX-License-Identifier: Apache-2.0
"""What a job is charged: declared floors, raised by what such jobs really used here."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from callsd_daemon.domain.captions import CaptionsSpec
from callsd_daemon.domain.capture import CaptureSpec
from callsd_daemon.domain.jobs import Reservation, Usage
from callsd_daemon.domain.recording import Quality, RecordingSpec
from callsd_daemon.domain.transcription import TranscriptionSpec


N = TypeVar("N", int, float)

MIB = 1024 * 1024

MEMORY_FLOORS_BYTES = {
    "tiny": 350 * MIB,
    "base": 550 * MIB,
    "small": 1100 * MIB,
    "moonshine-base": 550 * MIB,
}
"""Peak memory of a transcription by model size, as measured by `callsd bench transcription`."""

MEMORY_FLOOR_UNKNOWN_BYTES = 2048 * MIB
"""For a model we have no figure of: better too much than a machine that swaps."""

DISK_FLOOR_BYTES = 64 * MIB
"""Log and transcript of one transcription, or of one call's captions."""

CAPTIONER_MEMORY_BYTES = {
    "tiny": 350 * MIB,
    "base": 450 * MIB,
    "small": 900 * MIB,
    "moonshine-base": 450 * MIB,
}
"""What a captioner needs before it serves its first call, by model size; each call adds its own."""

CALL_MEMORY_BYTES = 32 * MIB
"""Sound that one call holds in the daemon and in the captioner."""

SPEAKER_CORES = {"tiny": 0.05, "base": 0.085, "small": 0.3, "moonshine-base": 0.085}
"""Cores for each of those who may talk at once, by model size: of two, one talks at a time. Those
of base are what ten calls take on two cores by `callsd bench captions`; with fewer calls a
captioner takes more, in order to be faster, and gives it back. Moonshine is charged what base
is."""

SPEAKER_CORES_UNKNOWN = 0.5
"""For a model we have no figure of."""


RECORDING_CORES = 0.15
"""What a recording takes however small its picture: the sound, the page's script."""

PIXEL_RATE_CORES = 1.7e-8
"""Cores for each pixel a second that is shown, grabbed and coded; with the cores above, what a busy
page takes by `callsd bench recording`. A page on which little moves takes half of it."""

RECORDING_MEMORY_BYTES = 500 * MIB
"""Browser, display and encoder at 1280 × 720."""

PIXEL_MEMORY_BYTES = 120
"""What each pixel beyond that adds: every program holds some pictures."""

KBIT_BYTES = 125

CAPTURE_CORES = 0.08
"""What receiving eight speakers takes."""

CAPTURE_MEMORY_BYTES = 160 * MIB

CAPTURE_BYTES_A_SECOND = 60_000
"""Four who talk at once, each with 50 packets of 120 bytes and what is noted of them, and the files
made of these at the end. Calls in which more talk for hours are rare."""

JOINING_COPIES = 2
"""In the end there are the pieces and the file that is joined from them."""


def transcription_cost_key(spec: TranscriptionSpec, threads: int) -> str:
    """Jobs with the same key are expected to cost the same."""
    return f"transcription/{spec.engine}/{spec.model}/{threads}"


def transcription_cost(
    spec: TranscriptionSpec, threads: int, observed: Sequence[Usage]
) -> Reservation:
    """What to charge for a transcription with `threads` threads.

    `observed` is what the latest jobs with the same key used. Cores are the threads: a batch job
    uses all of what it is given.
    """
    floor = _of_size(MEMORY_FLOORS_BYTES, spec.model, MEMORY_FLOOR_UNKNOWN_BYTES)
    measured = _p95([usage.peak_memory_bytes for usage in observed])
    return Reservation(
        cores=float(threads), memory_bytes=max(floor, measured), disk_bytes=DISK_FLOOR_BYTES
    )


def captions_cost_key(spec: CaptionsSpec) -> str:
    """Jobs with the same key are expected to cost the same."""
    return f"captions/{spec.model}/{spec.max_active_speakers}"


def captions_cost(spec: CaptionsSpec, observed: Sequence[Usage]) -> Reservation:
    """What to charge for a call's captions, beside the captioner that serves it."""
    cores = _of_size(SPEAKER_CORES, spec.model, SPEAKER_CORES_UNKNOWN) * spec.max_active_speakers
    measured = [usage.cpu_seconds / usage.wall_seconds for usage in observed if usage.wall_seconds]
    return Reservation(
        cores=max(cores, _p95(measured)),
        memory_bytes=CALL_MEMORY_BYTES,
        disk_bytes=DISK_FLOOR_BYTES,
    )


def captioner_cost(model: str) -> Reservation:
    """What a captioner holds however many calls it serves."""
    memory = _of_size(CAPTIONER_MEMORY_BYTES, model, MEMORY_FLOOR_UNKNOWN_BYTES)
    return Reservation(memory_bytes=memory)


def capture_cost_key(spec: CaptureSpec) -> str:
    """Jobs with the same key are expected to cost the same."""
    return "capture" if spec.captions is None else f"capture/{captions_cost_key(spec.captions)}"


def capture_cost(spec: CaptureSpec, max_duration_seconds: float) -> Reservation:
    """What to charge for capturing a call for so long, beside the captioner that serves it."""
    captions = Reservation() if spec.captions is None else captions_cost(spec.captions, ())
    return captions + Reservation(
        cores=CAPTURE_CORES,
        memory_bytes=CAPTURE_MEMORY_BYTES,
        disk_bytes=DISK_FLOOR_BYTES + round(CAPTURE_BYTES_A_SECOND * max_duration_seconds),
    )


def recording_cost_key(spec: RecordingSpec) -> str:
    """Jobs with the same key are expected to cost the same."""
    q = spec.quality
    return f"recording/{q.width}x{q.height}/{q.frame_rate}/{q.video_kbps}/{spec.audio_only}"


def recording_cost(
    spec: RecordingSpec, max_duration_seconds: float, observed: Sequence[Usage]
) -> Reservation:
    """What to charge for a recording that may run for so long."""
    quality = spec.quality
    pixels = quality.width * quality.height
    cores = RECORDING_CORES
    if not spec.audio_only:
        cores += PIXEL_RATE_CORES * pixels * quality.frame_rate
    measured = [usage.cpu_seconds / usage.wall_seconds for usage in observed if usage.wall_seconds]
    memory = RECORDING_MEMORY_BYTES + PIXEL_MEMORY_BYTES * max(0, pixels - 1280 * 720)
    peaks = _p95([usage.peak_memory_bytes for usage in observed])
    return Reservation(
        cores=max(cores, _p95(measured)),
        memory_bytes=max(memory, peaks),
        disk_bytes=DISK_FLOOR_BYTES + round(recording_bytes(quality, spec, max_duration_seconds)),
    )


def recording_bytes(quality: Quality, spec: RecordingSpec, seconds: float) -> float:
    """Disk that a recording of this length takes, while it is put together."""
    kbps = quality.audio_kbps + (0 if spec.audio_only else quality.video_kbps)
    return JOINING_COPIES * kbps * KBIT_BYTES * seconds


def _of_size(figures: Mapping[str, N], model: str, unknown: N) -> N:
    return figures.get(model.partition(".")[0], unknown)


def _p95(values: Sequence[N]) -> N | int:
    if not values:
        return 0
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]
