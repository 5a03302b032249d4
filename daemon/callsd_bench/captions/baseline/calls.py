# SPDX-License-Identifier: Apache-2.0
"""The captions baseline: calls captioned in real time by the rules of today's captioner.

Each call is a job of its own, as today: its own process, model, recognisers and queue. This
process only starts them one after the other and waits. The rules are in `window`, what arrives
when in `packets`, and what a reader is left with in `reader`.
"""

import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from callsd_bench.captions.baseline.reader import Caption, final_texts


COUNTERS = ("windows_dropped", "buffer_full", "pkt_payload_ch_buf_full")

# Hours of audio are decoded in less.
_PREPARATION_TIMEOUT_SECONDS = 600.0
# A job ends a few seconds after its call, unless threads of several jobs wait for each other on
# too few cores: a window then takes minutes.
_JOB_GRACE_SECONDS = 600.0
_POLL_SECONDS = 0.1
_PROGRESS_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to play; the calls begin `stagger_seconds` after each other."""

    calls: list[dict[str, list[tuple[str, str]]]]
    """Each {"tracks": [(speaker, path of the track)]}."""
    model_directory: str
    stagger_seconds: float
    result_path: str
    progress_path: str
    seconds: float | None = None
    """Only the beginning of each call; None: all of it."""
    num_transcribers: int = 1
    num_threads: int = 2
    """Per recogniser. The original's default, and good while all threads of all calls have a core
    each; with fewer cores one thread is far quicker, since several would wait for each other."""
    language: str = "en"
    """Forced, as in the original: nothing is detected."""
    mute_after_seconds: float | None = 1.0
    """A speaker mutes in a pause this long; None: never, so that silence arrives as well."""


def main() -> None:
    """Run the request on stdin."""
    request = Request(**json.loads(sys.stdin.buffer.read()))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        stems = _stems(request, directory)
        call_seconds = _prepare(request, stems)
        before_seconds = _children_cpu_seconds()
        results = _run_jobs(request, stems, directory=directory, call_seconds=call_seconds)
        document = _merged(results)
        document["jobs_cpu_seconds"] = _children_cpu_seconds() - before_seconds
    Path(request.result_path).write_text(json.dumps(document))


def _stems(request: Request, directory: Path) -> dict[str, str]:
    """Where the packets of each track go; copies of a call share them."""
    paths = {path for call in request.calls for _, path in call["tracks"]}
    return {path: str(directory / str(number)) for number, path in enumerate(sorted(paths))}


def _prepare(request: Request, stems: dict[str, str]) -> float:
    """Make packets of the tracks; the length of the calls in seconds."""
    preparation = {
        "tracks": list(stems.items()),
        "seconds": request.seconds,
        "mute_after_seconds": request.mute_after_seconds,
    }
    answer = subprocess.run(
        [sys.executable, "-m", "callsd_bench.captions.baseline.packets"],
        input=json.dumps(preparation).encode(),
        stdout=subprocess.PIPE,
        timeout=_PREPARATION_TIMEOUT_SECONDS,
        check=True,
    )
    return float(json.loads(answer.stdout)["longest_seconds"])


def _run_jobs(
    request: Request, stems: dict[str, str], *, directory: Path, call_seconds: float
) -> list[dict[str, Any]]:
    """Start the jobs in their turn and wait for all; their results, call by call."""
    last_start_seconds = (len(request.calls) - 1) * request.stagger_seconds
    in_all_seconds = last_start_seconds + call_seconds
    began = told_at = time.monotonic()
    jobs: list[subprocess.Popen[bytes]] = []
    with _killed_on_failure(jobs):
        while len(jobs) < len(request.calls) or any(job.poll() is None for job in jobs):
            elapsed_seconds = time.monotonic() - began
            if elapsed_seconds > in_all_seconds + _JOB_GRACE_SECONDS:
                raise TimeoutError(f"no end {_JOB_GRACE_SECONDS:.0f} s after the last call")
            if any(job.poll() for job in jobs):
                raise RuntimeError("a job failed, see above")
            number = len(jobs)
            if number < len(request.calls) and elapsed_seconds >= number * request.stagger_seconds:
                tracks = [
                    (speaker, stems[path]) for speaker, path in request.calls[number]["tracks"]
                ]
                jobs.append(_start_job(request, tracks, directory / f"{number}.json", call_seconds))
            if time.monotonic() - told_at >= _PROGRESS_SECONDS:
                told_at = time.monotonic()
                share_done = min(1.0, elapsed_seconds / in_all_seconds)
                Path(request.progress_path).write_text(f"{share_done:.4f}")
            time.sleep(_POLL_SECONDS)
        if any(job.returncode for job in jobs):
            raise RuntimeError("a job failed, see above")
    return [json.loads((directory / f"{n}.json").read_bytes()) for n in range(len(jobs))]


def _start_job(
    request: Request, tracks: Sequence[tuple[str, str]], result_path: Path, call_seconds: float
) -> "subprocess.Popen[bytes]":
    job_request = {
        "tracks": tracks,
        "seconds": call_seconds,
        "model_path": str(Path(request.model_directory) / "ggml" / "f16.bin"),
        "language": request.language,
        "num_transcribers": request.num_transcribers,
        "num_threads": request.num_threads,
        "result_path": str(result_path),
    }
    job = subprocess.Popen(
        [sys.executable, "-m", "callsd_bench.captions.baseline.job"], stdin=subprocess.PIPE
    )
    assert job.stdin is not None
    with job.stdin:
        job.stdin.write(json.dumps(job_request).encode())
    return job


@contextlib.contextmanager
def _killed_on_failure(jobs: "Sequence[subprocess.Popen[bytes]]") -> Iterator[None]:
    try:
        yield
    except BaseException:
        for job in jobs:
            job.kill()
        for job in jobs:
            job.wait()
        raise


def _merged(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One document of all calls; `call` is the place in the request."""
    captions: list[dict[str, Any]] = []
    texts: list[dict[str, Any]] = []
    for number, result in enumerate(results):
        shown = [Caption(**caption) for caption in result["captions"]]
        captions += [{"call": number, **asdict(caption)} for caption in shown]
        texts += [{"call": number, **asdict(text)} for text in final_texts(shown)]
    return {
        "captions": captions,
        "final_texts": texts,
        **{name: sum(result[name] for result in results) for name in COUNTERS},
    }


def _children_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
