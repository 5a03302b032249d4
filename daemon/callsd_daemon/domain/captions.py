# SPDX-License-Identifier: Apache-2.0
"""Live captions: spec, result, what a captioner reports, and the length of encoded audio."""

from dataclasses import dataclass
from enum import StrEnum

from callsd_daemon.domain.work import Result, Spec


CAPTIONS = "captions"
"""Name of the kind."""

SAMPLE_RATE_HZ = 16_000
"""All positions are samples at this rate, from the start of the call."""

_CELT_ONLY = 16
_HYBRID = 12
_SILK_FRAME_MILLISECONDS = (10, 20, 40, 60)
_MAX_PACKET_MILLISECONDS = 120.0


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


def opus_samples(packet: bytes) -> int:
    """Length of an Opus packet, by its first two bytes. Source: RFC 6716, section 3.1.

    Raises ValueError when it is no such packet.
    """
    if not packet:
        raise ValueError("an Opus packet has at least one byte")
    configuration, code = packet[0] >> 3, packet[0] & 3
    if configuration >= _CELT_ONLY:
        frame_milliseconds = 2.5 * (1 << (configuration & 3))
    elif configuration >= _HYBRID:
        frame_milliseconds = 10.0 * (1 << (configuration & 1))
    else:
        frame_milliseconds = float(_SILK_FRAME_MILLISECONDS[configuration & 3])
    if code < 3:  # noqa: PLR2004 - one frame, or two of equal or different size
        frames = 1 if code == 0 else 2
    elif len(packet) < 2:  # noqa: PLR2004 - the second byte counts the frames
        raise ValueError("an Opus packet of many frames has at least two bytes")
    else:
        frames = packet[1] & 0x3F
    milliseconds = frames * frame_milliseconds
    if not 0 < milliseconds <= _MAX_PACKET_MILLISECONDS:
        raise ValueError(f"an Opus packet lasts 2.5 to 120 ms, not {milliseconds:g}")
    return round(milliseconds * SAMPLE_RATE_HZ / 1000)
