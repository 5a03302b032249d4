# SPDX-License-Identifier: Apache-2.0
"""Packets of RTP and RTCP (RFC 3550), as far as one who only listens needs them."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass


_HEADER = struct.Struct("!BBHII")
_RTCP_HEADER = struct.Struct("!BBH")
_SENDER_INFO = struct.Struct("!IQI")
_SENDER_REPORT = 200
_NTP_TO_UNIX_SECONDS = 2_208_988_800


@dataclass(frozen=True, slots=True)
class RtpPacket:
    """What a packet of RTP holds; the payload is without padding."""

    payload_type: int
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class RtcpSenderReport:
    """The sender's clock, as Unix time, at an RTP timestamp."""

    ssrc: int
    unix_seconds: float
    timestamp: int


def parse_packet(data: bytes) -> RtpPacket | None:
    """Read a packet; None when it is none."""
    if len(data) < _HEADER.size:
        return None
    first, second, sequence, timestamp, ssrc = _HEADER.unpack_from(data)
    if first >> 6 != 2:  # noqa: PLR2004 - the version
        return None
    start = _HEADER.size + 4 * (first & 0x0F)
    if first & 0x10:
        if len(data) < start + 4:
            return None
        start += 4 + 4 * int.from_bytes(data[start + 2 : start + 4], "big")
    end = len(data)
    if first & 0x20:
        end -= data[-1]
    if start > end:
        return None
    return RtpPacket(second & 0x7F, sequence, timestamp, ssrc, data[start:end])


def sender_reports(data: bytes) -> Iterator[RtcpSenderReport]:
    """All sender reports in a compound packet of RTCP, up to the first thing that is none."""
    position = 0
    while position + _RTCP_HEADER.size <= len(data):
        first, kind, words = _RTCP_HEADER.unpack_from(data, position)
        end = position + 4 * (words + 1)
        if first >> 6 != 2 or end > len(data):  # noqa: PLR2004 - the version
            return
        if kind == _SENDER_REPORT and end - position >= _RTCP_HEADER.size + _SENDER_INFO.size:
            ssrc, ntp, timestamp = _SENDER_INFO.unpack_from(data, position + _RTCP_HEADER.size)
            yield RtcpSenderReport(ssrc, ntp / 2**32 - _NTP_TO_UNIX_SECONDS, timestamp)
        position = end
