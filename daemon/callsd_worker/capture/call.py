# SPDX-License-Identifier: Apache-2.0
"""What a call is to those who capture it. Each kind of call server has an adapter to this."""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """An RTP packet of sound, as it came."""

    sequence: int
    """Range 0 to 65535; the next one after that is 0 again."""
    timestamp: int
    """By the sender's clock, at 48 kHz. Range 0 to 2³² - 1, likewise."""
    payload: bytes
    """One Opus packet; empty: padding, which is no sound."""
    arrival_seconds: float
    """Unix time, which never steps while the call goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderReport:
    """Of RTCP: the sound with this timestamp was sent at this time of the server's clock."""

    timestamp: int
    ntp_seconds: float
    """As Unix time."""
    arrival_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """Whose sound a track is."""

    session_id: str
    """One person may be in a call twice; captions are shown by session."""
    user_id: str = ""
    name: str = ""
    """To show; empty: not known (yet)."""


class Listener(Protocol):
    """Is told what happens in a call. Called on the event loop, and returns at once."""

    def joined(self) -> None:
        """We are in the call; told once."""

    def recording_started(self, time_seconds: float) -> None:
        """By the server, the recording of the call began at this Unix time of our own clock."""

    def track(self, track_id: str, speaker: Speaker) -> None:
        """A track has begun; or more is known of its speaker."""

    def packet(self, track_id: str, packet: Packet) -> None:
        """Sound has come."""

    def sender_report(self, track_id: str, report: SenderReport) -> None:
        """The sender's clock has been told."""

    def muted(self, session_id: str) -> None:
        """Nothing more will come of this speaker for now."""

    def track_ended(self, track_id: str) -> None:
        """Its speaker has left, or the server has ended it; nothing more will come."""


class End(StrEnum):
    """Why we are not in the call any more."""

    OVER = "over"
    """The call is over, or we were told to stop capturing it."""
    LOST = "lost"
    """The connection broke and could not be mended, while the call may go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How it ended; the message is for a person, and holds no secret."""

    end: End
    message: str


class CaptureError(Exception):
    """There is nothing to show; the message says why and what to do, and holds no secret."""

    reason: ClassVar[str]
    """One of those that a worker may give."""


class JoinError(CaptureError):
    """The call could not be joined."""

    reason = "CALL_UNAVAILABLE"


class StoppedError(CaptureError):
    """We were told to stop before the call was joined."""

    reason = "CANCELLED"


class NotSavedError(CaptureError):
    """What was captured is there, but the disk was too full to make a file of any of it."""

    reason = "DISK_FULL"


class CallClient(Protocol):
    """What differs between call servers.

    That is how to join, where the recording's state comes from, how a stop arrives, and where
    captions go.
    """

    async def run(self) -> Ending:
        """Join, tell the listener everything, and return when it is over.

        Raises JoinError when it never began. When it is cancelled, the call is left.
        """

    def request_stop(self) -> None:
        """Leave the call now: `run` returns soon. May be repeated."""

    def show_caption(self, session_id: str, text: str, new_audio_seconds: float) -> bool:
        """Show words to everybody in the call; they replace this speaker's last ones.

        Nobody waits: without a connection they are dropped. Returns whether they were sent. How
        many may be sent at once, and in a second, is for the caller to know: see `publisher`.
        """

    def count(self, session_id: str, metric: str) -> None:
        """Have the server count that captions fell short; likewise."""
