# SPDX-License-Identifier: Apache-2.0

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from tests.mattermost.bot import Bot
from tests.mattermost.client import Client, Recording
from tests.mattermost.opus_packets import of_pcm
from tests.mattermost.server import MattermostServer


OpenBot = Callable[..., Awaitable[Bot]]

TONE = of_pcm((8000 * np.sin(np.arange(48_000) / 10)).astype(np.int16))


@pytest.fixture
async def bot(
    server: MattermostServer, client: Client, recording: Recording
) -> AsyncIterator[OpenBot]:
    """Opens bots that have joined as the transcription's."""
    bots: list[Bot] = []

    async def open_one(**options: Any) -> Bot:
        makes_offer = options.pop("makes_offer", True)
        call, _ = recording
        one = Bot(server, client.session, call, call.transcription, **options)
        bots.append(one)
        await one.join(makes_offer=makes_offer)
        return one

    yield open_one
    for one in bots:
        await one.close()


async def test_hears(server: MattermostServer, recording: Recording, bot: OpenBot) -> None:
    """What somebody plays comes, packet by packet."""
    call, _ = recording
    ada = await server.participant(call, server.state.users[call.owner_id])
    listener = await bot()
    await server.bot_session(call).connected.wait()
    await ada.unmute()
    await server.until(lambda: listener.heard, "a track")
    heard = listener.heard[ada.track_id]
    await server.until(lambda: len(heard.sound) > 3, "silence")
    await ada.play(TONE)
    await ada.finished()
    await server.until(lambda: TONE[-1] in heard.sound, "the end")
    first = heard.sound.index(TONE[0])
    assert heard.sound[first : first + len(TONE)] == TONE
