# SPDX-License-Identifier: Apache-2.0

import asyncio
import zlib

import msgspec
import pytest

from tests.mattermost.bot import OpenBot
from tests.mattermost.client import Connect, Recording
from tests.mattermost.offers import FIRST_FMTP
from tests.mattermost.participants import Participant
from tests.mattermost.server import MattermostServer
from tests.mattermost.sfu import MAX_SDP_BYTES, Trickle
from tests.mattermost.state import Call


@pytest.fixture
async def ada(server: MattermostServer, recording: Recording) -> Participant:
    """The owner of the call, who has not spoken yet."""
    call, _ = recording
    return await server.participant(call, server.state.users[call.owner_id])


async def _somebody(server: MattermostServer, call: Call, name: str) -> Participant:
    return await server.participant(call, server.add_user(name))


class TestJoining:
    """The bot's own offer."""

    @pytest.mark.parametrize("trickle", list(Trickle))
    @pytest.mark.parametrize("uses_channel", [True, False])
    async def test_connects(
        self,
        server: MattermostServer,
        ada: Participant,
        bot: OpenBot,
        *,
        trickle: Trickle,
        uses_channel: bool,
    ) -> None:
        """Its offer is answered, and the server's candidate told when it was asked to."""
        server.timing.trickle = trickle
        listener = await bot(uses_channel=uses_channel)
        await ada.unmute()
        await server.until(lambda: ada.track_id in listener.heard, "the track")
        signals = [one["data"]["data"] for one in listener.events if "signal" in str(one["event"])]
        kinds = [msgspec.json.decode(one)["type"] for one in signals]
        expected = {
            Trickle.NEVER: ["answer"],
            Trickle.BEFORE: ["candidate", "answer"],
            Trickle.AFTER: ["answer", "candidate"],
        }[trickle]
        assert kinds == expected + ([] if uses_channel else ["offer"])

    async def test_no_track_before_the_channel(
        self, server: MattermostServer, recording: Recording, ada: Participant, bot: OpenBot
    ) -> None:
        """Nothing is offered to a bot that has made no offer, whoever speaks."""
        call, _ = recording
        listener = await bot(makes_offer=False)
        await ada.unmute()
        assert server.bot_session(call).offers_sent == 0
        await listener.offer()
        await server.until(lambda: ada.track_id in listener.heard, "the track")

    async def test_no_offer(
        self, server: MattermostServer, recording: Recording, bot: OpenBot
    ) -> None:
        """A bot that makes no offer in time loses its session, and its job ends."""
        call, _ = recording
        server.timing.first_offer_seconds = 0.1
        listener = await bot(makes_offer=False)
        await server.until(lambda: listener.session_id not in call.sessions, "the end")
        await server.until(lambda: not call.transcription.is_active, "the end of the job")

    async def test_refusals(
        self, server: MattermostServer, recording: Recording, bot: OpenBot
    ) -> None:
        """Text, what is no zlib, what is too large when inflated: no answer, and no error."""
        call, _ = recording
        listener = await bot(makes_offer=False)
        bomb = zlib.compress(b" " * (MAX_SDP_BYTES + 1))
        for data in ("text", b"no zlib", bomb, zlib.compress(b"{}"), zlib.compress(b"[]"), 7):
            await listener.act_binary("sdp", data=data)
        await listener.act("sdp", data="text")
        await server.until(lambda: len(server.plugin.bots.refused_signals) == 7, "all of them")
        assert not server.bot_session(call).first_offer.is_set()

    async def test_a_large_frame(self, server: MattermostServer, bot: OpenBot) -> None:
        """More than 8 KiB end the websocket."""
        listener = await bot(makes_offer=False)
        await listener.act_binary("sdp", data=bytes(9000))
        await listener.is_cut()


