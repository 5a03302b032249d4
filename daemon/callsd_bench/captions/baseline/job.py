# SPDX-License-Identifier: Apache-2.0
"""One call of the captions baseline: a process of its own, as each call has its own container.

A loop per track on a 2 s ticker, one queue with room for one window for all of them, and
recognisers each with a copy of the model (whisper.cpp: greedy, f16, 512 encoder positions, one
segment, no text from before). Every track has a Silero v5 session of its own.
"""

import contextlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import _pywhispercpp as native

from callsd_bench.captions.baseline.packets import PACKET_SECONDS, PacketQueue
from callsd_bench.captions.baseline.reader import Caption
from callsd_bench.captions.baseline.window import Offer, Samples, TrackWindow
from callsd_bench.shared.baseline_vad import SileroVad


TICK_SECONDS = 2.0
QUEUE_WINDOWS = 1
ENCODER_POSITIONS = 512

# Speakers stay for two more ticks, so that their last words get their caption.
TAIL_SECONDS = 2 * TICK_SECONDS
# Minutes for a window are seen where jobs have more threads than there are cores; not more.
_RECOGNITION_TIMEOUT_SECONDS = 300.0
_CHECK_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """One call; tracks are (speaker, stem of the packets' files)."""

    tracks: list[tuple[str, str]]
    seconds: float
    model_path: str
    language: str
    num_transcribers: int
    num_threads: int
    result_path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """What was shown, and the original's three counters."""

    captions: list[Caption]
    windows_dropped: int
    buffer_full: int
    pkt_payload_ch_buf_full: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    samples: Samples
    text: Future[str]


class _Recogniser:
    """A whisper.cpp context."""

    def __init__(self, request: JobRequest) -> None:
        self._context = _load(request.model_path)
        strategy = native.whisper_sampling_strategy.WHISPER_SAMPLING_GREEDY
        self._parameters: Any = native.whisper_full_default_params(strategy)
        self._parameters.n_threads = request.num_threads
        self._parameters.no_context = True
        self._parameters.audio_ctx = ENCODER_POSITIONS
        self._parameters.single_segment = True
        self._parameters.language = request.language
        self._parameters.print_progress = False

    def text(self, samples: Samples) -> str:
        code = native.whisper_full(self._context, self._parameters, samples, samples.size)
        if code != 0:
            raise RuntimeError(f"whisper.cpp failed with code {code}: verify the model")
        if not native.whisper_full_n_segments(self._context):
            return ""
        raw: bytes = native.whisper_full_get_segment_text(self._context, 0)
        return raw.decode(errors="replace").strip()


class Track:
    """A speaker's loop."""

    def __init__(self, speaker: str, packets: PacketQueue, tasks: "queue.Queue[_Task]") -> None:
        self.packets = packets
        self.window = TrackWindow(SileroVad().probabilities)
        self.captions: list[Caption] = []
        self.buffer_full = 0
        self._speaker = speaker
        self._tasks = tasks

    def run(self, *, started_at: float, end_seconds: float) -> None:
        """Live through the call, which began at this time of the monotonic clock."""
        if self.packets.first_seconds is None:
            return
        # The ticker begins when the first packet makes the track, before it is queued: so a tick
        # in time brings 2 s of audio, even if it comes some milliseconds late.
        due_seconds = self.packets.first_seconds - PACKET_SECONDS / 2 + TICK_SECONDS
        while due_seconds < end_seconds:
            time.sleep(max(0.0, started_at + due_seconds - time.monotonic()))
            now_seconds = time.monotonic() - started_at
            arrived = self.packets.drain(now_seconds=now_seconds)
            offer = self.window.tick(arrived, now_seconds=now_seconds)
            text = self._offer(offer) if offer else None
            now_seconds = time.monotonic() - started_at
            if offer and text:
                self.captions.append(
                    Caption(
                        speaker=self._speaker,
                        text=text,
                        window_start_seconds=offer.start_seconds,
                        window_end_seconds=offer.end_seconds,
                        new_audio_len_ms=offer.new_audio_ms,
                        emitted_seconds=now_seconds,
                    )
                )
            due_seconds = next_tick(
                due_seconds, now_seconds=now_seconds, has_waited=text is not None
            )

    def _offer(self, offer: Offer) -> str | None:
        """The text; None if there was no room for the window."""
        task = _Task(samples=offer.samples, text=Future())
        try:
            self._tasks.put_nowait(task)
        except queue.Full:
            self.buffer_full += 1
            return None
        return task.text.result(_RECOGNITION_TIMEOUT_SECONDS)


