# SPDX-License-Identifier: Apache-2.0

import time
from typing import Any

import pytest

from tests.mattermost.bot import Bot, OpenBot
from tests.mattermost.captions_seen import METRICS
from tests.mattermost.client import Connect, Recording
from tests.mattermost.server import MattermostServer
from tests.mattermost.state import new_id


@pytest.fixture
async def listener(bot: OpenBot) -> Bot:
    """A bot that has joined."""
    return await bot(makes_offer=False)


def _caption(session_id: str, **changes: Any) -> dict[str, Any]:
    return {"session_id": session_id, "text": "hello", "new_audio_len_ms": 2020.0, **changes}


async def _settled(server: MattermostServer, listener: Bot) -> None:
    """Wait until all that was sent was handled."""
    listener.events.clear()
    await listener.act("call_state", channelID=listener.call.channel_id)
    await listener.event("call_state")


async def test_caption(
    server: MattermostServer, recording: Recording, listener: Bot, connect: Connect
) -> None:
    """It is kept with its time, and shown to the people of the call and the recording page."""
    call, _ = recording
    (session_id,) = [one for one, user in call.sessions.items() if user == call.owner_id]
    person = await connect(server.state.users[call.owner_id].token)
    await person.event("hello")
    before = time.time()
    await listener.act("caption", **_caption(session_id, new_audio_len_ms=2020))
    event = await person.event("caption")
    assert event["data"] == {
        "channel_id": call.channel_id,
        "user_id": call.owner_id,
        "session_id": session_id,
        "text": "hello",
    }
    assert (await listener.event("caption"))["data"]["text"] == "hello"
    (caption,) = call.captions
    assert (caption.text, caption.new_audio_len_ms) == ("hello", 2020.0)
    assert before <= caption.time_seconds <= time.time()


async def test_lengths(server: MattermostServer, recording: Recording, listener: Bot) -> None:
    """Any number of JSON will do; of msgpack only a float, and never text."""
    call, _ = recording
    (session_id, *_) = call.sessions
    await listener.act("caption", **_caption(session_id, new_audio_len_ms=1))
    await listener.act("caption", **_caption(session_id, new_audio_len_ms="2"))
    await listener.act_binary("caption", **_caption(session_id, new_audio_len_ms=3))
    await listener.act_binary("caption", **_caption(session_id, new_audio_len_ms=4.0))
    await _settled(server, listener)
    assert [one.new_audio_len_ms for one in call.captions] == [1.0, 4.0]


async def test_of_whom(
    server: MattermostServer, recording: Recording, listener: Bot, connect: Connect
) -> None:
    """A session that is not in the call, or has left it, is shown nothing; nor may others show."""
    call, _ = recording
    bob = await server.participant(call, server.add_user("bob"))
    await listener.act("caption", **_caption(new_id()))
    stranger = await connect()
    await stranger.event("hello")
    await stranger.act("caption", **_caption(bob.session_id))
    await stranger.act("call_state", channelID=call.channel_id)
    await stranger.event("call_state")
    await bob.leave()
    await listener.act("caption", **_caption(bob.session_id))
    await _settled(server, listener)
    assert call.captions == []


async def test_metrics(server: MattermostServer, recording: Recording, listener: Bot) -> None:
    """Those with a name that the plugin knows are counted."""
    call, _ = recording
    (session_id, *_) = call.sessions
    for name in (*METRICS, "another"):
        await listener.act("metric", session_id=session_id, metric_name=name)
    await _settled(server, listener)
    assert [one.name for one in call.metrics] == list(METRICS)


async def test_limit(server: MattermostServer, recording: Recording, listener: Bot) -> None:
    """A burst of about a hundred passes; the rest is dropped, and nobody is told."""
    call, _ = recording
    (session_id, *_) = call.sessions
    for _ in range(160):
        await listener.act("caption", **_caption(session_id))
    await _settled(server, listener)
    assert 100 <= len(call.captions) <= 120
    assert len(call.captions) + call.dropped_messages == 160
    assert not any(one["event"].endswith("error") for one in listener.events)
