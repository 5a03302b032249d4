# SPDX-License-Identifier: Apache-2.0
"""What a job is charged: declared floors, raised by what such jobs really used here."""

import math
from collections.abc import Sequence

from callsd_daemon.domain.jobs import Reservation, Usage
from callsd_daemon.domain.transcription import TranscriptionSpec


MIB = 1024 * 1024

MEMORY_FLOORS_BYTES = {"tiny": 350 * MIB, "base": 550 * MIB, "small": 1100 * MIB}
"""Peak memory of a transcription by model size, as measured by `callsd bench transcription`."""

MEMORY_FLOOR_UNKNOWN_BYTES = 2048 * MIB
"""For a model we have no figure of: better too much than a machine that swaps."""

DISK_FLOOR_BYTES = 64 * MIB
"""Log and transcript of one transcription."""


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
    size = spec.model.partition(".")[0]
    floor = MEMORY_FLOORS_BYTES.get(size, MEMORY_FLOOR_UNKNOWN_BYTES)
    measured = _p95([usage.peak_memory_bytes for usage in observed])
    return Reservation(
        cores=float(threads), memory_bytes=max(floor, measured), disk_bytes=DISK_FLOOR_BYTES
    )


def _p95(values: Sequence[int]) -> int:
    if not values:
        return 0
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]