class TestOffers:
    """What the server offers."""

    async def test_contents(
        self, server: MattermostServer, recording: Recording, ada: Participant, bot: OpenBot
    ) -> None:
        """One offer per track, each with one section more; parameters stand in the first alone."""
        call, _ = recording
        listener = await bot()
        bob = await _somebody(server, call, "bob")
        await ada.unmute()
        await bob.unmute()
        await server.until(lambda: bob.track_id in listener.heard, "both")
        assert list(listener.heard) == [ada.track_id, bob.track_id]
        assert [one.count("m=audio") for one in listener.offers] == [1, 2]
        first, second = listener.offers
        assert f"a=fmtp:111 {FIRST_FMTP}" in first
        assert FIRST_FMTP not in second
        assert f"a=msid:{ada.session_id} {ada.track_id}" in first
        assert "a=msid-semantic:WMS *" in first
        assert ada.track_id.startswith(f"voice_{ada.session_id}_")
        assert len(ada.track_id.rpartition("_")[2]) == 8

    async def test_one_after_the_other(
        self, server: MattermostServer, recording: Recording, ada: Participant, bot: OpenBot
    ) -> None:
        """The second offer waits for the answer to the first."""
        call, _ = recording
        listener = await bot()
        listener.answers = False
        bob = await _somebody(server, call, "bob")
        await ada.unmute()
        await bob.unmute()
        await server.until(lambda: listener.offers, "the first")
        session = server.bot_session(call)
        assert session.offers_sent == 1
        listener.answers = True
        await listener.answer(listener.offers[0])
        await server.until(lambda: bob.track_id in listener.heard, "the second")
        assert session.offers_sent == 2

    async def test_no_answer(
        self, server: MattermostServer, recording: Recording, ada: Participant, bot: OpenBot
    ) -> None:
        """Without an answer in time no track is offered again, and a late one heals nothing."""
        call, _ = recording
        server.timing.answer_seconds = 0.2
        listener = await bot()
        listener.answers = False
        session = server.bot_session(call)
        await ada.unmute()
        await server.until(lambda: session.is_stuck, "the end of the wait")
        await listener.answer(listener.offers[0])
        bob = await _somebody(server, call, "bob")
        await bob.unmute()
        async with asyncio.timeout(1.0):
            await session.over()
        assert session.offers_sent == 1
        assert ada.track is not None
        assert ada.track.packets_sent == 0

    async def test_an_answer_without_the_codec(
        self, server: MattermostServer, recording: Recording, ada: Participant, bot: OpenBot
    ) -> None:
        """The track cannot be started, and no later one is offered."""
        call, _ = recording
        listener = await bot()
        listener.edit = lambda text: text.replace("SAVPF 111", "SAVPF 0")
        await ada.unmute()
        await server.until(lambda: server.bot_session(call).is_stuck, "the refusal")

    async def test_a_muted_speaker(
        self, server: MattermostServer, recording: Recording, bot: OpenBot
    ) -> None:
        """Who has spoken before has a track at once, without packets; who has not has none."""
        call, _ = recording
        listener = await bot()
        user = server.add_user("bob")
        bob = await server.participant(call, user, has_spoken_before=True)
        await _somebody(server, call, "eve")
        await server.until(lambda: bob.track_id in listener.heard, "the track")
        assert list(listener.heard) == [bob.track_id]
        assert listener.heard[bob.track_id].packets == []

    async def test_who_has_left(
        self, server: MattermostServer, recording: Recording, ada: Participant, bot: OpenBot
    ) -> None:
        """A voice just stops; its section stays in later offers, without a track."""
        call, _ = recording
        listener = await bot()
        await ada.unmute()
        await server.until(lambda: ada.track_id in listener.heard, "the first")
        bob = await _somebody(server, call, "bob")
        await ada.leave()
        event = await listener.event("user_left")
        assert event["data"]["session_id"] == ada.session_id
        assert len(listener.offers) == 1
        await bob.unmute()
        await server.until(lambda: bob.track_id in listener.heard, "the second")
        assert listener.offers[1].count("m=audio") == 2
        assert ada.session_id not in listener.offers[1]

    async def test_several_bots(
        self, server: MattermostServer, recording: Recording, ada: Participant, bot: OpenBot
    ) -> None:
        """Each hears everybody, with an SSRC of its own."""
        _, job = recording
        await ada.unmute()
        bots = [await bot(), await bot(job=job, uses_channel=True)]
        await server.until(lambda: all(one.has_heard(ada.track_id) for one in bots), "sound")
        ssrcs = {one.heard[ada.track_id].packets[0][1].ssrc for one in bots}
        assert len(ssrcs) == 2


