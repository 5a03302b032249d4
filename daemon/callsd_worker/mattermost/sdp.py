# SPDX-License-Identifier: Apache-2.0
"""Offers of the call's server, and our answers to them.

All media of a call goes over the transport that the data channel has opened, so an answer says
the same of it each time, takes every voice and refuses every picture. It is written here and not
by the WebRTC library, which would decode each track, and which raises on sections that it does not
know: one odd section would end the signalling, and with it all later voices.
"""

import re
from dataclasses import dataclass, field


MAX_SECTIONS = 2048
"""A section stays after its speaker has left."""

_MEDIA_LINE = re.compile(r"([a-z]{1,16}) (\d{1,5}) ([A-Za-z/]{1,32}) (\S.*)")
_PAYLOAD_TYPE = re.compile(r"[0-9]{1,3}")
_TRACK_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_VOICE = "voice"
_MIN_TRACK_FIELDS = 3
_DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")
_SSRC = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """A track of somebody's voice, as an offer tells of it."""

    track_id: str
    session_id: str
    payload_type: int
    ssrcs: tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class Section:
    """A section of an offer: one medium."""

    kind: str
    port: int
    protocol: str
    formats: list[str]
    mid: str = ""
    direction: str = "sendrecv"
    track_id: str = ""
    ssrcs: list[int] = field(default_factory=list)
    codecs: dict[str, str] = field(default_factory=dict)
    """What each format is, such as `opus/48000/2`."""
    parameters: dict[str, str] = field(default_factory=dict)

    @property
    def is_sending(self) -> bool:
        """Whether the server sends in it."""
        return self.port != 0 and self.direction in ("sendrecv", "sendonly")

    @property
    def opus(self) -> str:
        """Its first format that is Opus; empty: there is none."""
        if self.kind != "audio":
            return ""
        return next(
            (
                name
                for name in self.formats
                if _PAYLOAD_TYPE.fullmatch(name) and _is_opus(self.codecs.get(name, ""))
            ),
            "",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Transport:
    """Our end of the transport, as each answer tells of it."""

    ice_user: str
    ice_password: str
    fingerprint: str
    """Algorithm and value."""
    setup: str
    """Our role in DTLS, which stays what it was: "active" or "passive"."""
    sctp_port: str
    max_message_bytes: str

    @classmethod
    def of(cls, ours: str, answer: str) -> "Transport":
        """Read it from our first offer and the server's answer.

        Raises ValueError.
        """
        fingerprints = _values(ours, "fingerprint")
        if not fingerprints:
            raise ValueError("our offer has no fingerprint")
        return cls(
            ice_user=_value(ours, "ice-ufrag"),
            ice_password=_value(ours, "ice-pwd"),
            fingerprint=next((x for x in fingerprints if x.startswith("sha-256")), fingerprints[0]),
            setup="passive" if _value(answer, "setup") == "active" else "active",
            sctp_port=_value(ours, "sctp-port"),
            max_message_bytes=_value(ours, "max-message-size"),
        )


def parse(sdp: str) -> list[Section]:
    """Read an offer's sections.

    Raises ValueError when it is no offer that could be answered.
    """
    sections: list[Section] = []
    for line in sdp.splitlines():
        if line.startswith("m="):
            if len(sections) == MAX_SECTIONS:
                raise ValueError("too many sections")
            sections.append(_section(line[2:].strip()))
        elif sections and line.startswith("a="):
            _read(sections[-1], line[2:].strip())
    if not sections:
        raise ValueError("no sections")
    return sections


def voices(sections: list[Section]) -> list[Voice]:
    """All voices that an offer's sections send."""
    found = []
    for section in sections:
        fields = section.track_id.split("_")
        if (
            section.is_sending
            and section.opus
            and len(fields) >= _MIN_TRACK_FIELDS
            and fields[0] == _VOICE
            and _TRACK_ID.fullmatch(section.track_id)
        ):
            found.append(
                Voice(
                    track_id=section.track_id,
                    session_id=fields[1],
                    payload_type=int(section.opus),
                    ssrcs=tuple(section.ssrcs),
                )
            )
    return found


def answer(sections: list[Section], transport: Transport, version: int) -> str:
    """Write the answer to an offer: every Opus is received, all else is refused."""
    bundled = [section.mid for section in sections if section.mid and section.port]
    lines = [
        "v=0",
        f"o=- {version} {version} IN IP4 0.0.0.0",
        "s=-",
        "t=0 0",
        f"a=group:BUNDLE {' '.join(bundled)}",
        "a=msid-semantic:WMS *",
        # Of the whole session: the server takes 64 KiB, and sections of those who left stay.
        f"a=fingerprint:{transport.fingerprint}",
        f"a=ice-ufrag:{transport.ice_user}",
        f"a=ice-pwd:{transport.ice_password}",
    ]
    has_described = False
    for section in sections:
        lines += _answered(section, transport)
        if section.port and not has_described:
            # The section whose transport all others share says it too, for those who read there.
            has_described = True
            lines += lines[6:9]
    return "\r\n".join(lines) + "\r\n"


def _answered(section: Section, transport: Transport) -> list[str]:
    is_data = section.kind == "application"
    opus = section.opus
    # All formats, also where nothing is received: the server's stack (pion) fails to start a track
    # whose codec is not in the answer, and with it every track that comes later.
    formats = [opus] if opus else section.formats or ["0"]
    lines = [
        f"m={section.kind} {9 if section.port else 0} {section.protocol} {' '.join(formats)}",
        "c=IN IP4 0.0.0.0",
        f"a=setup:{transport.setup}",
        *([f"a=mid:{section.mid}"] if section.mid else ()),
    ]
    if is_data:
        lines += [
            f"a=sctp-port:{transport.sctp_port}",
            f"a=max-message-size:{transport.max_message_bytes}",
        ]
        return lines
    lines += [
        "a=recvonly" if opus and section.is_sending else "a=inactive",
        "a=rtcp-mux",
    ]
    for name in formats:
        if name in section.codecs:
            lines.append(f"a=rtpmap:{name} {section.codecs[name]}")
        if name in section.parameters:
            lines.append(f"a=fmtp:{name} {section.parameters[name]}")
    return lines


def _section(media: str) -> Section:
    match = _MEDIA_LINE.fullmatch(media)
    if match is None:
        # Rejected, in the words that it came in: the others are answered as ever.
        kind, _, rest = media.partition(" ")
        return Section(kind=kind, port=0, protocol="UDP/TLS/RTP/SAVPF", formats=rest.split()[2:])
    kind, port, protocol, formats = match.groups()
    return Section(kind=kind, port=int(port), protocol=protocol, formats=formats.split())


def _read(section: Section, attribute: str) -> None:
    name, _, value = attribute.partition(":")
    match name:
        case "mid":
            section.mid = value
        case "msid":
            section.track_id = value.split(" ")[1] if " " in value else ""
        case "rtpmap":
            _put(section.codecs, value)
        case "fmtp":
            _put(section.parameters, value)
        case "ssrc":
            number = value.split(" ")[0]
            if _SSRC.fullmatch(number) and int(number) not in section.ssrcs:
                section.ssrcs.append(int(number))
        case _ if name in _DIRECTIONS:
            section.direction = name
        case _:
            pass


def _put(table: dict[str, str], value: str) -> None:
    name, _, text = value.partition(" ")
    table.setdefault(name, text)


def _is_opus(codec: str) -> bool:
    return codec.lower().startswith("opus/48000")


def _values(sdp: str, name: str) -> list[str]:
    start = f"a={name}:"
    return [line[len(start) :].strip() for line in sdp.splitlines() if line.startswith(start)]


def _value(sdp: str, name: str) -> str:
    values = _values(sdp, name)
    if not values:
        raise ValueError(f"a description without {name}")
    return values[0]
