# SPDX-License-Identifier: Apache-2.0
"""Transcripts as files: WebVTT, plain text, SubRip and JSON.

WebVTT and text are read by existing players and summarisers and must keep their exact form:
how text is escaped, which segments one paragraph joins, and in Mattermost how names are cleaned.
"""

import json
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from callsd_transcript.transcript import Segment, Transcript, Word


COMPACTION_SILENCE_SECONDS = 2.0
"""A pause of this length ends a paragraph."""

COMPACTION_MAX_SECONDS = 10.0
"""A paragraph takes no segment that begins this long after it."""

JSON_VERSION = 1

# Exactly these five, by number where older readers know no name.
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;"})


_HIDDEN = frozenset({"Cc", "Cf", "Cs"})
"""Categories of characters that have no place in a line: controls, and what turns its direction."""

_JOINERS = frozenset({"\u200c", "\u200d", *map(chr, range(0xE0020, 0xE0080))})
"""What makes one letter or emoji of several, and the tags of flags."""

UNKNOWN_SPEAKER = "Unknown"
"""Whose name has nothing that can be shown."""


Naming = Callable[[str], str]
"""How speakers are written: `shown_name` or `mattermost_name`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compaction:
    """When the text format joins segments; both zero: never."""

    silence_seconds: float = COMPACTION_SILENCE_SECONDS
    max_seconds: float = COMPACTION_MAX_SECONDS


def shown_name(name: str) -> str:
    """A name as people write it, in one line: marks, emoji and punctuation stay.

    UNKNOWN_SPEAKER if nothing of it can be seen: a voice without a name is no valid cue, and an
    empty line ends a paragraph.
    """
    kept = (
        letter
        for letter in name
        if letter.isspace() or letter in _JOINERS or unicodedata.category(letter) not in _HIDDEN
    )
    return _visible(" ".join("".join(kept).split()))


def mattermost_name(name: str) -> str:
    """As Mattermost's own transcriber writes it.

    Letters and digits of any script, white space (runs as one space), ".", "-" and "_" stay.
    """
    kept = (
        letter
        for letter in name
        if letter.isspace() or letter in ".-_" or unicodedata.category(letter)[0] in "LN"
    )
    return _visible(" ".join("".join(kept).split()))


def _visible(name: str) -> str:
    is_visible = any(unicodedata.category(letter)[0] not in "CMZ" for letter in name)
    return name if is_visible else UNKNOWN_SPEAKER


def clean_text(text: str) -> str:
    """Trimmed, white-space runs as one space."""
    return " ".join(text.split())


def to_vtt(
    segments: Sequence[Segment], *, is_speaker_shown: bool = True, named: Naming = shown_name
) -> str:
    """WebVTT: one cue per segment."""
    parts = ["WEBVTT\n"]
    for segment in segments:
        text = clean_text(segment.text).translate(_ESCAPES)
        if is_speaker_shown:
            name = named(segment.speaker).translate(_ESCAPES)
            text = f"<v {name}>({name}) {text}"
        start, end = _stamp(segment.start_seconds, "."), _stamp(segment.end_seconds, ".")
        parts.append(f"\n{start} --> {end}\n{text}\n")
    return "".join(parts)


def to_srt(
    segments: Sequence[Segment], *, is_speaker_shown: bool = True, named: Naming = shown_name
) -> str:
    """SubRip: numbered cues, the name before the text."""
    parts = []
    for number, segment in enumerate(segments, start=1):
        text = clean_text(segment.text)
        if is_speaker_shown:
            text = f"{named(segment.speaker)}: {text}"
        start, end = _stamp(segment.start_seconds, ","), _stamp(segment.end_seconds, ",")
        parts.append(f"{number}\n{start} --> {end}\n{text}\n")
    return "\n".join(parts)


def to_text(
    segments: Sequence[Segment],
    *,
    compaction: Compaction | None = None,
    named: Naming = shown_name,
) -> str:
    """Paragraphs of (times, speaker, text), a blank line between them."""
    blocks = []
    for block in _compact(segments, compaction or Compaction()):
        start, end = _clock(block.start_seconds), _clock(block.end_seconds)
        blocks.append(f"{start} -> {end}\n{named(block.speaker)}\n{block.text}\n")
    return "\n".join(blocks)


def to_json(transcript: Transcript) -> str:
    """Everything known, word times included; seconds with three decimals. UTF-8."""
    document = {
        "version": JSON_VERSION,
        "language": transcript.language,
        "engine": transcript.engine,
        "tracks": [
            {
                "speaker": _visible(track.speaker),
                "duration_seconds": round(track.duration_seconds, 3),
                "speech_seconds": round(track.speech_seconds, 3),
                "language": track.language,
                "unheard": [
                    {
                        "start_seconds": round(stretch.start_seconds, 3),
                        "end_seconds": round(stretch.end_seconds, 3),
                    }
                    for stretch in track.unheard
                ],
                "failure_reason": track.failure_reason,
                "failure_message": track.failure_message,
            }
            for track in transcript.tracks
        ],
        "segments": [
            {
                "speaker": _visible(segment.speaker),
                "start_seconds": round(segment.start_seconds, 3),
                "end_seconds": round(segment.end_seconds, 3),
                "language": segment.language,
                "text": clean_text(segment.text),
                "words": [_word(word) for word in segment.words],
            }
            for segment in transcript.segments
        ],
        "notices": [{"code": code, "message": text} for code, text in transcript.notices],
    }
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """What a client may choose about all files of a transcript."""

    named: Naming = shown_name
    is_speaker_in_vtt: bool = True
    compaction: Compaction | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFormat:
    """One of the files that a transcript can be."""

    media_type: str
    write: Callable[[Transcript, Style], str]


FORMATS = {
    "vtt": FileFormat(
        media_type="text/vtt",
        write=lambda transcript, style: to_vtt(
            transcript.segments, is_speaker_shown=style.is_speaker_in_vtt, named=style.named
        ),
    ),
    "txt": FileFormat(
        media_type="text/plain",
        write=lambda transcript, style: to_text(
            transcript.segments, compaction=style.compaction, named=style.named
        ),
    ),
    "srt": FileFormat(
        media_type="application/x-subrip",
        write=lambda transcript, style: to_srt(transcript.segments, named=style.named),
    ),
    "json": FileFormat(
        media_type="application/json", write=lambda transcript, _style: to_json(transcript)
    ),
}
"""All of them, by suffix."""


def _word(word: Word) -> dict[str, object]:
    entry: dict[str, object] = {
        "text": word.text,
        "start_seconds": round(word.start_seconds, 3),
        "end_seconds": round(word.end_seconds, 3),
    }
    if word.probability is not None:
        entry["probability"] = round(word.probability, 3)
    return entry


@dataclass(slots=True)
class _Block:
    speaker: str
    start_seconds: float
    end_seconds: float
    text: str


def _compact(segments: Sequence[Segment], rule: Compaction) -> list[_Block]:
    # Compared in whole milliseconds: so is the format, and so are the limits meant.
    silence_ms, max_ms = _ms(rule.silence_seconds), _ms(rule.max_seconds)
    is_joining = silence_ms > 0 or max_ms > 0
    blocks: list[_Block] = []
    previous: Segment | None = None
    for segment in segments:
        text = clean_text(segment.text)
        start_ms = _ms(segment.start_seconds)
        if (
            is_joining
            and previous is not None
            and segment.speaker == previous.speaker
            and start_ms - _ms(previous.end_seconds) < silence_ms
            and start_ms - _ms(blocks[-1].start_seconds) < max_ms
        ):
            blocks[-1].text += " " + text
            blocks[-1].end_seconds = segment.end_seconds
        else:
            blocks.append(
                _Block(
                    speaker=segment.speaker,
                    start_seconds=segment.start_seconds,
                    end_seconds=segment.end_seconds,
                    text=text,
                )
            )
        previous = segment
    return blocks


def _ms(seconds: float) -> int:
    return max(round(seconds * 1000), 0)


def _stamp(seconds: float, decimal_mark: str) -> str:
    whole, ms = divmod(_ms(seconds), 1000)
    return f"{_hms(whole)}{decimal_mark}{ms:03d}"


def _clock(seconds: float) -> str:
    # Half a second goes up, and is carried into minutes and hours.
    return _hms((_ms(seconds) + 500) // 1000)


def _hms(seconds: int) -> str:
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02d}:{minute:02d}:{second:02d}"
