# SPDX-License-Identifier: Apache-2.0
"""Live captions: spec, result, and what a captioner reports."""

from dataclasses import dataclass
from enum import StrEnum

from callsd_daemon.domain.work import Result, Spec


CAPTIONS = "captions"
"""Name of the kind."""

SAMPLE_RATE_HZ = 16_000
"""All positions are samples at this rate, from the start of the call."""


class Encoding(StrEnum):
    """How audio is encoded."""

    S16LE = "s16le"
    OPUS = "opus"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionsSpec(Spec):
    """How to caption a call; `language` is empty when it is to be detected."""

    model: str
    language: str = ""
    max_active_speakers: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionsResult(Result):
    """The result of a captions job."""

    caption_count: int = 0
    word_count: int = 0
    speaker_count: int = 0
    audio_seconds: float = 0.0
    skipped_seconds: float = 0.0
    restart_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Words of one speaker, as a captioner recognised them.

    `segment` identifies an utterance of the speaker, `revision` counts its versions.
    """

    segment: int
    revision: int = 1
    text: str
    start_sample: int
    end_sample: int
    heard_sample: int
    """Audio before this is in the text. The name is that of the field in captions.jsonl."""
    language: str = ""
    stability: float = 0.0
    is_end_of_utterance: bool = False


class SpeechChange(StrEnum):
    """A speaker starts or stops talking."""

    BEGIN = "begin"
    END = "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackUpdate:
    """What a captioner reports of one speaker; finals never change and come in order."""

    finals: tuple[Words, ...] = ()
    interim: Words | None = None
    """None = no change; without text = withdrawn."""
    processed_sample: int
    """Audio before this is in finals, or was silence: it is not needed again."""
    recognised_sample: int
    """Audio before this was recognised at least once, or was silence."""
    speech: SpeechChange | None = None
    is_drained: bool = False
    """All audio before the last EndSpeech is processed."""
    skipped_samples: int = 0
