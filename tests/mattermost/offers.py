# SPDX-License-Identifier: Apache-2.0
"""The session descriptions that the SFU writes, as pion does, and what it reads in the bot's."""

from collections.abc import Sequence
from dataclasses import dataclass

from aiortc.sdp import SessionDescription


OPUS = 111
VP8 = 96
AUDIO_LEVEL = 1
"""Number of the header extension."""

FIRST_FMTP = "minptime=10;useinbandfec=1"

Error = ValueError, AssertionError, AttributeError, IndexError, KeyError, TypeError, StopIteration
"""What aiortc's parser raises for text that is no session description."""


@dataclass(slots=True, kw_only=True)
class Section:
    """An m-line of the SFU's offers; it is there for good."""

    kind: str
    """`application`, `audio` or `video`."""
    mid: str
    msid: str = ""
    """Empty: its track has gone."""
    ssrc: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Transport:
    """What all sections share."""

    ufrag: str
    password: str
    fingerprint: str
    candidates: Sequence[str]


def describe(
    sections: Sequence[Section],
    transport: Transport,
    *,
    version: int,
    setup: str,
    opus_fmtp: str,
) -> str:
    """The text of an offer (`setup` = actpass) or an answer (active)."""
    lines = [
        "v=0",
        f"o=- 4611731400430051336 {version} IN IP4 0.0.0.0",
        "s=-",
        "t=0 0",
        "a=msid-semantic:WMS *",
        f"a=fingerprint:sha-256 {transport.fingerprint}",
        "a=extmap-allow-mixed",
        "a=group:BUNDLE " + " ".join(one.mid for one in sections),
    ]
    for index, section in enumerate(sections):
        lines += {
            "application": ["m=application 9 UDP/DTLS/SCTP webrtc-datachannel"],
            "audio": [f"m=audio 9 UDP/TLS/RTP/SAVPF {OPUS}"],
            "video": [f"m=video 9 UDP/TLS/RTP/SAVPF {VP8}"],
        }[section.kind]
        lines += [
            "c=IN IP4 0.0.0.0",
            f"a=setup:{setup}",
            f"a=mid:{section.mid}",
            f"a=ice-ufrag:{transport.ufrag}",
            f"a=ice-pwd:{transport.password}",
        ]
        if section.kind == "application":
            lines += ["a=sendrecv", "a=sctp-port:5000", "a=max-message-size:1073741823"]
        else:
            lines += ["a=rtcp-mux", "a=rtcp-rsize", *_codec(section.kind, opus_fmtp)]
            lines += _track(section)
        if index == 0:
            lines += [f"a=candidate:{one}" for one in transport.candidates]
            if transport.candidates:
                lines.append("a=end-of-candidates")
    return "\r\n".join(lines) + "\r\n"


def _codec(kind: str, opus_fmtp: str) -> list[str]:
    if kind == "audio":
        return [
            f"a=rtpmap:{OPUS} opus/48000/2",
            *([f"a=fmtp:{OPUS} {opus_fmtp}"] if opus_fmtp else []),
            f"a=extmap:{AUDIO_LEVEL} urn:ietf:params:rtp-hdrext:ssrc-audio-level",
        ]
    feedback = ("goog-remb", "ccm fir", "nack", "nack pli")
    return [f"a=rtpmap:{VP8} VP8/90000", *(f"a=rtcp-fb:{VP8} {one}" for one in feedback)]


def _track(section: Section) -> list[str]:
    if not section.msid:
        return ["a=recvonly"]
    stream = section.msid.split()[0]
    return [
        f"a=ssrc:{section.ssrc} cname:{stream}",
        f"a=ssrc:{section.ssrc} msid:{section.msid}",
        f"a=msid:{section.msid}",
        "a=sendrecv",
    ]


def read(text: str) -> SessionDescription:
    """The bot's description. ValueError: it is none."""
    try:
        return SessionDescription.parse(text)
    except Error as error:
        raise ValueError(f"no session description: {error}") from error


def keeps_codec(description: SessionDescription, section: Section) -> bool:
    """Whether the answer names the codec that this section offers, be it refused or not."""
    wanted = {"audio": OPUS, "video": VP8}.get(section.kind)
    return any(one.rtp.muxId == section.mid and wanted in one.fmt for one in description.media)


def accepts(description: SessionDescription, mid: str) -> bool:
    """Whether the answer takes what this section offers."""
    return any(
        one.rtp.muxId == mid and one.port != 0 and one.direction in {"recvonly", "sendrecv"}
        for one in description.media
    )


def opus_fmtp(text: str) -> str:
    """The parameters of Opus in an answer; empty: it has none."""
    prefix = "a=fmtp:"
    for line in text.splitlines():
        if line.startswith(prefix):
            return line.partition(" ")[2]
    return ""
