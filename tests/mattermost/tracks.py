# SPDX-License-Identifier: Apache-2.0
"""A track: what one participant sends, and its copy for each bot that has accepted it."""

import secrets
import struct
import time
from dataclasses import dataclass, field

from aiortc.rtp import RtcpSenderInfo, RtcpSrPacket

from tests.mattermost.offers import AUDIO_LEVEL, OPUS, VP8
from tests.mattermost.peer import Peer


NTP_SECONDS = 2_208_988_800
"""From 1900 to 1970."""

_HEADER = struct.Struct("!BBHLL")
_PADDING = bytes(223) + b"\xe0"
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_RATES_HZ = {"audio": 48_000, "video": 90_000}
_PAYLOAD_TYPES = {"audio": OPUS, "video": VP8}


def new_track_id(track_type: str, session_id: str) -> str:
    """An id as the SFU makes them: type, session and eight characters."""
    return f"{track_type}_{session_id}_{''.join(secrets.choice(_LETTERS) for _ in range(8))}"


@dataclass(slots=True, kw_only=True, eq=False)
class Copy:
    """The track as one bot gets it: with an SSRC of its own."""

    peer: Peer
    ssrc: int
    has_levels: bool
    """The bot has negotiated the header extension of audio levels."""
    packets: int = 0
    octets: int = 0
    last_timestamp: int = 0
    last_seconds: float = 0.0
    """On the monotonic clock."""


@dataclass(slots=True, kw_only=True, eq=False)
class Track:
    """What one participant sends."""

    id: str
    session_id: str
    kind: str = "audio"
    copies: list[Copy] = field(default_factory=list)
    packets_sent: int = 0
    """To all bots together."""
    is_over: bool = False

    @property
    def type(self) -> str:
        """`voice` or `screen`."""
        return self.id.partition("_")[0]

    @property
    def msid(self) -> str:
        return f"{self.session_id} {self.id}"

    def send(self, *, sequence: int, timestamp: int, payload: bytes, marker: bool = False) -> None:
        """Send a packet to all who have accepted the track; an empty one is padding."""
        payload_type = _PAYLOAD_TYPES[self.kind]
        for copy in self.copies:
            first = 0x80 | (0 if payload else 0x20) | (0x10 if copy.has_levels else 0)
            header = _HEADER.pack(first, marker << 7 | payload_type, sequence, timestamp, copy.ssrc)
            if copy.has_levels:
                header += b"\xbe\xde\x00\x01" + bytes([AUDIO_LEVEL << 4, 0x80 | 30, 0, 0])
            if copy.peer.send_rtp(header + (payload or _PADDING)):
                copy.packets += 1
                copy.octets += len(payload)
                copy.last_timestamp, copy.last_seconds = timestamp, time.monotonic()
                self.packets_sent += 1

    def send_reports(self, clock_offset_seconds: float) -> None:
        """Tell each bot which time it is on the sender's clock, extrapolated from its last packet.

        Mutes make no difference to that (seen on a real server).
        """
        for copy in self.copies:
            if not copy.packets:
                continue
            passed = time.monotonic() - copy.last_seconds
            rate = _RATES_HZ[self.kind]
            ntp = time.time() + clock_offset_seconds + NTP_SECONDS
            report = RtcpSrPacket(
                ssrc=copy.ssrc,
                sender_info=RtcpSenderInfo(
                    ntp_timestamp=int(ntp * 2**32),
                    rtp_timestamp=(copy.last_timestamp + int(passed * rate)) % 2**32,
                    packet_count=copy.packets % 2**32,
                    octet_count=copy.octets % 2**32,
                ),
            )
            copy.peer.send_rtp(bytes(report), is_rtcp=True)
