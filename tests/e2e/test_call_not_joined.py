# SPDX-License-Identifier: Apache-2.0
"""A call that a capture is not let into, with the real worker."""

import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from callsd.v1.capture_pb2 import CaptureSpec
from callsd.v1.mattermost_pb2 import MattermostCall
from tests.conftest import StartDaemon
from tests.helpers.reasons import failure


TOKEN = "token-that-nobody-may-know"
END_SECONDS = 60.0


class Refusing(BaseHTTPRequestHandler):
    """A site that knows no token."""

    def do_GET(self) -> None:
        """Refuse."""
        self.send_error(HTTPStatus.UNAUTHORIZED)

    def do_POST(self) -> None:
        """Likewise."""
        self.send_error(HTTPStatus.UNAUTHORIZED)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Nobody reads it."""


@pytest.fixture
def site() -> Iterator[str]:
    """The address of such a site."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(timeout=5.0)


@pytest.mark.reason("CALL_UNAVAILABLE")
def test_token_is_refused(daemon: StartDaemon, site: str) -> None:
    """A site that refuses the token fails the capture at once, and the message says what to do."""
    client = daemon(is_real=True).client()
    call = MattermostCall(
        site_url=site, call_id="c" * 26, post_id="p" * 26, job_id="j" * 26, token=TOKEN
    )
    job = client.create_job(CaptureSpec(mattermost_call=call)).job
    ended = client.wait_job(job, timeout_seconds=END_SECONDS)

    assert failure(ended) == "CALL_UNAVAILABLE"
    assert "start the recording again" in ended.failure.message
    assert TOKEN not in str(ended)