def next_tick(due_seconds: float, *, now_seconds: float, has_waited: bool) -> float:
    """When the next tick is, given when the last one was due and the time now.

    Ticks during the wait for a text are lost. One that fell due otherwise is made up for at once.
    """
    missed = max(0, int((now_seconds - due_seconds) / TICK_SECONDS))
    return due_seconds + TICK_SECONDS * (missed + 1 if has_waited else max(1, missed))


def run_job(request: JobRequest) -> JobResult:
    """Caption one call in real time; its clock begins when the models are loaded."""
    tasks: queue.Queue[_Task] = queue.Queue(QUEUE_WINDOWS)
    tracks = [Track(speaker, PacketQueue(Path(stem)), tasks) for speaker, stem in request.tracks]
    for _ in range(request.num_transcribers):
        _start(_recognise, _Recogniser(request), tasks)
    started_at = time.monotonic()
    end_seconds = request.seconds + TAIL_SECONDS
    running = {
        _start(lambda track=track: track.run(started_at=started_at, end_seconds=end_seconds))
        for track in tracks
    }
    parent = os.getppid()
    while running:
        done, running = wait(running, _CHECK_SECONDS, return_when=FIRST_EXCEPTION)
        for track_end in done:
            track_end.result()
        if os.getppid() != parent:
            raise RuntimeError("the benchmark has gone")
    captions = [caption for track in tracks for caption in track.captions]
    return JobResult(
        captions=sorted(captions, key=lambda caption: caption.emitted_seconds),
        windows_dropped=sum(track.window.windows_dropped for track in tracks),
        buffer_full=sum(track.buffer_full for track in tracks),
        pkt_payload_ch_buf_full=sum(track.packets.packets_dropped for track in tracks),
    )


def main() -> None:
    """Run the job that is asked for on stdin."""
    request = JobRequest(**json.loads(sys.stdin.buffer.read()))
    result = run_job(request)
    Path(request.result_path).write_text(json.dumps(asdict(result)))


def _load(model_path: str) -> Any:
    parameters = native.whisper_context_default_params()
    parameters.use_gpu = False
    # The original's release has no flash attention by default.
    parameters.flash_attn = False
    log: list[str] = []
    native.whisper_log_set(lambda *entry: log.append(str(entry[-1]).strip()))
    try:
        context = native.whisper_init_from_file_with_params(model_path, parameters)
    finally:
        # A callback that is still set when the interpreter ends crashes it.
        native.whisper_log_set(None)
    # A context is returned even if there is none inside; only the log tells.
    if any("failed" in line for line in log):
        raise RuntimeError(f"{model_path}: {' '.join(log)}; pull the model again")
    return context


def _recognise(recogniser: _Recogniser, tasks: "queue.Queue[_Task]") -> None:
    while True:
        with contextlib.suppress(queue.Empty):
            task = tasks.get(timeout=_CHECK_SECONDS)
            try:
                task.text.set_result(recogniser.text(task.samples))
            except RuntimeError as error:
                # The original would go on without this recogniser; its figures would mean nothing.
                task.text.set_exception(error)


def _start(function: Callable[..., None], *arguments: object) -> "Future[None]":
    """Run it on a thread that ends with the process at the latest."""
    end: Future[None] = Future()

    def run() -> None:
        try:
            function(*arguments)
        except Exception as error:  # noqa: BLE001 - whoever waits for the end raises it
            end.set_exception(error)
        else:
            end.set_result(None)

    threading.Thread(target=run, daemon=True).start()
    return end


if __name__ == "__main__":
    main()
