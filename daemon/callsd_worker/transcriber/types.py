# SPDX-License-Identifier: Apache-2.0
"""What a transcription is given and what it gives back. All times in seconds of the call."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One speaker's audio."""

    path: Path
    speaker: str
    start_offset_seconds: float = 0.0
    """When the track begins in the call."""
    language: str = ""
    """Whisper's code of the language; empty: the job's, and if that is empty too, detected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A model as the catalogue lays it out; any of the files may be absent.

    `ctranslate2/{model.bin,config.json,tokenizer.json,vocabulary.*}`, `ggml/{f16,q8_0}.bin`.
    """

    name: str
    directory: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a call is to be transcribed."""

    model: ModelFiles
    engine: str = "auto"
    """"ctranslate2", "whispercpp", or "auto": the faster one whose files are there."""
    threads: int = 1
    """Clamped to the processors at hand, with a notice."""
    compute_type: str = "int8"
    """For ctranslate2: "int8" or "float32"."""
    ggml_type: str = "q8_0"
    """For whispercpp: "q8_0" or "f16"."""
    language: str = ""
    """For all tracks that name none; empty: detected once per speaker."""
    task: str = "transcribe"
    """"transcribe", or "translate" into English."""
    initial_prompt: str = ""
    vocabulary: tuple[str, ...] = ()
    """Names and terms that are likely to be said."""
    beam_size: int = 0
    """Hypotheses kept while decoding; 0: as many as are worth their time with the engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the work is."""

    phase: str
    """"loading", "decoding", "recognising" or "writing"."""
    processed_seconds: float
    total_seconds: float
    """Length of the call: the end of its last track."""
    real_time_factor: float
    """Seconds of the call done per second of work so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A word with the punctuation that follows it."""

    text: str
    start_seconds: float
    end_seconds: float
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A sentence or a part of one, by one speaker."""

    speaker: str
    start_seconds: float
    end_seconds: float
    text: str
    words: tuple[Word, ...]
    language: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackResult:
    """What became of one track."""

    speaker: str
    duration_seconds: float
    speech_seconds: float
    language: str
    """Empty if the track has no speech."""
    failure_reason: str = ""
    """Empty: the track was transcribed."""
    failure_message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """Who said what, when."""

    segments: tuple[Segment, ...]
    """Sorted by start."""
    tracks: tuple[TrackResult, ...]
    """In the order given."""
    language: str
    """The one most is spoken in; empty if nobody speaks."""
    engine: str
    """The one used."""
    notices: tuple[tuple[str, str], ...]
    """(code, message): what was amended or left out."""

    @property
    def duration_seconds(self) -> float:
        return max((segment.end_seconds for segment in self.segments), default=0.0)
