# SPDX-License-Identifier: Apache-2.0
"""A process that transcribes calls as the transcriber worker does; measured as a whole."""

from pathlib import Path

from callsd_bench.shared.child import Heard, Request, read_request, tell_progress, write_result
from callsd_worker.transcriber.pipeline import (
    ModelFiles,
    Progress,
    Settings,
    Track,
    Transcript,
    transcribe,
)


def main() -> None:
    """Transcribe the requested calls one after the other."""
    request = read_request()
    transcripts = [_transcribe(request, index) for index in range(len(request.calls))]
    write_result(
        request,
        [
            [
                Heard(
                    speaker=segment.speaker,
                    start_seconds=segment.start_seconds,
                    end_seconds=segment.end_seconds,
                    text=segment.text,
                )
                for segment in transcript.segments
            ]
            for transcript in transcripts
        ],
        engine=transcripts[0].engine,
    )


def _transcribe(request: Request, index: int) -> Transcript:
    def on_progress(progress: Progress) -> None:
        done = progress.processed_seconds / max(progress.total_seconds, 1e-3)
        tell_progress(request, (index + done) / len(request.calls))

    return transcribe(
        [Track(source=Path(path), speaker=speaker) for speaker, path in request.calls[index]],
        Settings(
            model=ModelFiles(name=request.model_name, directory=Path(request.model_directory)),
            engine=request.engine,
            threads=request.threads,
            language=request.language,
        ),
        on_progress=on_progress,
        should_stop=lambda: False,
    )


if __name__ == "__main__":
    main()
