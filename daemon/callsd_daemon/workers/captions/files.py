# SPDX-License-Identifier: Apache-2.0
"""The artifacts of a captions job.

They are made from the journal and nothing else, so that making them again gives the same files.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from callsd_daemon.domain.captions import SAMPLE_RATE_HZ
from callsd_daemon.domain.jobs import Artifact
from callsd_daemon.files import sync, write_whole
from callsd_daemon.workers.captions.journal import Final, read_finals
from callsd_ipc.names import ARTIFACTS
from callsd_transcript.formats import FORMATS, FileFormat, Style
from callsd_transcript.transcript import Segment, TrackResult, Transcript


SUFFIXES = ("vtt", "txt", "json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The files, and what is in them."""

    artifacts: tuple[Artifact, ...]
    caption_count: int
    word_count: int


def write_files(directory: Path, *, engine: str) -> Written:
    """Write the files from the journal in a job's directory; blocks, raises OSError.

    Each file is written whole or not at all. Doing it again is harmless.
    """
    transcript = transcript_of(read_finals(directory, 0), engine=engine)
    artifacts = directory / ARTIFACTS
    artifacts.mkdir(mode=0o700, exist_ok=True)
    sync(directory)
    return Written(
        artifacts=tuple(
            _write(artifacts / f"captions.{suffix}", FORMATS[suffix], transcript)
            for suffix in SUFFIXES
        ),
        caption_count=len(transcript.segments),
        word_count=sum(len(segment.text.split()) for segment in transcript.segments),
    )


def transcript_of(finals: Iterable[Final], *, engine: str) -> Transcript:
    """Final captions as a transcript, in the order in which they were said."""
    segments = sorted(
        map(_segment, finals), key=lambda segment: (segment.start_seconds, segment.end_seconds)
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
        notices=(),
    )


def _segment(final: Final) -> Segment:
    words = final.words
    return Segment(
        speaker=final.position.display_name or final.position.speaker,
        start_seconds=words.start_sample / SAMPLE_RATE_HZ,
        end_seconds=words.end_sample / SAMPLE_RATE_HZ,
        text=words.text,
        words=(),
        language=words.language,
    )


def _seconds(segments: Sequence[Segment]) -> float:
    return sum(segment.end_seconds - segment.start_seconds for segment in segments)


def _main_language(segments: Sequence[Segment]) -> str:
    """The language that is spoken for longest; empty if nobody speaks."""
    spoken: Counter[str] = Counter()
    for segment in segments:
        spoken[segment.language] += round(_seconds([segment]) * SAMPLE_RATE_HZ)
    return max(spoken, key=spoken.__getitem__, default="")


def _write(path: Path, form: FileFormat, transcript: Transcript) -> Artifact:
    content = form.write(transcript, Style()).encode()
    write_whole(path, content)
    return Artifact(
        file_name=path.name,
        media_type=form.media_type,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
