# SPDX-License-Identifier: Apache-2.0

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import aiohttp
import pytest

from tests.mattermost.bot import Bot, OpenBot
from tests.mattermost.client import Client, Recording, refused, status_path
from tests.mattermost.participants import Participant
from tests.mattermost.server import MattermostServer


GAP_SECONDS = 0.3
LONG_SECONDS = 100.0
"""Until it is mended."""


@pytest.fixture
async def server() -> AsyncIterator[MattermostServer]:
    """A server that keeps a session without its websocket for longer than the tests last."""
    async with MattermostServer(start_check_seconds=600.0, reconnect_seconds=20.0) as server:
        yield server


@pytest.fixture
async def ada(server: MattermostServer, recording: Recording) -> Participant:
    """The owner of the call, who has not spoken yet."""
    call, _ = recording
    return await server.participant(call, server.state.users[call.owner_id])


async def _gap(server: MattermostServer, listener: Bot, ada: Participant) -> None:
    """Cut the websocket while somebody unmutes for the first time, until it can be had again."""
    await server.faults.network.cut_websockets(LONG_SECONDS)
    await listener.is_cut()
    with pytest.raises(aiohttp.ClientError):
        await listener.connect()
    await ada.unmute()
    session = server.bot_session(listener.call)
    await server.until(lambda: session.offers_sent, "the offer")
    await server.faults.network.mend()


class TestGap:
    """The websocket breaks just when an offer is made."""

    async def test_another_connection(
        self, server: MattermostServer, ada: Participant, bot: OpenBot
    ) -> None:
        """The offer is lost, and the bot is deaf for ever."""
        server.timing.answer_seconds = 1.0
        listener = await bot()
        await _gap(server, listener, ada)
        await listener.reconnect(resume=False)
        await server.until(lambda: server.bot_session(listener.call).is_stuck, "deafness")
        assert listener.offers == []

    async def test_resume_and_an_early_answer(
        self, server: MattermostServer, ada: Participant, bot: OpenBot
    ) -> None:
        """The offer comes again, without a hello; what is answered at once is dropped."""
        server.timing.answer_seconds = 1.0
        listener = await bot()
        await _gap(server, listener, ada)
        await listener.reconnect(resume=True)
        await server.until(lambda: listener.offers, "the offer")
        await server.until(lambda: server.bot_session(listener.call).is_stuck, "deafness")
        assert server.plugin.bots.refused_signals[-1] == "not reconnected yet"
        assert sum(one["event"] == "hello" for one in listener.events) == 1

    async def test_resume_and_wait(
        self, server: MattermostServer, ada: Participant, bot: OpenBot
    ) -> None:
        """It works when the answer is held for a while."""
        listener = await bot()
        listener.answer_delay_seconds = 0.6
        await _gap(server, listener, ada)
        await listener.reconnect(resume=True)
        await server.until(lambda: listener.has_heard(ada.track_id), "sound")

    async def test_by_the_data_channel(
        self, server: MattermostServer, ada: Participant, bot: OpenBot
    ) -> None:
        """The gap does not matter."""
        listener = await bot(uses_channel=True)
        await _gap(server, listener, ada)
        await server.until(lambda: listener.has_heard(ada.track_id), "sound")
        await listener.reconnect(resume=False)
        listener.events.clear()
        await ada.mute()
        await listener.event("user_muted")

    async def test_too_much_was_missed(
        self, server: MattermostServer, ada: Participant, bot: OpenBot
    ) -> None:
        """Above 128 events there is a new connection, with a hello."""
        listener = await bot()
        await server.faults.network.cut_websockets(LONG_SECONDS)
        await listener.is_cut()
        for _ in range(70):
            await ada.unmute()
            await ada.mute()
        await server.faults.network.mend()
        listener.events.clear()
        await listener.connect(resume=True)
        hello = await listener.event("hello")
        assert hello["data"]["connection_id"] != listener.session_id


async def test_drop_udp(server: MattermostServer, ada: Participant, bot: OpenBot) -> None:
    """Nothing comes for a while, then the sound goes on."""
    listener = await bot()
    await ada.unmute()
    await server.until(lambda: ada.track_id in listener.heard, "the track")
    heard = listener.heard[ada.track_id]
    await server.until(lambda: heard.packets, "sound")
    await server.faults.network.drop_udp(GAP_SECONDS)
    count = len(heard.packets)
    await server.until(lambda: len(heard.packets) > count + 5, "more sound")
    arrivals = [at for at, _ in heard.packets]
    gaps = [after - before for before, after in pairwise(arrivals)]
    assert max(gaps) >= GAP_SECONDS / 2


async def test_crash(
    server: MattermostServer, recording: Recording, client: Client, ada: Participant, bot: OpenBot
) -> None:
    """No media, no event, 500; afterwards the call is over, which nobody is told."""
    call, job = recording
    listener = await bot()
    await ada.unmute()
    await server.until(lambda: ada.track_id in listener.heard, "the track")
    heard = listener.heard[ada.track_id]
    await server.until(lambda: heard.packets, "sound")
    await server.faults.network.crash_plugin(GAP_SECONDS)
    count, events = len(heard.packets), len(listener.events)
    path = f"/calls/{call.channel_id}/active"
    assert (await client.get(path))[0] == 500
    await server.until(lambda: not server.plugin.is_dead, "its return")
    assert (await client.get(path))[2] == {"active": False}
    report = {"JobType": "recording", "Status": "started", "omitempty": ""}
    assert await client.post(status_path(call, job.id), report) == refused(400, "no call ongoing")
    assert len(heard.packets) <= count + 5
    assert len(listener.events) == events


async def test_lost_session(
    server: MattermostServer, recording: Recording, ada: Participant, bot: OpenBot
) -> None:
    """The transport is closed, and the call goes on."""
    call, _ = recording
    listener = await bot()
    await ada.unmute()
    await server.faults.network.lose_sessions(call)
    await server.until(lambda: listener.peer.connectionState == "closed", "the end")
    assert call.end_at == 0


async def test_a_session_that_stays_away(
    server: MattermostServer, recording: Recording, bot: OpenBot
) -> None:
    """It is over when its time to come back is."""
    call, _ = recording
    server.plugin._reconnect_seconds = 0.1
    listener = await bot()
    await server.faults.network.cut_websockets(LONG_SECONDS)
    await server.until(lambda: listener.session_id not in call.sessions, "the end")
    async with asyncio.timeout(5.0):
        await server.plugin.settled()
    assert not call.transcription.is_active
