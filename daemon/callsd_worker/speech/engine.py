# SPDX-License-Identifier: Apache-2.0
"""What every recogniser offers: windows of speech in, words with times out.

Encoding and recognising are two methods because the language is detected between them, from the
same encoding: detection costs one token instead of one more run of the encoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from callsd_worker.media.sound import Samples


TRAINED_SECONDS = 30.0
"""All windows in Whisper's training had this length: the safest padding, and the slowest."""


GUESS_LOG_PROBABILITY = -1.6
"""Less than one chance in five per token: the words are noise, if nothing better is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """How to recognise windows."""

    language: str
    """Two- or three-letter code; English-only models ignore it."""
    task: str = "transcribe"
    """"transcribe", or "translate" into English."""
    hints: str = ""
    """Text that the speech may resemble: names, terms, an opening."""
    beam_size: int = 1
    temperature: float = 0.0
    """Above 0 the decoder samples at random, which avoids loops."""
    repetition_penalty: float = 1.0
    """Above 1 repeated tokens become less likely, which avoids loops, too. Not in whisper.cpp."""
    is_word_timed: bool = True
    max_tokens: int = 0
    """Most tokens of a window; 0 = the engine's own limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedWord:
    """Seconds from the window's beginning; `text` keeps its leading space if it has one."""

    text: str
    start_seconds: float
    end_seconds: float
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """What was recognised in one window."""

    text: str
    words: tuple[TimedWord, ...]
    token_count: int
    average_log_probability: float
    """Per token, natural logarithm: 0 is certainty, below -1 is guessing."""
    no_speech_probability: float
    """Probability, by the model, that nobody speaks; 0.0 from engines that do not report it."""
    guess_log_probability: float = GUESS_LOG_PROBABILITY
    """With a lower average these words are noise. Each engine is sure of its words in its own way.
    """

    is_aligned: bool = True
    """Whether the times of words are those of the sound; else they are guessed, by its length."""

    def without_words(self) -> "Recognised":
        """The same, if none of its words are to be believed."""
        return replace(self, text="", words=(), token_count=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One window between `encode` and `recognise`."""

    payload: Any
    """In the engine's own form."""
    seconds: float
    """Length of the speech, without padding."""


class Engine(Protocol):
    """One loaded model. For one thread at a time, unless an engine says otherwise."""

    name: str
    is_multilingual: bool
    languages: frozenset[str]
    detects_from_encoding: bool
    """Whether to detect a language takes one token of the decoder, and no more of the encoder."""
    usual_beam_size: int
    """Number of hypotheses with the best value with this engine."""
    batch_windows: int
    """How many windows to recognise together."""

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
        """Recognise windows that were encoded with equal padding."""
        ...
