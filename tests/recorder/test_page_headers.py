# SPDX-License-Identifier: Apache-2.0
"""Headers are secrets of one site: who gets them, and that they are in nobody's way."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from callsd_worker.recorder.errors import Reason, RecordingError
from callsd_worker.recorder.page_headers import PageHeaders
from callsd_worker.recorder.web_source import Page, WebSource
from tests.helpers.recordings import SMALL
from tests.helpers.waiting import eventually


NAME, VALUE = "X-Token", "0c9a-of-the-header"

PAGE = b"""<!doctype html><script>
const other = "http://localhost:PORT"; window.said = {};
const tell = (name, promise) => promise.then(x => said[name] = x, e => said[name] = `${e}`);
tell("own", fetch("/own", {headers: {"X-Own": "1"}}).then(x => x.text()));
tell("fetched", fetch(other + "/fetched").then(x => x.text()));
tell("posted", fetch(other + "/posted", {method: "POST", body: "x"}).then(x => x.text()));
tell("redirected", fetch("/away").then(x => x.text()));
for (const [name, kind] of [["script", "script"], ["image", "img"]]) {
  const one = document.createElement(kind);
  one.crossOrigin = "anonymous"; one.src = `${other}/${name}`;
  tell(name, new Promise((done, failed) => {
    one.onload = () => done("//ok"); one.onerror = failed;
  }));
  document.head.append(one);
}
</script>"""
IMAGE = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'


class Site:
    """Answers everybody, and allows every site to read its answers, but not to send headers."""

    def __init__(self, other_port: int = 0) -> None:
        self.seen: dict[str, str | None] = {}
        """What was sent for each path; for the preflight of one, its method before it."""
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.seen[self.path] = self.headers.get(NAME)
                self.send_response(302 if self.path == "/away" else 200)
                if self.path == "/away":
                    self.send_header("Location", f"http://localhost:{other_port}/came")
                self.send_header("Access-Control-Allow-Origin", "*")
                kinds = {"/": "text/html", "/image": "image/svg+xml", "/script": "text/javascript"}
                self.send_header("Content-Type", kinds.get(self.path, "text/plain"))
                self.end_headers()
                pages = {"/": PAGE.replace(b"PORT", str(other_port).encode()), "/image": IMAGE}
                self.wfile.write(pages.get(self.path, b"//ok"))

            do_POST = do_GET  # noqa: N815 - the name is the base class's

            def do_OPTIONS(self) -> None:
                site.seen[f"OPTIONS {self.path}"] = self.headers.get(
                    "Access-Control-Request-Headers"
                )
                self.send_error(405)

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def other() -> Iterator[Site]:
    """A third party, such as one that serves fonts."""
    site = Site()
    yield site
    site.close()


@pytest.fixture
def site(other: Site) -> Iterator[Site]:
    """The page's own site."""
    site = Site(other.port)
    yield site
    site.close()


def what_is_said(site: Site, *header_origins: str) -> dict[str, str]:
    """Show the page until it has asked for everything, and tell what it got."""
    page = Page(
        url=f"http://127.0.0.1:{site.port}/",
        headers={NAME: VALUE},
        header_origins=header_origins,
        ready_expression="Object.keys(said).length === 6",
    )
    with WebSource(page, SMALL) as source:
        source.open(should_stop=lambda: False)
        answer = source._browser._page("Runtime.evaluate", expression="said", returnByValue=True)
        eventually(lambda: "/own" in site.seen, "the page's own request")
    said: dict[str, str] = answer["result"]["value"]
    return said


WORKS = dict.fromkeys(("own", "fetched", "posted", "redirected", "script", "image"), "//ok")
THIRD_PARTY = ("/fetched", "/posted", "/came", "/script", "/image")


def test_the_pages_own_site_alone_gets_them(site: Site, other: Site) -> None:
    """Third parties get no header, not even by a redirect, nor are asked whether they want it."""
    assert what_is_said(site) == WORKS
    assert {site.seen[path] for path in ("/", "/own", "/away")} == {VALUE}
    assert other.seen == dict.fromkeys(THIRD_PARTY)


def test_a_site_that_is_named_gets_them_too(site: Site, other: Site) -> None:
    """Another origin that the headers are meant for gets them, without being asked before."""
    assert what_is_said(site, f"http://localhost:{other.port}") == WORKS
    assert other.seen == dict.fromkeys(THIRD_PARTY, VALUE)


@pytest.fixture(scope="module")
def empty() -> Iterator[WebSource]:
    """A browser that has not been shown a page."""
    with WebSource(Page(url="http://127.0.0.1/"), SMALL) as source:
        yield source


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://Example.com:443/a?b", "https://example.com"),
        ("http://example.com:8080", "http://example.com:8080"),
        ("http://[0:0::1]:80/", "http://[::1]"),
        ("http://127.1/", "http://127.0.0.1"),
        ("https://bücher.example/", "https://xn--bcher-kva.example"),
        ("https://straße.example/", "https://xn--strae-oqa.example"),
        ("http://1.2.3.4.5/", ""),
    ],
)
def test_an_origin_is_spelled_as_by_the_browser(empty: WebSource, url: str, expected: str) -> None:
    """Whatever is written in an address, its own requests are found by it."""
    assert empty._browser.scripts.origin(url) == expected


def test_what_no_request_can_match_is_refused() -> None:
    """Headers for an address that is none are not dropped without a word."""
    page = Page(
        url="http://127.0.0.1/", headers={NAME: VALUE}, header_origins=("http://1.2.3.4.5",)
    )
    with WebSource(page, SMALL) as source, pytest.raises(RecordingError) as caught:
        source.open(should_stop=lambda: False)
    assert caught.value.reason is Reason.FIELD_INVALID
    assert caught.value.message.startswith("header_origins is no address")


def test_ours_replace_those_of_the_page() -> None:
    """A header is sent once, whatever its capitals, and the page's others stay."""
    headers = PageHeaders({"x-token": "ours"}, ["http://localhost"])
    assert headers.added_to({"X-Token": "theirs", "Accept": "*/*"}) == [
        {"name": "Accept", "value": "*/*"},
        {"name": "x-token", "value": "ours"},
    ]