class TestVideo:
    """Screens."""

    async def test_refused(
        self, server: MattermostServer, recording: Recording, ada: Participant, bot: OpenBot
    ) -> None:
        """An inactive answer: not one packet comes, and later voices are heard."""
        call, _ = recording
        listener = await bot()
        await ada.share_screen()
        bob = await _somebody(server, call, "bob")
        await bob.unmute()
        await server.until(lambda: bob.track_id in listener.heard, "the voice")
        await server.until(lambda: listener.heard[bob.track_id].packets, "sound")
        assert ada.screen is not None
        assert ada.screen.packets_sent == 0
        assert [one.count("m=video") for one in listener.offers] == [1, 1]

    async def test_taken(
        self, server: MattermostServer, recording: Recording, ada: Participant, bot: OpenBot
    ) -> None:
        """Packets are counted; the end is an offer of its own, and the section is used again."""
        listener = await bot()
        listener.refuses_video = False
        await ada.share_screen()
        first = ada.screen
        assert first is not None
        await server.until(lambda: first.packets_sent, "packets")
        await ada.stop_sharing()
        await server.until(lambda: len(listener.offers) == 2, "the offer without it")
        assert first.id not in listener.offers[1]
        await ada.share_screen()
        await server.until(lambda: len(listener.offers) == 3, "the offer with the next")
        assert listener.offers[2].count("m=video") == 1
        assert ada.screen is not None
        assert ada.screen.id in listener.offers[2]


class TestDataChannel:
    """What is said on it."""

    async def test_messages(self, server: MattermostServer, ada: Participant, bot: OpenBot) -> None:
        """A pong for a ping, of either kind; a lock is given; a map comes with every offer."""
        listener = await bot()
        for message in ("ping", b"\xcc\x01", b"\x01"):
            listener.channel.send(message)
        await server.until(lambda: len(listener.messages) == 3, "pongs")
        assert listener.messages == ["pong", b"\xcc\x02", b"\xcc\x02"]
        listener.channel.send(b"\xcc\x07")
        await server.until(lambda: len(listener.messages) == 4, "the lock")
        assert listener.messages[3] == b"\xcc\x07\xc3"
        await ada.unmute()
        assert not listener.offers
        listener.channel.send(b"\xcc\x08")
        await server.until(lambda: len(listener.messages) == 5, "the map")
        content = listener.messages[4]
        assert isinstance(content, bytes)
        assert content[:2] == b"\xcc\x09"
        expected = {"1": {"type": "voice", "sender_id": listener.session_id}}
        assert msgspec.msgpack.decode(content[2:]) == expected


class TestEvents:
    """What is told of people."""

    async def test_in_turn(
        self, server: MattermostServer, recording: Recording, bot: OpenBot, connect: Connect
    ) -> None:
        """Joining, mute and voice come to all connections of the bot, as copies addressed to it."""
        call, _ = recording
        await bot()
        other = await connect()
        await other.event("hello")
        bob = await _somebody(server, call, "bob")
        await bob.unmute()
        await bob.mute()
        await bob.leave()
        for name, key in (
            ("user_joined", "user_id"),
            ("user_unmuted", "userID"),
            ("user_muted", "userID"),
            ("user_left", "user_id"),
        ):
            event = await other.event(name)
            assert event["data"]["session_id"] == bob.session_id
            assert event["data"][key] == bob.user_id
            assert event["data"]["channelID"] == call.channel_id
            assert event["broadcast"]["user_id"] == server.state.bot.id
            assert not event["broadcast"]["channel_id"]

    async def test_state(
        self, server: MattermostServer, recording: Recording, ada: Participant, bot: OpenBot
    ) -> None:
        """The state of the call says who is unmuted."""
        listener = await bot()
        await ada.unmute()
        listener.events.clear()
        await listener.act("call_state", channelID=listener.call.channel_id)
        state = msgspec.json.decode((await listener.event("call_state"))["data"]["call"])
        assert [one["unmuted"] for one in state["sessions"]] == [True]
        assert state["transcription"]["end_at"] == 0
