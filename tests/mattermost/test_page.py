# SPDX-License-Identifier: Apache-2.0

import asyncio
import base64
import functools
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from callsd_worker.recorder.quality import Quality
from callsd_worker.recorder.web_source import Page, WebSource
from tests.helpers.waiting import eventually
from tests.mattermost.client import Recording
from tests.mattermost.routes import PLUGIN
from tests.mattermost.server import MattermostServer


QUALITY = Quality(width=640, height=360, fps=10, video_kbps=500, audio_kbps=64)


@pytest.fixture
async def server() -> AsyncIterator[MattermostServer]:
    """A server that waits as long as a real one for a page to come back."""
    async with MattermostServer() as server:
        yield server


async def test_page(server: MattermostServer, recording: Recording) -> None:
    """It joins with its fragment's token, survives a gap, shows captions, and ends with its job."""
    call, job = recording
    payload = base64.urlsafe_b64encode(json.dumps({"token": server.bot_token}).encode()).decode()
    address = f"{server.url}{PLUGIN}/standalone/recording.html"
    client = "window.callsClient"
    page = Page(
        url=f"{address}?call_id={call.channel_id}&job_id={job.id}#{payload}",
        headers={"X-Calls-Recorder": "true"},
        ready_expression=f"{client} && {client}.connected && !{client}.closed",
        over_expression=f"!{client} || {client}.closed",
        leave_expression=f"{client}.disconnect()",
    )
    loop = asyncio.get_running_loop()
    # The browser belongs to the thread that has started it.
    with ThreadPoolExecutor(1) as thread, WebSource(page, QUALITY) as source:
        await loop.run_in_executor(thread, lambda: source.open(should_stop=lambda: False))
        session_id = job.bot_conn_id
        assert session_id in call.sessions
        await server.stop_listening()
        await server.start_listening()
        await server.until(lambda: job.bot_conn_id != session_id, "the page is back")
        assert not await loop.run_in_executor(thread, source.is_over)
        (speaker,) = [one for one, user in call.sessions.items() if user == call.owner_id]
        shown = {"channel_id": call.channel_id, "session_id": speaker, "text": "hello there"}
        await server.plugin.publish(call, "caption", shown)
        text = "document.querySelector('#captions').innerText"
        is_true = source._browser.scripts.is_true
        for expression in (f"{text} === 'Ada Admin: hello there'", f"{text} === ''"):
            seen = functools.partial(is_true, expression)
            await loop.run_in_executor(thread, eventually, seen, expression)
        await server.stop_recording(call)
        await server.until(lambda: session_id not in call.sessions, "the page has left")
        assert await loop.run_in_executor(thread, source.is_over)
