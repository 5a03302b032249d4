# SPDX-License-Identifier: Apache-2.0
"""What a viewer of captions knows at a moment: who says what, how far and how fast it goes."""

from dataclasses import dataclass, field

from google.protobuf.duration_pb2 import Duration

from callsd.v1.caption_pb2 import (
    CAPTION_EVENT_TYPE_AUDIO_SKIPPED,
    CAPTION_EVENT_TYPE_DEGRADED,
    CAPTION_EVENT_TYPE_RECOVERED,
    CAPTION_EVENT_TYPE_SPEECH_BEGIN,
    CAPTION_EVENT_TYPE_SPEECH_END,
    Caption,
    CaptionEvent,
    WatchCaptionsResponse,
)
from callsd_daemon.cli.shared.output import printable


@dataclass(slots=True, kw_only=True)
class CaptionState:
    """Learns from each message of a watch."""

    interims: dict[str, Caption] = field(default_factory=dict)
    """What each speaker is saying; without text while there are no words yet."""
    names: dict[str, str] = field(default_factory=dict)
    """Names to show, of all speakers in the order in which they appeared."""
    caption_count: int = 0
    last_sequence: int = 0
    processed_seconds: float = 0.0
    lag_seconds: float = 0.0
    real_time_factor: float = 0.0
    degraded: str = ""
    """What is being done without; empty when nothing is."""

    def learn(self, response: WatchCaptionsResponse) -> None:
        """Take note of a message."""
        self.processed_seconds = seconds(response.processed_offset)
        self.lag_seconds = seconds(response.lag)
        self.real_time_factor = response.real_time_factor
        match response.WhichOneof("message"):
            case "caption":
                self._caption(response.caption)
            case "event":
                self._event(response.event)
            case None:
                pass

    def name(self, speaker: str) -> str:
        """What to show for a speaker."""
        return self.names.get(speaker, "") or printable(speaker)

    def index(self, speaker: str) -> int:
        """A speaker's place in the order of appearance."""
        if speaker not in self.names:
            self.names[speaker] = ""
        return list(self.names).index(speaker)

    def _caption(self, caption: Caption) -> None:
        self.names[caption.speaker] = printable(caption.display_name)
        shown = self.interims.get(caption.speaker)
        if not caption.is_final:
            if caption.text:
                self.interims[caption.speaker] = caption
            else:
                self.interims.pop(caption.speaker, None)
            return
        self.caption_count += 1
        self.last_sequence = caption.sequence
        # The words that are shown have become final; later ones of the speaker come anew.
        if shown is not None and seconds(shown.start_offset) < seconds(caption.end_offset):
            del self.interims[caption.speaker]

    def _event(self, event: CaptionEvent) -> None:
        speaker = event.speaker
        if event.type == CAPTION_EVENT_TYPE_SPEECH_BEGIN:
            self.index(speaker)
            self.interims.setdefault(speaker, Caption(speaker=speaker, start_offset=event.offset))
        elif event.type == CAPTION_EVENT_TYPE_SPEECH_END:
            if speaker in self.interims and not self.interims[speaker].text:
                del self.interims[speaker]
        elif event.type == CAPTION_EVENT_TYPE_DEGRADED:
            self.degraded = printable(event.detail) or "captions are slower or simpler"
        elif event.type == CAPTION_EVENT_TYPE_RECOVERED:
            self.degraded = ""


def notice(event: CaptionEvent, state: CaptionState) -> str:
    """What a person should be told of an event; empty for most."""
    if event.type == CAPTION_EVENT_TYPE_DEGRADED:
        return f"less than asked for: {state.degraded}"
    if event.type == CAPTION_EVENT_TYPE_RECOVERED:
        return "captions are as asked for again"
    if event.type == CAPTION_EVENT_TYPE_AUDIO_SKIPPED:
        whose = f" of {state.name(event.speaker)}" if event.speaker else ""
        return f"{seconds(event.skipped):.1f} s of sound{whose} left out"
    return ""


def line(caption: Caption, state: CaptionState) -> str:
    """A final caption as one line: [mm:ss] Speaker: text."""
    return f"{prefix(caption, state)} {printable(caption.text)}"


def prefix(caption: Caption, state: CaptionState) -> str:
    """When, and who."""
    return f"[{stamp(seconds(caption.start_offset))}] {state.name(caption.speaker)}:"


def stamp(at_seconds: float) -> str:
    """A position in a call: 01:05, 1:02:03."""
    minutes, whole = divmod(int(at_seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole:02}" if hours else f"{minutes:02}:{whole:02}"


def seconds(offset: Duration) -> float:
    """A protobuf duration in seconds."""
    return offset.ToNanoseconds() / 1e9
