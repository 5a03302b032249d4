# SPDX-License-Identifier: Apache-2.0

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callsd_worker.mattermost.data_channel import Description, pack
from callsd_worker.mattermost.sdp import Section, Transport, answer, parse, voices


TRANSPORT = Transport(
    ice_user="user",
    ice_password="p" * 24,
    fingerprint="sha-256 AB:CD",
    setup="passive",
    sctp_port="5000",
    max_message_bytes="65536",
)

OFFER = """v=0
o=- 1 2 IN IP4 0.0.0.0
s=-
t=0 0
a=group:BUNDLE 0 1 2 3
a=msid-semantic:WMS *
m=application 9 UDP/DTLS/SCTP webrtc-datachannel
a=mid:0
a=sctp-port:5000
a=setup:actpass
m=audio 9 UDP/TLS/RTP/SAVPF 111
a=mid:1
a=rtpmap:111 opus/48000/2
a=fmtp:111 minptime=10;useinbandfec=1
a=ssrc:1234 cname:ada
a=ssrc:1234 msid:ada voice_ada_12345678
a=msid:ada voice_ada_12345678
a=sendrecv
m=video 9 UDP/TLS/RTP/SAVPF 45 96 97
a=mid:2
a=rtpmap:45 AV1/90000
a=rtpmap:96 VP8/90000
a=rtpmap:97 rtx/90000
a=fmtp:97 apt=96
a=msid:ada screen_ada_12345678
a=sendonly
m=audio 9 UDP/TLS/RTP/SAVPF 111
a=mid:3
a=rtpmap:111 opus/48000/2
a=sendrecv
"""


def sections_of(sdp: str) -> list[list[str]]:
    """The lines of each section."""
    found: list[list[str]] = []
    for line in sdp.splitlines():
        if line.startswith("m="):
            found.append([])
        if found:
            found[-1].append(line)
    return found


def test_finds_voices() -> None:
    """Voices are told by their track's id, with what their packets look like."""
    (voice,) = voices(parse(OFFER))
    assert voice.track_id == "voice_ada_12345678"
    assert voice.session_id == "ada"
    assert voice.payload_type == 111
    assert voice.ssrcs == (1234,)


def test_answers_each_section() -> None:
    """Sound is received and pictures are not, under the same names and over the same transport."""
    _, voice, picture, empty = sections_of(answer(parse(OFFER), TRANSPORT, 1))
    assert "a=recvonly" in voice
    assert "a=fmtp:111 minptime=10;useinbandfec=1" in voice
    assert "a=inactive" in picture
    assert "a=recvonly" in empty
    for lines, mid in ((voice, 1), (picture, 2), (empty, 3)):
        assert f"a=mid:{mid}" in lines
        assert "a=setup:passive" in lines


def test_keeps_all_formats_of_a_picture() -> None:
    """A refused picture keeps its formats: without them the server fails, and all later voices."""
    picture = sections_of(answer(parse(OFFER), TRANSPORT, 1))[2]
    assert picture[0] == "m=video 9 UDP/TLS/RTP/SAVPF 45 96 97"
    assert "a=rtpmap:96 VP8/90000" in picture
    assert "a=fmtp:97 apt=96" in picture


def test_rejects_a_section_that_it_cannot_read() -> None:
    """An odd section is rejected, and the voice after it is heard."""
    odd = OFFER.replace("m=video 9 UDP/TLS/RTP/SAVPF 45 96 97", "m=text x/2 what 1")
    answered = sections_of(answer(parse(odd), TRANSPORT, 1))
    assert answered[2][0].startswith("m=text 0 ")
    assert len(answered) == 4
    assert len(voices(parse(odd))) == 1


def test_large_calls_fit() -> None:
    """The answer to an offer of 300 voices is within what the server takes."""
    voice = OFFER[OFFER.index("m=audio") : OFFER.index("m=video")]
    offer = OFFER + "".join(voice.replace("a=mid:1", f"a=mid:{number}") for number in range(4, 304))
    text = answer(parse(offer), TRANSPORT, 1)
    assert len(text) < 64 * 1024 - 1024
    assert len(pack(Description(type="answer", sdp=text))) < 8 * 1024 - 1024


def test_reads_the_roles() -> None:
    """Our role in DTLS is the one that the first answer gives us."""
    ours = (
        "a=ice-ufrag:u\r\na=ice-pwd:p\r\na=fingerprint:sha-512 1\r\na=fingerprint:sha-256 2\r\n"
        "a=sctp-port:5000\r\na=max-message-size:65536\r\n"
    )
    assert Transport.of(ours, "a=setup:active").setup == "passive"
    assert Transport.of(ours, "a=setup:passive").setup == "active"
    assert Transport.of(ours, "a=setup:passive").fingerprint == "sha-256 2"
    with pytest.raises(ValueError, match="setup"):
        Transport.of(ours, "")


@given(st.text(max_size=300), st.integers(0, len(OFFER)))
def test_survives_anything(text: str, position: int) -> None:
    """Whatever stands in an offer: it is answered section by section, or refused as a whole."""
    offer = OFFER[:position] + text + OFFER[position:]
    try:
        sections: list[Section] = parse(offer)
    except ValueError:
        return
    voices(sections)
    assert len(sections_of(answer(sections, TRANSPORT, 1))) >= len(sections)
