# SPDX-License-Identifier: Apache-2.0
"""The baseline: faster-whisper as it comes, with the same weights in the same 8 bits.

One track after another, no voice detection, five beams, the text before as prompt, and decoding
anew at higher temperatures: what it does by default.
"""

from pathlib import Path

from faster_whisper import WhisperModel

from callsd_bench.shared.child import Heard, Request, read_request, tell_progress, write_result


def main() -> None:
    """Transcribe the requested calls one after the other."""
    request = read_request()
    model = WhisperModel(
        str(Path(request.model_directory) / "ctranslate2"),
        device="cpu",
        compute_type="int8",
        cpu_threads=request.threads,
    )
    tracks_in_all = sum(len(call) for call in request.calls)
    tracks_done = 0
    heard = []
    for call in request.calls:
        segments: list[Heard] = []
        for speaker, path in call:
            segments += _transcribe_track(model, request, speaker, path)
            tracks_done += 1
            tell_progress(request, tracks_done / tracks_in_all)
        heard.append(segments)
    write_result(request, heard, engine="faster-whisper")


def _transcribe_track(
    model: WhisperModel, request: Request, speaker: str, path: str
) -> list[Heard]:
    segments, _ = model.transcribe(path, language=request.language or None)
    return [
        Heard(
            speaker=speaker,
            start_seconds=segment.start,
            end_seconds=segment.end,
            text=segment.text.strip(),
        )
        for segment in segments
    ]


if __name__ == "__main__":
    main()
