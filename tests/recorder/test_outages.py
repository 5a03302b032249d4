# SPDX-License-Identifier: Apache-2.0
"""Pages that reach nobody for a while."""

import http.server
import itertools
import threading
import time
from pathlib import Path

import pytest

from callsd_worker.recorder import outages as module
from callsd_worker.recorder.outages import Outages
from callsd_worker.recorder.web_source import Page
from tests.helpers.recordings import recording_of


URL = "https://call.example/news"
DISCONNECTED = "net::ERR_INTERNET_DISCONNECTED"
TIMED_OUT = "net::ERR_CONNECTION_TIMED_OUT"

PAGE = b"""<!doctype html><script>
setInterval(() => fetch('/news').then(() => { window.isReady = true }, () => {}), 100)
</script>"""


class Browser:
    """Tells of requests, at the time that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.outages = Outages(clock=lambda: self.now)
        self._requests = itertools.count()

    def begin(self, seconds: float, url: str = URL) -> str:
        """A request is made."""
        self.now, request = seconds, str(next(self._requests))
        self.outages.watch(
            "Network.requestWillBeSent", {"requestId": request, "request": {"url": url}}
        )
        return request

    def end(self, seconds: float, request: str, event: str, **params: object) -> None:
        """It has this end."""
        self.now = seconds
        self.outages.watch(f"Network.{event}", {"requestId": request, **params})

    def answer(self, seconds: float, url: str = URL, **response: object) -> None:
        """It is answered."""
        self.end(seconds, self.begin(seconds, url), "responseReceived", response=response)

    def fail(
        self,
        seconds: float,
        url: str = URL,
        error: str = DISCONNECTED,
        request: str | None = None,
    ) -> None:
        """It fails; at once, or after it was begun."""
        request = request or self.begin(seconds, url)
        self.end(seconds, request, "loadingFailed", errorText=error)


@pytest.fixture
def browser() -> Browser:
    """One whose page has an answer."""
    browser = Browser()
    browser.answer(0)
    return browser


class TestOutages:
    """What is counted."""

    def test_from_the_first_failure_to_the_last(self, browser: Browser) -> None:
        """Outages are added up; what is too short is none."""
        for moment in (1, 6, 16):
            browser.fail(moment)
        browser.answer(20)
        browser.fail(100)
        browser.fail(105)
        browser.answer(110)
        browser.fail(400, error="net::ERR_NETWORK_CHANGED")
        browser.fail(430, error="net::ERR_NAME_NOT_RESOLVED")

        assert browser.outages.seconds == 15 + 30

    def test_sockets(self, browser: Browser) -> None:
        """A page that only tries to open its socket again reaches nobody, either."""
        for moment in (10, 20, 30):
            browser.now = moment
            browser.outages.watch("Network.webSocketCreated", {"requestId": "s", "url": URL})
            browser.outages.watch(
                "Network.webSocketFrameError",
                {"requestId": "s", "errorMessage": "failed: net::ERR_CONNECTION_REFUSED"},
            )

        assert browser.outages.seconds == 20

    def test_lost_without_a_word(self, browser: Browser) -> None:
        """What waits for minutes before it fails has reached nobody since it was asked for.

        Nor since somebody else was reached, for what was asked for before.
        """
        first = browser.begin(5)
        browser.answer(10)
        browser.fail(137, error=TIMED_OUT, request=first)
        browser.fail(265, error=TIMED_OUT, request=browser.begin(138))

        assert browser.outages.seconds == 265 - 10

    def test_what_is_kept_is_no_answer(self, browser: Browser) -> None:
        """Neither the browser's own disk nor what is within the page says that anybody is there."""
        for moment in range(10, 60, 5):
            browser.fail(moment)
            browser.answer(moment, fromDiskCache=True)
            browser.answer(moment, url="data:image/png;base64,AAAA")

        assert browser.outages.seconds == 45

    def test_who_never_answers_is_not_missed(self, browser: Browser) -> None:
        """A host that is blocked here for good is no outage of the page."""
        for moment in range(10, 600, 10):
            browser.fail(moment, url="https://telemetry.example/news")

        assert browser.outages.seconds == 0

    @pytest.mark.parametrize("error", ["net::ERR_ABORTED", "net::ERR_BLOCKED_BY_CLIENT"])
    def test_own_affairs(self, browser: Browser, error: str) -> None:
        """What a page gives up by itself has not failed."""
        browser.fail(10, error=error)
        browser.fail(40, error=error)

        assert browser.outages.seconds == 0

    def test_far_apart(self, browser: Browser) -> None:
        """Of a page that asks once an hour, in vain, nothing is known but that."""
        browser.fail(10)
        browser.fail(3610)

        assert browser.outages.seconds == 0

    def test_before_the_recording(self, browser: Browser) -> None:
        """What was before a page was ready is in no picture, and does not count."""
        browser.fail(10)
        browser.fail(40)
        browser.outages.restart()
        browser.fail(45)

        assert browser.outages.seconds == 0


class Handler(http.server.BaseHTTPRequestHandler):
    """The page, and its news."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def test_a_page_whose_server_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays in the picture, is not shown again, and the recording knows for how long."""
    monkeypatch.setattr(module, "MIN_SECONDS", 1.0)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        with recording_of(Page(url=url, ready_expression="window.isReady"), tmp_path) as recording:
            recording.await_seconds(1)
            gone = time.monotonic()
            server.shutdown()
            server.server_close()
            recording.await_seconds(6)
            ending = recording.end()

    assert 1.0 < ending.unreachable_seconds < time.monotonic() - gone
    assert recording.join()[0].piece_count == 1
