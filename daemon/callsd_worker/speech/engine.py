# SPDX-License-Identifier: Apache-2.0
"""What every recogniser offers: windows of speech in, words with times out.

Encoding and recognising are two calls because a language is decided between them, from the very
encoding that is then recognised: detection costs one token instead of one more encoder pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from callsd_worker.speech.mel import Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """How windows are to be recognised."""

    language: str
    """Two- or three-letter code; models that know English only ignore it."""
    task: str = "transcribe"
    """"transcribe", or "translate" into English."""
    hints: str = ""
    """Text the speech may resemble: names, terms, an opening."""
    beam_size: int = 1
    temperature: float = 0.0
    """Above 0 the decoder samples, which takes it out of loops."""
    repetition_penalty: float = 1.0
    """Above 1 what was said already is less likely, which does so, too. whisper.cpp has none."""
    is_word_timed: bool = True
    max_tokens: int = 0
    """Where decoding stops at the latest, per window; 0 = the engine's own bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedWord:
    """Seconds from the window's beginning; `text` keeps its leading space if it has one."""

    text: str
    start_seconds: float
    end_seconds: float
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """What was heard in one window."""

    text: str
    words: tuple[TimedWord, ...]
    token_count: int
    average_log_probability: float
    """Per token, natural logarithm: 0 is certainty, below -1 is guessing."""
    no_speech_probability: float
    """The model's own doubt that anybody speaks; 0.0 from engines that do not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One window between `encode` and `recognise`."""

    payload: Any
    """The engine's own form of it."""
    seconds: float
    """Length of the speech, without padding."""


class Engine(Protocol):
    """One loaded model. Safe for one thread at a time, unless an engine promises more."""

    name: str
    is_multilingual: bool
    languages: frozenset[str]
    usual_beam_size: int
    """Hypotheses worth their cost with this engine."""
    batch_windows: int
    """How many windows are worth recognising in one call."""

    def padded_seconds(self, window_seconds: float) -> float:
        """The shortest padding with which a window is recognised well."""
        ...

    def encode(self, window: Samples, *, padded_seconds: float) -> Encoded:
        """Prepare a window of at most 30 s, filled with silence to `padded_seconds`."""
        ...

    def detect_language(self, encoded: Sequence[Encoded]) -> list[dict[str, float]]:
        """Probability of each language, per window. Multilingual models only."""
        ...

    def recognise(self, encoded: Sequence[Encoded], options: DecodeOptions) -> list[Recognised]:
        """What is said in windows that were encoded with equal padding."""
        ...
