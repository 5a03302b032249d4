# SPDX-License-Identifier: Apache-2.0
"""What a transcription is asked for, and what it found out."""

from dataclasses import dataclass
from enum import StrEnum

from callsd_daemon.domain.errors import Reason
from callsd_daemon.domain.mattermost import MattermostCall
from callsd_daemon.domain.work import Result, Spec
from callsd_transcript.formats import Compaction


TRANSCRIPTION = "transcription"
"""Name of the kind."""

NO_UPLOAD_YET = "-"
"""Stands for an upload in a request that creates nothing: the file is not sent yet."""

MAX_OFFSET_SECONDS = 30 * 86400.0
"""No track begins so much later than its transcript."""


class Engine(StrEnum):
    """Programs that turn speech into words."""

    AUTO = "auto"
    CTRANSLATE2 = "ctranslate2"
    WHISPERCPP = "whispercpp"
    ONNX = "onnx"


class Task(StrEnum):
    """What to write down."""

    TRANSCRIBE = "transcribe"
    TRANSLATE = "translate"


class Format(StrEnum):
    """Transcript files, by suffix."""

    VTT = "vtt"
    TEXT = "txt"
    SRT = "srt"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One speaker's sound: `path`, `upload_id` or `recording` says where it is.

    With `capture` it stands for all tracks of a call, each with its speaker.
    """

    speaker: str
    path: str = ""
    upload_id: str = ""
    recording: str = ""
    """A recording job's id: the sound of what it has recorded."""
    capture: str = ""
    """A capture job's id: all that it has captured, timed from the start of the recording. If
    nothing could be captured, the recording's sound stands for it."""
    start_offset_seconds: float = 0.0
    language: str = ""
    speaker_id: str = ""
    """Who the speaker is, if there may be other tracks of the same one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptionSpec(Spec):
    """What to transcribe, and how. `threads` is what was asked for, 0 = the server's default."""

    tracks: tuple[Track, ...]
    model: str
    engine: Engine = Engine.AUTO
    threads: int = 0
    language: str = ""
    task: Task = Task.TRANSCRIBE
    initial_prompt: str = ""
    vocabulary: tuple[str, ...] = ()
    formats: tuple[Format, ...] = tuple(Format)
    webvtt_omit_speaker: bool = False
    text_compaction: Compaction | None = None
    """When the text file joins segments; None: as usual."""
    call: MattermostCall | None = None
    """Into whose thread the transcript goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackResult:
    """What became of one track; `failure_reason` is None when it is in the transcript."""

    speaker: str
    duration_seconds: float = 0.0
    speech_seconds: float = 0.0
    language: str = ""
    failure_reason: Reason | None = None
    failure_message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptionResult(Result):
    """What a finished transcription found out."""

    tracks: tuple[TrackResult, ...] = ()
    language: str = ""
    engine: Engine = Engine.AUTO
    segment_count: int = 0
    word_count: int = 0
    audio_seconds: float = 0.0
    real_time_factor: float = 0.0

    @property
    def media_seconds(self) -> float:
        """Length of all tracks."""
        return self.audio_seconds
