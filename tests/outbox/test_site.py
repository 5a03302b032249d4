# SPDX-License-Identifier: Apache-2.0
"""What a site answers, and in which pieces; here it is one that says what the test wants."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from callsd_daemon.domain.mattermost import MattermostCall
from callsd_daemon.mattermost.site import (
    MAX_PROBLEM_CHARACTERS,
    Site,
    SiteError,
    TooLargeError,
    open_session,
)
from tests.helpers.ports import free_port


TOKEN = "qj75unbsef83ik9p7ueypb6iyw"
CALL = MattermostCall(site_url="", call_id="c" * 26, post_id="p" * 26, job_id="r" * 26)
PIECES_SECONDS = 0.05


@asynccontextmanager
async def answering(status: str, *pieces: bytes, location: str = "") -> AsyncIterator[Site]:
    """A site that answers everything so, in these pieces, one after the other."""
    number, _, reason = status.partition(" ")

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        headers = {"Content-Length": str(sum(map(len, pieces))), "Location": location}
        response = web.StreamResponse(status=int(number), reason=reason, headers=headers)
        await response.prepare(request)
        for piece in pieces:
            await asyncio.sleep(PIECES_SECONDS)
            await response.write(piece)
        await response.write_eof()
        return response

    app, port = web.Application(), free_port()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with open_session(ssl.create_default_context()) as session:
            yield Site(session, f"http://127.0.0.1:{port}", TOKEN)
    finally:
        await runner.cleanup()


async def test_answer_in_pieces() -> None:
    """An answer is read to its end, however it is cut up on its way.

    Taken for one without an id, the answer of an upload's last part would cost all of the upload.
    """
    answer = b'{"id":"' + b"f" * 26 + b'","name":"Call.mp4"}'
    async with answering("200 OK", answer[:3], answer[3:20], answer[20:]) as site:
        assert await site.create_upload(CALL, "Call.mp4", 1) == "f" * 26


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (
            "500 Oh No",
            b'{"message":"failed to lock call","status_code":500}',
            "failed to lock call",
        ),
        ("500 Oh No", b"500 internal server error\n", "500 internal server error"),
        ("502 Bad Gateway", b"<html><h1>502 Bad Gateway</h1></html>", "Bad Gateway"),
        ("503 Busy", b"", "Busy"),
        ("301 Moved", b"", "Moved"),
    ],
)
async def test_refusal(status: str, body: bytes, text: str) -> None:
    """A refusal is told in the words of who refused, without the markup of a proxy's page."""
    async with answering(status, body) as site:
        with pytest.raises(SiteError) as problem:
            await site.publish_recording(CALL, "f" * 26)
    assert str(problem.value).endswith(f": {text}")
    assert problem.value.status == int(status[:3])


async def test_too_large() -> None:
    """What is too large can be told apart."""
    async with answering("413 Request Entity Too Large", b"<html></html>") as site:
        with pytest.raises(TooLargeError, match=r"answers 413 to POST .*Too Large"):
            await site.create_upload(CALL, "Call.mp4", 1)


@pytest.mark.parametrize(
    "before", range(MAX_PROBLEM_CHARACTERS - 30, MAX_PROBLEM_CHARACTERS + 1, 5)
)
async def test_token_is_never_told(before: int) -> None:
    """A site that repeats the token does so in vain, wherever in a long text it stands."""
    body = b"x" * before + TOKEN.encode() + b"y" * 10_000
    async with answering("401 Unauthorized", body) as site:
        with pytest.raises(SiteError) as problem:
            await site.file_name(CALL)
    assert TOKEN[:6] not in str(problem.value)
    assert len(str(problem.value)) < 2 * MAX_PROBLEM_CHARACTERS


async def test_redirect_gets_no_token() -> None:
    """The token is for one site, and is not taken along to where that one points."""
    async with (
        answering("200 OK", b'{"filename":"Call"}') as elsewhere,
        answering("307 Elsewhere", location=f"{elsewhere._url}/") as site,
    ):
        with pytest.raises(SiteError, match="answers 307"):
            await site.file_name(CALL)
        assert await elsewhere.file_name(CALL) == "Call"
