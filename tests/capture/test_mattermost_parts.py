# SPDX-License-Identifier: Apache-2.0

import struct
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from callsd_worker.mattermost import data_channel, events, rtp
from callsd_worker.mattermost.data_channel import Description
from callsd_worker.mattermost.ice_servers import ice_servers
from callsd_worker.mattermost.rest import MAX_ANSWER_BYTES, Rest, RestError, ServerClock
from callsd_worker.mattermost.settings import Call, steady_clock
from callsd_worker.mattermost.start_time import StartTime


TOKEN = "secretsecret"


class TestPackets:
    """RTP and RTCP."""

    def test_reads_a_packet(self) -> None:
        """Contributing sources, an extension and padding are not part of the payload."""
        header = struct.pack("!BBHII", 0xB1, 0x80 | 111, 65535, 2**32 - 1, 7)
        extension = struct.pack("!HH", 0xBEDE, 1) + bytes(4)
        packet = rtp.parse_packet(header + bytes(4) + extension + b"sound" + bytes(2) + b"\x03")
        assert packet == rtp.RtpPacket(111, 65535, 2**32 - 1, 7, b"sound")

    def test_reads_padding(self) -> None:
        """A packet of padding has an empty payload."""
        packet = rtp.parse_packet(struct.pack("!BBHII", 0xA0, 111, 1, 2, 3) + b"\0\0\0\x04")
        assert packet is not None
        assert packet.payload == b""

    def test_reads_sender_reports(self) -> None:
        """The time of a report is Unix time, whatever stands beside it in the packet."""
        info = struct.pack("!IQIII", 9, (2_208_988_800 + 100) << 32 | 1 << 31, 48_000, 1, 1)
        report = struct.pack("!BBH", 0x80, 200, len(info) // 4) + info
        other = struct.pack("!BBHI", 0x81, 202, 1, 9)
        assert list(rtp.sender_reports(other + report)) == [rtp.RtcpSenderReport(9, 100.5, 48_000)]

    @given(st.binary(max_size=64))
    def test_survives_anything(self, data: bytes) -> None:
        """Garbage is no packet, and raises nothing."""
        rtp.parse_packet(data)
        list(rtp.sender_reports(data))


class TestEvents:
    """Events of the websocket."""

    @pytest.mark.parametrize(
        "frame", ["", "[]", "7", '{"event":5}', '{"event":"hello","broadcast":7}', "[" * 10_000]
    )
    def test_ignores_what_is_no_event(self, frame: str) -> None:
        """Garbage is no event, and raises nothing."""
        assert events.parse(frame) is None

    def test_reads_whom_an_event_is_for(self) -> None:
        """The call and the connection are named by the broadcast, or else by the data."""
        prefix = f'{{"event":"{events.PREFIX}'
        event = events.parse(f'{prefix}user_left","data":{{"channelID":"c","session_id":"s"}}}}')
        assert event is not None
        assert (event.name, event.channel_id, event.text("session_id")) == ("user_left", "c", "s")
        event = events.parse(f'{prefix}signal","data":{{"connID":"x"}},"seq":4}}')
        assert event is not None
        assert (event.connection_id, event.seq, event.text("data")) == ("x", 4, "")
        event = events.parse(f'{prefix}join","data":[],"broadcast":{{"connection_id":"y"}}}}')
        assert event is not None
        assert (event.connection_id, dict(event.data)) == ("y", {})

    @pytest.mark.parametrize(
        ("call", "is_known"),
        [("null", True), ("{}", True), ("{", False), ('{"sessions":7}', False)],
    )
    def test_reads_a_calls_state(self, call: str, *, is_known: bool) -> None:
        """No call is a call without anybody, and garbage is no state."""
        event = events.Event(
            name="call_state", seq=1, data={"call": call}, channel_id="c", connection_id=""
        )
        state = events.call_state(event)
        assert (state is not None) == is_known
        assert not (state and state.sessions)


class TestDataChannel:
    """Messages of the data channel."""

    def test_carries_descriptions(self) -> None:
        """The type is an explicit byte, and the payload what it was."""
        answer = Description(type="answer", sdp="v=0\r\n")
        message = data_channel.description_message(answer)
        assert message[:2] == b"\xcc\x03"
        assert data_channel.description_in(message) == answer
        assert data_channel.description_in(message[1:]) == answer

    @given(st.binary(max_size=64))
    def test_survives_anything(self, data: bytes) -> None:
        """Garbage is no description, and raises nothing."""
        data_channel.description_in(data)
        data_channel.description_in(b"\x03" + data)
        data_channel.unpack(data)

    def test_bounds_what_it_unpacks(self) -> None:
        """A description that grows out of all bounds is refused."""
        bomb = Description(type="offer", sdp=" " * (2 * data_channel.MAX_DESCRIPTION_BYTES))
        assert data_channel.unpack(data_channel.pack(bomb)) is None


def test_leaves_out_malformed_ice_servers() -> None:
    """Of a list of ICE servers all that can be used are."""
    listed = [
        "stun:one.example",
        "nonsense",
        7,
        {"urls": 7},
        {"urls": ["turn:two.example:1", "stun:", "stun:x:99999"], "username": "u", "credential": 3},
    ]
    assert [
        (server.urls, server.username, server.credential) for server in ice_servers(listed)
    ] == [
        (["stun:one.example"], None, None),
        (["turn:two.example:1"], "u", None),
    ]
    assert ice_servers(None) == []


class TestClocks:
    """When the recording began."""

    def test_compares_clocks(self) -> None:
        """Dates are of whole seconds: within those our clock is right, beyond it is corrected."""
        clock = ServerClock()
        date = "Thu, 01 Jan 1970 00:01:40 GMT"
        clock.observe(date, sent_seconds=100.2, received_seconds=100.3)
        assert clock.ahead_seconds == 0.0
        clock = ServerClock()
        clock.observe(date, sent_seconds=160.2, received_seconds=160.3)
        clock.observe("nonsense", sent_seconds=0.0, received_seconds=0.0)
        assert abs(clock.ahead_seconds - 60.0) < 1.0

    def test_trusts_its_own_clock_for_what_is_live(self) -> None:
        """A start that we were waiting for is now; after a gap, it is what the server says."""
        start = StartTime(ServerClock(), lambda: 1000.0)
        assert start.take(0, is_live=False) is None
        assert start.take(5000, is_live=True) == pytest.approx(1000.0 - 0.015)
        assert start.take(6000, is_live=True) is None
        start = StartTime(ServerClock(), lambda: 1000.0)
        assert start.take(0, is_live=False) is None
        start.gap()
        assert start.take(5000, is_live=True) == 5.0


@pytest.fixture
async def rest() -> AsyncIterator[Rest]:
    """A server whose users are what their id says."""

    async def user(request: web.Request) -> web.StreamResponse:
        match request.match_info["id"]:
            case "named":
                name = " A\u202eda\n"
                return web.json_response({"id": "u", "first_name": name, "last_name": "L" * 500})
            case "unnamed":
                return web.json_response({"id": "u/../x", "first_name": " ", "username": "ada"})
            case "moved":
                raise web.HTTPFound("/api/v4/users/named")
            case "large":
                return web.Response(body=b" " * (MAX_ANSWER_BYTES + 1) + b"{}")
            case "away":
                return web.Response(status=404, text="404 page not found")
            case _:
                return web.json_response({"message": "not found"}, status=404)

    app = web.Application()
    app.router.add_get("/api/v4/users/{id}", user)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with aiohttp.ClientSession() as session:
        yield Rest(session, Call(site_url=url, call_id="c", job_id="j"), TOKEN, steady_clock())
    await runner.cleanup()


class TestRest:
    """What is asked by HTTP."""

    async def test_cleans_names(self, rest: Rest) -> None:
        """A name is bounded, and has no character that changes what stands beside it."""
        named = await rest.user("named")
        assert named.name == "Ada " + "L" * 124
        unnamed = await rest.user("unnamed")
        assert (unnamed.name, unnamed.user_id) == ("ada", "")

    @pytest.mark.parametrize(
        ("user_id", "is_temporary"),
        [("moved", False), ("large", True), ("away", True), ("gone", False), ("../x", False)],
    )
    async def test_refuses(self, rest: Rest, user_id: str, *, is_temporary: bool) -> None:
        """Redirects are not followed, answers are bounded, and what may pass is told apart."""
        with pytest.raises(RestError) as refused:
            await rest.user(user_id)
        assert refused.value.is_temporary == is_temporary
        assert TOKEN not in str(refused.value)


def test_clock_never_steps() -> None:
    """The clock is Unix time."""
    assert abs(steady_clock()() - time.time()) < 1.0
