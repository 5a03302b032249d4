# SPDX-License-Identifier: Apache-2.0
"""The baseline: post-call transcription by the rules of the transcriber that calls have today.

Tracks one after another, each with a whisper.cpp context of its own (f16 weights, greedy,
language detected for every part, previous text as prompt); a track is split where a Silero
detector hears no speech for two seconds, and the parts are recognised one by one, each in whole
30 s encoder windows. The voice network is the original's own, Silero v5, stepped window by window:
a later one cuts off beginnings, which the baseline would pay for in words.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from callsd_bench.shared.baseline_vad import SileroVad, SpeechRules, speech_parts
from callsd_bench.shared.child import Heard, Request, read_request, tell_progress, write_result
from callsd_worker.media.decode import SAMPLE_RATE_HZ, AudioStream


Samples = NDArray[np.float32]

RULES = SpeechRules(min_silence_samples=2 * SAMPLE_RATE_HZ, pad_samples=SAMPLE_RATE_HZ // 10)
# A hole in a track longer than this begins a new chunk; a shorter one is closed up.
MAX_HOLE_SAMPLES = SAMPLE_RATE_HZ
# The engine gives no text for less.
MIN_PART_SAMPLES = SAMPLE_RATE_HZ

# Smallest vocabulary of a multilingual model; the first dimension in a GGML header.
_MULTILINGUAL_VOCABULARY = 51_865


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Audio without a long hole; `start_sample` is its place in the track."""

    start_sample: int
    samples: Samples


def main() -> None:
    """Transcribe the requested calls one after the other."""
    request = read_request()
    tracks_in_all = sum(len(call) for call in request.calls)
    tracks_done = 0
    heard = []
    for call in request.calls:
        segments: list[Heard] = []
        for speaker, path in call:
            for done, part in _transcribe_track(request, speaker, Path(path)):
                segments += part
                tell_progress(request, (tracks_done + done) / tracks_in_all)
            tracks_done += 1
        # All tracks' segments, merged by time.
        heard.append(sorted(segments, key=lambda segment: segment.start_seconds))
    write_result(request, heard, engine="whispercpp")


def chunks(blocks: Iterable[tuple[int, Samples]]) -> Iterator[Chunk]:
    """Join (start sample, samples) blocks: a hole of more than 1 s begins a new chunk.

    A shorter hole is closed up, so that time within a chunk shrinks by it.
    """
    start, end = 0, 0
    collected: list[Samples] = []
    for block_start, samples in blocks:
        if collected and block_start - end > MAX_HOLE_SAMPLES:
            yield Chunk(start_sample=start, samples=np.concatenate(collected))
            collected = []
        if not collected:
            start = block_start
        collected.append(samples)
        end = block_start + len(samples)
    if collected:
        yield Chunk(start_sample=start, samples=np.concatenate(collected))


def _transcribe_track(
    request: Request, speaker: str, path: Path
) -> Iterator[tuple[float, list[Heard]]]:
    """Yield, part by part, the share of the track that is done and what was heard."""
    with AudioStream(path) as stream:
        track = list(chunks((block.start_sample, block.samples) for block in stream.blocks()))
    detector = SileroVad()
    model = _load(request)
    samples_in_all = sum(len(chunk.samples) for chunk in track) or 1
    samples_before = 0
    for chunk in track:
        probabilities = detector.probabilities(chunk.samples)
        parts = speech_parts(probabilities, RULES, sample_count=len(chunk.samples))
        for start, end in parts:
            part = chunk.samples[start:end]
            offset_seconds = (chunk.start_sample + start) / SAMPLE_RATE_HZ
            segments = model.transcribe(part) if len(part) >= MIN_PART_SAMPLES else []
            heard = [
                Heard(
                    speaker=speaker,
                    start_seconds=offset_seconds + segment.t0 / 100,
                    end_seconds=offset_seconds + segment.t1 / 100,
                    text=" ".join(segment.text.split()),
                )
                for segment in segments
            ]
            yield (samples_before + end) / samples_in_all, heard
        samples_before += len(chunk.samples)


def _load(request: Request) -> Any:
    from pywhispercpp.model import Model

    path = Path(request.model_directory) / "ggml" / "f16.bin"
    with path.open("rb") as file:
        vocabulary = int.from_bytes(file.read(8)[4:], "little")
    return Model(
        str(path),
        redirect_whispercpp_logs_to=None,
        # The original's release has no flash attention by default.
        context_params={"flash_attn": False, "use_gpu": False},
        n_threads=request.threads,
        no_context=False,
        # A model that knows English only has nothing to detect.
        language="auto" if vocabulary >= _MULTILINGUAL_VOCABULARY else "en",
        print_progress=False,
        print_timestamps=False,
    )


if __name__ == "__main__":
    main()
