# SPDX-License-Identifier: Apache-2.0
"""A call's captions as files, when it is over."""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from callsd_ipc.v1 import worker_pb2
from callsd_transcript import formats
from callsd_transcript.transcript import Segment, TrackResult, Transcript, Word
from callsd_worker.media.decode import SAMPLE_RATE_HZ
from callsd_worker.session.failures import failure_of
from callsd_worker.session.outcome import ARTIFACTS, write_artifact, write_outcome


log = logging.getLogger(__name__)


class CaptionsFiles:
    """Collects what is to be written, and writes it on a thread of its own.

    Disks may be slow, and captions of other calls shall not wait for one.
    """

    def __init__(self, *, engine: str, on_written: Callable[[str], None]) -> None:
        """`engine` is the name of the one used; `on_written` is told the call's job."""
        self._engine = engine
        self._on_written = on_written
        self._captions: dict[str, list[worker_pb2.CaptionWords]] = defaultdict(list)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="write")

    def take(self, order: worker_pb2.WriteCaptions) -> None:
        """Take some of a call's captions; with the last of them its files are written."""
        self._captions[order.job_id] += order.captions
        if order.is_last:
            captions = self._captions.pop(order.job_id)
            self._writer.submit(self._write, order, captions)

    def close(self) -> None:
        """Wait for what is being written."""
        self._writer.shutdown()

    def _write(
        self, order: worker_pb2.WriteCaptions, captions: Sequence[worker_pb2.CaptionWords]
    ) -> None:
        directory = Path(order.directory)
        try:
            notices = [(notice.code, notice.message) for notice in order.notices]
            transcript = _transcript(captions, engine=self._engine, notices=notices)
            (directory / ARTIFACTS).mkdir(exist_ok=True)
            artifacts = [
                write_artifact(directory, f"captions.{suffix}", media_type, content.encode())
                for suffix, media_type, content in (
                    ("vtt", "text/vtt", formats.to_vtt(transcript.segments)),
                    ("txt", "text/plain", formats.to_text(transcript.segments)),
                    ("json", "application/json", formats.to_json(transcript)),
                )
            ]
            write_outcome(
                directory,
                order.generation,
                artifacts=artifacts,
                notices=notices,
                captions=order.outcome,
                cpu_seconds=order.cpu_seconds,
                wall_seconds=order.wall_seconds,
            )
        except Exception as error:  # noqa: BLE001 - the root of this thread; it is logged there
            try:
                self._fail(order, error)
            except OSError:
                # The daemon hears nothing, and does what it does when a captioner is lost.
                log.exception("no outcome for %s", order.job_id)
                return
        self._on_written(order.job_id)

    def _fail(self, order: worker_pb2.WriteCaptions, error: Exception) -> None:
        """Leave an outcome that says what went wrong; raises OSError if even that cannot be."""
        failure = failure_of(error)
        log.error("%s: %s", *failure)
        write_outcome(
            Path(order.directory),
            order.generation,
            failure=failure,
            captions=order.outcome,
            cpu_seconds=order.cpu_seconds,
            wall_seconds=order.wall_seconds,
        )


def _transcript(
    captions: Sequence[worker_pb2.CaptionWords], *, engine: str, notices: list[tuple[str, str]]
) -> Transcript:
    segments = sorted(
        (_segment(words) for words in captions),
        key=lambda segment: (segment.start_seconds, segment.end_seconds),
    )
    by_speaker: dict[str, list[Segment]] = defaultdict(list)
    for segment in segments:
        by_speaker[segment.speaker].append(segment)
    return Transcript(
        segments=tuple(segments),
        tracks=tuple(
            TrackResult(
                speaker=speaker,
                duration_seconds=max(segment.end_seconds for segment in spoken),
                speech_seconds=_seconds(spoken),
                language=_main_language(spoken),
            )
            for speaker, spoken in by_speaker.items()
        ),
        language=_main_language(segments),
        engine=engine,
        notices=tuple(notices),
    )


def _segment(words: worker_pb2.CaptionWords) -> Segment:
    return Segment(
        speaker=words.display_name,
        start_seconds=words.start_sample / SAMPLE_RATE_HZ,
        end_seconds=words.end_sample / SAMPLE_RATE_HZ,
        text=words.text,
        words=tuple(
            Word(
                text=word.text,
                start_seconds=word.start_sample / SAMPLE_RATE_HZ,
                end_seconds=word.end_sample / SAMPLE_RATE_HZ,
            )
            for word in words.words
        ),
        language=words.language,
    )


def _seconds(segments: Sequence[Segment]) -> float:
    return sum(segment.end_seconds - segment.start_seconds for segment in segments)


def _main_language(segments: Sequence[Segment]) -> str:
    """The one most is spoken in; empty if nobody speaks."""
    spoken: Counter[str] = Counter()
    for segment in segments:
        spoken[segment.language] += round(_seconds([segment]) * SAMPLE_RATE_HZ)
    return max(spoken, key=spoken.__getitem__, default="")
