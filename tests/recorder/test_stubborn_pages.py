# SPDX-License-Identifier: Apache-2.0
"""Pages that are not ready at the first try, print what nobody may read, or are private sites."""

import http.server
import logging
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from callsd_worker.recorder.console import MAX_LINE_CHARACTERS, MAX_LINES, Console
from callsd_worker.recorder.errors import Reason, RecordingError
from callsd_worker.recorder.quality import Quality
from callsd_worker.recorder.web_source import Page, WebSource


SMALL = Quality(width=640, height=360, fps=10, video_kbps=500, audio_kbps=64)
TOKEN = "qj75unbsef83ik9p7ueypb6iyw"


def never() -> bool:
    """Do not stop."""
    return False


class Site:
    """A server whose page is ready from the given visit on."""

    def __init__(self, *, ready_at: int = 1, certificate: Path | None = None) -> None:
        self.visits = 0
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/":
                    site.visits += 1
                body = (
                    "<!doctype html><script>"
                    f"console.log('joining with', {{authToken: '{TOKEN}'}}, '{TOKEN}');"
                    f"window.isReady = {str(site.visits >= ready_at).lower()}</script>"
                ).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://localhost:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """The site that a test describes."""
    site = Site(**request.param)
    yield site
    site.close()


class TestPatience:
    """A page that does not become ready."""

    @pytest.mark.parametrize("site", [{"ready_at": 2}], indirect=True)
    def test_another_browser_is_tried(self, site: Site) -> None:
        """A page that is not ready after a while is opened anew, and recorded when it is ready."""
        page = Page(
            url=site.url,
            ready_expression="window.isReady",
            ready_timeout_seconds=40.0,
            patience_seconds=2.0,
        )
        with WebSource(page, SMALL) as source:
            first = source._browser.process.pid
            source.open(should_stop=never)
            assert source._browser.process.pid != first
        assert site.visits == 2

    @pytest.mark.parametrize("site", [{}], indirect=True)
    def test_stop_while_waiting(self, site: Site) -> None:
        """Who waits for its turn to open a page can be stopped, and has not opened it."""
        page = Page(url=site.url, open_delay_seconds=600.0)
        asked = iter([False, False, True])
        with WebSource(page, SMALL) as source:
            began = time.monotonic()
            with pytest.raises(RecordingError) as caught:
                source.open(should_stop=lambda: next(asked))
            assert time.monotonic() - began < 60
        assert caught.value.reason is Reason.CANCELLED
        assert site.visits == 0


class TestConsole:
    """What a page prints."""

    @pytest.mark.parametrize("site", [{}], indirect=True)
    def test_is_logged_without_secrets(self, site: Site, caplog: pytest.LogCaptureFixture) -> None:
        """What a page prints is in the log, objects included, but for its token."""
        caplog.set_level(logging.INFO)
        page = Page(url=site.url, ready_expression="window.isReady", secrets=(TOKEN,))
        with WebSource(page, SMALL) as source:
            source.open(should_stop=never)
        assert "the page prints (log): joining with {authToken: ***} ***" in caplog.text
        assert TOKEN not in caplog.text

    def test_secret_across_the_cut(self) -> None:
        """A long line is cut after its secrets were taken out: no half of one stays."""
        console = Console([TOKEN])
        line = console.redacted("x" * (MAX_LINE_CHARACTERS - 10) + TOKEN)
        assert len(line) <= MAX_LINE_CHARACTERS
        assert TOKEN[:6] not in line

    def test_ice_passwords(self) -> None:
        """Passwords of connections are no news either."""
        assert Console([]).redacted("a=ice-pwd:Abc+/1 b") == "a=ice-pwd:*** b"

    def test_is_not_endless(self, caplog: pytest.LogCaptureFixture) -> None:
        """A page that prints without end fills no log."""
        caplog.set_level(logging.INFO)
        console = Console([])
        event = {"type": "log", "args": [{"type": "string", "value": "again"}]}
        told = [console.log(event) for _ in range(MAX_LINES + 5)]
        assert told.index(False) == MAX_LINES - 1
        assert len(caplog.records) == MAX_LINES + 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of a site that nobody knows."""
    path = tmp_path_factory.mktemp("tls") / "site.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(path), "-out", str(path.with_suffix(".crt"))),
        ],
        check=True,
        capture_output=True,
    )
    path.write_bytes(path.read_bytes() + path.with_suffix(".crt").read_bytes())
    return path


class TestPrivateSites:
    """Sites whose certificates only their owners trust."""

    def test_needs_its_certificate(self, certificate: Path) -> None:
        """Such a site is recorded when its certificate is given, and refused without."""
        site = Site(certificate=certificate)
        try:
            trusted = certificate.with_suffix(".crt").read_bytes()
            page = Page(url=site.url, ready_expression="window.isReady", certificates=trusted)
            with WebSource(page, SMALL) as source:
                source.open(should_stop=never)
            stranger = Page(url=site.url, ready_timeout_seconds=2.0)
            with WebSource(stranger, SMALL) as source, pytest.raises(RecordingError) as caught:
                source.open(should_stop=never)
            assert "ERR_CERT_AUTHORITY_INVALID" in caught.value.message
        finally:
            site.close()

    def test_what_is_no_certificate(self) -> None:
        """Certificates that are none are told, before a page is opened."""
        text = b"-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----\n"
        with pytest.raises(RecordingError) as caught:
            WebSource(Page(url="http://localhost:9/", certificates=text), SMALL)
        assert caught.value.reason is Reason.CAPTURE_UNAVAILABLE
        assert "gateway.ca_file" in caught.value.message
