# SPDX-License-Identifier: Apache-2.0
"""Calls transcribed in a fresh process, which is measured as a whole."""

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from callsd_bench.shared.accuracy import HeardSegment
from callsd_bench.shared.call import Call
from callsd_bench.shared.child import Request, encode_request, read_progress, read_result
from callsd_bench.shared.measure import Cost, run_measured


OURS = "callsd_bench.shared.ours"
"""The module that transcribes as callsd does."""

OnProgress = Callable[[float, float, int], None]
"""Called with the share that is done, the seconds since the start, and the peak of memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcribed:
    """What was heard in each call, by which engine, and what that took."""

    heard: list[list[HeardSegment]]
    engine: str
    cost: Cost


def transcribe_apart(
    calls: Sequence[Call],
    *,
    module: str,
    model: Path,
    threads: int,
    engine: str,
    language: str = "",
    on_progress: OnProgress,
) -> Transcribed:
    """Run a module that transcribes: `python -m module`. BenchError: it failed.

    `language` empty = it is detected.
    """
    with tempfile.TemporaryDirectory(prefix="callsd-bench-") as scratch:
        result_path, progress_path = Path(scratch) / "result.json", Path(scratch) / "progress"
        request = Request(
            calls=[[(track.speaker, str(track.path)) for track in call.tracks] for call in calls],
            model_name=model.name,
            model_directory=str(model),
            engine=engine,
            threads=threads,
            language=language,
            result_path=str(result_path),
            progress_path=str(progress_path),
        )
        cost = run_measured(
            [sys.executable, "-m", module],
            encode_request(request),
            on_sample=lambda elapsed_seconds, peak_bytes: on_progress(
                read_progress(progress_path), elapsed_seconds, peak_bytes
            ),
        )
        heard, engine_used = read_result(result_path)
    segments = [
        [
            HeardSegment(speaker=part.speaker, start_seconds=part.start_seconds, text=part.text)
            for part in call
        ]
        for call in heard
    ]
    return Transcribed(heard=segments, engine=engine_used, cost=cost)
