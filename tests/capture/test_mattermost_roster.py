# SPDX-License-Identifier: Apache-2.0

import pytest

from callsd_worker.mattermost.events import Session
from callsd_worker.mattermost.rest import Profile
from callsd_worker.mattermost.roster import MAX_TRACKS, Roster
from callsd_worker.mattermost.rtp import RtcpSenderReport, RtpPacket
from callsd_worker.mattermost.sdp import Voice
from tests.capture.mattermost_calls import Notes


ADA = Voice(track_id="voice_ada_1", session_id="ada", payload_type=111, ssrcs=(1,))
BOB = Voice(track_id="voice_bob_1", session_id="bob", payload_type=111, ssrcs=(2, 3))


def packet(ssrc: int, payload_type: int = 111) -> RtpPacket:
    """Sound of a source."""
    return RtpPacket(payload_type, 1, 2, ssrc, b"sound")


@pytest.fixture
def notes() -> Notes:
    """What the listener is told."""
    return Notes()


@pytest.fixture
def asked() -> list[tuple[str, str]]:
    """Who is to be looked up."""
    return []


@pytest.fixture
def roster(notes: Notes, asked: list[tuple[str, str]]) -> Roster:
    """A roster at a time that stands still."""
    return Roster(notes, lambda: 1000.0, lambda *who: asked.append(who))


def test_tells_of_a_track_at_once_and_again_with_the_name(
    roster: Roster, notes: Notes, asked: list[tuple[str, str]]
) -> None:
    """A name that is known does not have to be looked up for the next track."""
    roster.join("ada", "ada-id")
    roster.offer([ADA])
    assert notes.speakers["voice_ada_1"].user_id == "ada-id"
    assert asked == [("ada", "ada-id")]
    roster.named("ada", Profile(user_id="ada-id", name="Ada"))
    assert notes.speakers["voice_ada_1"].name == "Ada"
    again = Voice(track_id="voice_ada_2", session_id="ada", payload_type=111, ssrcs=(9,))
    roster.offer([ADA, again])
    assert notes.speakers["voice_ada_2"].name == "Ada"
    assert len(asked) == 1


def test_sorts_packets(roster: Roster, notes: Notes) -> None:
    """Packets and reports go to their track; those of no track, or of no voice, are dropped."""
    roster.offer([ADA, BOB])
    for ssrc in (1, 2, 3, 4):
        roster.packet(packet(ssrc))
        roster.packet(packet(ssrc, payload_type=13))
        roster.report(RtcpSenderReport(ssrc, 5.0, 6))
    assert {track: len(packets) for track, packets in notes.packets.items()} == {
        "voice_ada_1": 1,
        "voice_bob_1": 2,
    }
    assert len(notes.reports["voice_bob_1"]) == 2


def test_ends_tracks(roster: Roster, notes: Notes) -> None:
    """A track ends when its speaker leaves, is no longer listed, or it is no longer offered."""
    roster.replace([Session(session_id="ada"), Session(session_id="bob")])
    roster.offer([ADA, BOB])
    roster.leave("ada")
    roster.packet(packet(1))
    assert notes.events[-1] == "ended voice_ada_1"
    # Until the server's next offer it may list what has ended: that does not begin again.
    roster.offer([ADA, BOB])
    roster.packet(packet(1))
    assert notes.events[-1] == "ended voice_ada_1"
    assert "voice_ada_1" not in notes.packets
    roster.replace([])
    assert notes.events[-1] == "ended voice_bob_1"
    carl = Voice(track_id="voice_carl_1", session_id="carl", payload_type=111, ssrcs=(7,))
    roster.offer([carl])
    roster.offer([])
    assert notes.events[-1] == "ended voice_carl_1"


def test_tells_of_mutes_only(roster: Roster, notes: Notes) -> None:
    """Who is muted is told when that changes, from whatever it is known."""
    roster.replace([Session(session_id="ada", unmuted=True), Session(session_id="bob")])
    assert roster.should_hear
    roster.mute("ada", is_muted=True)
    roster.mute("ada", is_muted=True)
    roster.mute("nobody", is_muted=True)
    assert notes.events == ["muted ada"]
    assert not roster.should_hear
    roster.mute("ada", is_muted=False)
    roster.replace([Session(session_id="ada"), Session(session_id="bob")])
    assert notes.events == ["muted ada", "muted ada"]


def test_bounds_tracks(roster: Roster, notes: Notes) -> None:
    """So many tracks and no more are captured at once."""
    voices = [
        Voice(track_id=f"voice_s{n}_1", session_id=f"s{n}", payload_type=111, ssrcs=(n,))
        for n in range(MAX_TRACKS + 10)
    ]
    roster.offer(voices)
    assert len(notes.speakers) == MAX_TRACKS
