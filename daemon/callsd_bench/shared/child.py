# SPDX-License-Identifier: Apache-2.0
"""The corridor between a benchmark and the processes it measures: one request, one result."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Calls to transcribe, each a list of (speaker, path of the track)."""

    calls: list[list[tuple[str, str]]]
    model_name: str
    model_directory: str
    engine: str
    threads: int
    language: str
    """Whisper's code; empty: it is detected."""
    result_path: str
    progress_path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One segment of a result; times in seconds of the call."""

    speaker: str
    start_seconds: float
    end_seconds: float
    text: str


def encode_request(request: Request) -> bytes:
    """The request as the child reads it from stdin."""
    return json.dumps(asdict(request)).encode()


def read_request() -> Request:
    """The request that this process was started for."""
    return Request(**json.loads(sys.stdin.buffer.read()))


def write_result(request: Request, heard: list[list[Heard]], *, engine: str) -> None:
    """Leave what was heard, per call, where the benchmark looks for it."""
    document = {"engine": engine, "calls": [[asdict(part) for part in call] for call in heard]}
    Path(request.result_path).write_text(json.dumps(document))


def read_result(path: Path) -> tuple[list[list[Heard]], str]:
    """What was heard per call, and the engine that heard it."""
    document = json.loads(path.read_bytes())
    return [[Heard(**part) for part in call] for call in document["calls"]], document["engine"]


def tell_progress(request: Request, share_done: float) -> None:
    """Leave how far the work is, 0 to 1."""
    Path(request.progress_path).write_text(f"{share_done:.4f}")


def read_progress(path: Path) -> float:
    """How far the child is, 0 to 1; 0 while it has not told."""
    try:
        return float(path.read_text() or 0)
    except (OSError, ValueError):
        return 0.0
