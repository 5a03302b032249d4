# SPDX-License-Identifier: Apache-2.0
"""`make demo`: a daemon of its own, a call with four speakers, its transcript, how good it is.

`make demo-captions`: the same call, captioned while it goes on.

`make demo-recording`: a page that plays the call, recorded for 20 s.

Everything lies in a temporary directory, except the weights, which are kept in `.cache/models`.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from callsd import Client
from callsd_bench.recording.pages import PageServer
from callsd_bench.shared.accuracy import HeardSegment, word_error_rate
from callsd_bench.shared.call import load_call


ROOT = Path(__file__).resolve().parent.parent
CALLSD = Path(sys.executable).with_name("callsd")
CALL = ROOT / "daemon" / "callsd_bench" / "sample_call"
MODELS = ROOT / ".cache" / "models"
MODEL = "tiny.en"
RECORDING = ROOT / ".cache" / "demo.mp4"
RECORDING_SECONDS = 20

START_TIMEOUT_SECONDS = 20.0
STOP_TIMEOUT_SECONDS = 40.0
PULL_TIMEOUT_SECONDS = 600.0
JOB_TIMEOUT_SECONDS = 300.0


def main() -> int:
    """Run the demonstration; returns the exit status."""
    if sys.argv[1:] != ["recording"]:
        step(f"the model {MODEL} (fetched once, kept in {MODELS.relative_to(ROOT)})")
        run(
            *("models", "pull", MODEL, "--models-dir", str(MODELS)),
            timeout_seconds=PULL_TIMEOUT_SECONDS,
        )
    with tempfile.TemporaryDirectory(prefix="callsd-demo-") as directory:
        place = Path(directory)
        step("a daemon of its own")
        with daemon(place) as address:
            print(f"    listening on {address}")
            match sys.argv[1:]:
                case ["captions"]:
                    caption(address)
                case ["recording"]:
                    record(address)
                case _:
                    transcribe(address, place / "out")
            step("stopping the daemon")
    print("    stopped cleanly, nothing left behind")
    return 0


def transcribe(address: str, out: Path) -> None:
    """A call that is over."""
    step("a call of 74 s with 4 speakers: upload, transcribe, fetch")
    run(
        *("--address", address, "jobs", "create", "--call", str(CALL)),
        *("--model", MODEL, "--follow", "--output", str(out)),
        timeout_seconds=JOB_TIMEOUT_SECONDS,
    )
    step("the transcript")
    print((out / "transcript.txt").read_text(encoding="utf-8"))
    step("how good, how fast")
    print(verdict(out, address))


def caption(address: str) -> None:
    """A call that goes on."""
    step("a call of 74 s with 4 speakers, in real time: what they say, as they say it")
    run(
        *("--address", address, "captions", "stream", "--call", str(CALL)),
        *("--model", MODEL, "--realtime"),
        timeout_seconds=JOB_TIMEOUT_SECONDS,
    )


def record(address: str) -> None:
    """A call's page."""
    with PageServer(CALL) as pages:
        step(f"a page with a call of 4 speakers, recorded for {RECORDING_SECONDS} s")
        run(
            *("--address", address, "record", pages.url("typical", call=1)),
            *("--ready", "window.callsClient?.connected", "--over", "window.callsClient.closed"),
            *("--duration", str(RECORDING_SECONDS), "--output", str(RECORDING)),
            timeout_seconds=JOB_TIMEOUT_SECONDS,
        )
    step("what is in the file")
    shown = "stream=codec_name,width,height,avg_frame_rate,channels,bit_rate,nb_frames"
    subprocess.run(
        [
            *("ffprobe", "-v", "error", "-of", "default=noprint_wrappers=1"),
            *("-show_entries", f"{shown}:format=format_name,duration,size", str(RECORDING)),
        ],
        check=True,
        timeout=STOP_TIMEOUT_SECONDS,
    )
    print(f"    play it: {RECORDING.relative_to(ROOT)}")


def verdict(out: Path, address: str) -> str:
    """Word error rate against what was really said, and the speed the server reports."""
    call = load_call(CALL)
    transcript = json.loads((out / "transcript.json").read_text(encoding="utf-8"))
    heard = [
        HeardSegment(
            speaker=segment["speaker"],
            start_seconds=segment["start_seconds"],
            text=segment["text"],
        )
        for segment in transcript["segments"]
    ]
    wer = word_error_rate([call], [heard])
    with Client(address) as client:
        job = next(iter(client.list_jobs()))
    took = job.end_time.ToDatetime() - job.create_time.ToDatetime()
    return (
        f"    word error rate  {wer:.1%} of {sum(len(t.text.split()) for t in call.turns)} words\n"
        f"    speed            {job.transcription_result.real_time_factor:.1f} × real time for the "
        "work,\n"
        f"                     {call.duration_seconds / took.total_seconds():.1f} × from "
        f"acceptance to result ({took.total_seconds():.1f} s, start and model load included)"
    )


@contextlib.contextmanager
def daemon(place: Path, **settings: str) -> Iterator[str]:
    """A daemon in `place`; yields its address and stops it at the end.

    `settings` are variables of its environment.
    """
    address = f"unix:{place}/run/callsd.sock"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("CALLSD_")},
        "CALLSD_STATE_DIRECTORY": str(place / "state"),
        "CALLSD_STATE_RUNTIME_DIRECTORY": str(place / "run"),
        "CALLSD_MODELS_DIRECTORY": str(MODELS),
        "CALLSD_LOG_LEVEL": "warning",
        **settings,
    }
    process = subprocess.Popen([CALLSD, "serve"], env=environment)
    try:
        wait_until_serving(process, address)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(STOP_TIMEOUT_SECONDS)
    if status != 0:
        sys.exit(f"demo: the daemon ended with status {status}")


def wait_until_serving(process: "subprocess.Popen[bytes]", address: str) -> None:
    """Return as soon as the daemon answers."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    socket = Path(address.removeprefix("unix:"))
    while time.monotonic() < deadline and process.poll() is None:
        if socket.exists():
            with Client(address) as client:
                if client.is_serving(timeout_seconds=START_TIMEOUT_SECONDS):
                    return
        time.sleep(0.05)
    sys.exit("demo: the daemon did not start, see above")


def step(title: str) -> None:
    """Say what comes next."""
    print(f"\n==> {title}", flush=True)


def run(*arguments: str, timeout_seconds: float) -> None:
    """Run the command-line tool as a user would; its own words explain a failure."""
    done = subprocess.run([CALLSD, *arguments], check=False, timeout=timeout_seconds)
    if done.returncode != 0:
        sys.exit(f"demo: `callsd {' '.join(arguments)}` failed, see above")


if __name__ == "__main__":
    sys.exit(main())
