# SPDX-License-Identifier: Apache-2.0
"""The input of a transcription. All times in seconds from the start of the call."""

from dataclasses import dataclass

from callsd_worker.media.decode import Source
from callsd_worker.speech.loading import COMPUTE_TYPE, GGML_TYPE, ModelFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One speaker's audio."""

    source: Source
    speaker: str
    start_offset_seconds: float = 0.0
    """When the track begins in the call."""
    language: str = ""
    """Whisper's code; empty: the job's language, and if that is empty, too, it is detected."""
    speaker_id: str = ""
    """Tracks with the same one are of one speaker; empty: nobody else's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to transcribe a call."""

    model: ModelFiles
    engine: str = "ctranslate2"
    """"ctranslate2", "whispercpp" or "onnx"."""
    threads: int = 1
    """Limited to the processors available, with a notice."""
    compute_type: str = COMPUTE_TYPE
    """For ctranslate2: "int8" or "float32"."""
    ggml_type: str = GGML_TYPE
    """For whispercpp: "q8_0" or "f16"."""
    language: str = ""
    """For tracks that set none; empty: detected for each speaker. Changes of it are
    found by engines with `detects_from_encoding`."""
    task: str = "transcribe"
    """"transcribe", or "translate" into English."""
    initial_prompt: str = ""
    vocabulary: tuple[str, ...] = ()
    """Names and terms that are likely to be said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of the work."""

    phase: str
    """"loading", "decoding", "recognising" or "writing"."""
    processed_seconds: float
    total_seconds: float
    """Length of the call: the end of its last track."""
    real_time_factor: float
    """Seconds of the call done per second of work so far."""
