# SPDX-License-Identifier: Apache-2.0
"""Pages that reach nobody for a while."""

import http.server
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from callsd_worker.recorder import outages as module
from callsd_worker.recorder.outages import Outages
from callsd_worker.recorder.web_source import Page
from tests.helpers.recordings import recording_of


DISCONNECTED = "net::ERR_INTERNET_DISCONNECTED"

PAGE = b"""<!doctype html><script>
setInterval(() => fetch('/news').then(() => { window.isReady = true }, () => {}), 100)
</script>"""


class TestOutages:
    """What is counted."""

    def test_from_the_first_failure_to_the_last(self) -> None:
        """Outages are added up; what is too short, or no error of the network, is none."""
        now = SimpleNamespace(seconds=0.0)
        outages = Outages(clock=lambda: now.seconds)
        for moment, error in (
            (0, DISCONNECTED),
            (15, "Error in connection establishment: net::ERR_CONNECTION_REFUSED"),
            (20, ""),
            (100, DISCONNECTED),
            (105, DISCONNECTED),
            (110, ""),
            (200, "net::ERR_ABORTED"),
            (300, "net::ERR_ABORTED"),
            (400, "net::ERR_NETWORK_CHANGED"),
            (430, "net::ERR_NAME_NOT_RESOLVED"),
        ):
            now.seconds = moment
            if not error:
                outages.watch("Network.dataReceived", {})
            elif error.startswith("net"):
                outages.watch("Network.loadingFailed", {"errorText": error})
            else:
                outages.watch("Network.webSocketFrameError", {"errorMessage": error})

        assert outages.seconds == 15 + 30

    def test_one_failure_is_none(self) -> None:
        """Of a page that asked somebody once, in vain, nothing is known but that."""
        now = SimpleNamespace(seconds=0.0)
        outages = Outages(clock=lambda: now.seconds)
        outages.watch("Network.loadingFailed", {"errorText": DISCONNECTED})
        now.seconds = 3600.0

        assert outages.seconds == 0


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
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = Page(
        url=f"http://127.0.0.1:{server.server_address[1]}/", ready_expression="window.isReady"
    )

    with recording_of(page, tmp_path) as recording:
        recording.await_seconds(1)
        server.shutdown()
        server.server_close()
        recording.await_seconds(6)
        ending = recording.end()

    assert 1.0 < ending.unreachable_seconds < 30.0
    assert recording.join()[0].piece_count == 1
