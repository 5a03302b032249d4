# SPDX-License-Identifier: Apache-2.0
"""Runs the captions baseline and puts what it showed in the form of our own captions."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from callsd_bench.captions.figures import Shown
from callsd_bench.captions.player import TICK_SECONDS
from callsd_bench.captions.report import Counts, Measured
from callsd_bench.shared.accuracy import HeardSegment
from callsd_bench.shared.call import Call
from callsd_bench.shared.child import read_progress
from callsd_bench.shared.errors import BenchError
from callsd_bench.shared.measure import Cost, run_measured
from callsd_bench.shared.progress import ProgressLine


NUM_TRANSCRIBERS = 1
MAX_THREADS = 2
"""Recognisers of each call and threads of each: what the original has by default. Its threads wait
for one another, and make no headway at all when there are more of them than cores."""

_WEIGHTS = Path("ggml") / "f16.bin"


def check_baseline(model: Path) -> None:
    """BenchError: the model's directory lacks what the baseline needs."""
    if not (model / _WEIGHTS).is_file():
        raise BenchError(
            f"the baseline needs {model / _WEIGHTS}: "
            f"callsd models pull {model.name}, or --baseline none"
        )


def run_baseline(
    call: Call, *, calls: int, stagger_seconds: float, model: Path, language: str, scratch: Path
) -> tuple[Measured, int]:
    """Let the baseline hear `calls` copies of a call; also returns the packets that it dropped."""
    result_path, progress_path = scratch / "baseline.json", scratch / "baseline.progress"
    tracks = [(track.speaker, str(track.path)) for track in call.tracks]
    request = {
        "calls": [{"tracks": tracks}] * calls,
        "model_directory": str(model),
        "stagger_seconds": stagger_seconds,
        "seconds": call.duration_seconds,
        "num_transcribers": NUM_TRANSCRIBERS,
        "num_threads": max(1, min(MAX_THREADS, len(os.sched_getaffinity(0)) // calls)),
        "result_path": str(result_path),
        "progress_path": str(progress_path),
        "language": language,
    }
    with ProgressLine(f"baseline, {model.name}, {calls} call(s)") as line:
        cost = run_measured(
            [sys.executable, "-m", "callsd_bench.captions.baseline.calls"],
            json.dumps(request).encode(),
            on_sample=lambda elapsed_seconds, peak_bytes: line.show(
                read_progress(progress_path), elapsed_seconds, peak_bytes
            ),
            sample_seconds=TICK_SECONDS,
        )
    result = json.loads(result_path.read_bytes())
    return measured_baseline(
        result,
        calls=calls,
        # Packets are made beforehand, which is not what is measured.
        cost=replace(
            cost,
            cpu_seconds=result["jobs_cpu_seconds"],
            wall_seconds=call.duration_seconds + (calls - 1) * stagger_seconds,
        ),
    )


def measured_baseline(result: dict[str, Any], *, calls: int, cost: Cost) -> tuple[Measured, int]:
    """What the baseline's own document says.

    A caption has the window that it was made from. Its text replaces that of the same window, and
    nothing tells where a turn begins in it: both are taken in its favour.
    """
    finals: list[list[HeardSegment]] = [[] for _ in range(calls)]
    for text in result["final_texts"]:
        finals[text["call"]].append(
            HeardSegment(
                speaker=text["speaker"], start_seconds=text["start_seconds"], text=text["text"]
            )
        )
    measured = Measured(
        captions=[_shown(caption) for caption in result["captions"]],
        new_audio_seconds=[caption["new_audio_len_ms"] / 1000 for caption in result["captions"]],
        finals=finals,
        counts=Counts(
            skipped_seconds=None,
            windows_dropped=result["windows_dropped"],
            buffer_full=result["buffer_full"],
        ),
        cost=cost,
    )
    return measured, result["pkt_payload_ch_buf_full"]


def _shown(caption: dict[str, Any]) -> Shown:
    return Shown(
        call=caption["call"],
        speaker=caption["speaker"],
        segment=str(caption["window_start_seconds"]),
        text=caption["text"],
        text_start_seconds=caption["window_end_seconds"],
        heard_from_seconds=caption["window_start_seconds"],
        heard_to_seconds=caption["window_end_seconds"],
        arrival_seconds=caption["emitted_seconds"],
    )
